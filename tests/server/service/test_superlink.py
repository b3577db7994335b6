import asyncio
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from server.door.allowances import Allowances
from server.door.authentication import Authenticator, Sender
from server.door.crowd import Crowd
from server.door.fleet import Asked
from server.door.limits import MessageLimits
from server.door.public import FleetJudge, public_door
from server.door.speech import Speech
from server.enrolment.authority import create_authority
from server.home import ServerHome, read_settings
from server.service.listeners import open_listeners
from server.service.operator import Node, OperatorClient
from server.service.superlink import main as superlink_main
from server.service.superlink import operator_door, two_doors
from shared.errors import ConnectionFailedError
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes
from shared.flower.messages import Node as NodeId
from shared.flower.messages import PullMessagesRequest
from shared.flower.superlink import PROTOBUF_REQUEST_TYPES
from shared.process.flower import flower_command, flower_environment
from shared.signing import HEADER, sign_request
from simulations.attacks.coordinator import PROTOBUF, flower_signed, forked
from simulations.demo import free_ports

Forked = Callable[..., "subprocess.CompletedProcess[str]"]
FLEET_ROUTES = sorted(path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/"))
CONTROL_ROUTES = sorted(path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/control/"))
RUNTIME_ROUTES = sorted(path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/runtime/"))
DOCUMENTS = ["/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc", "/"]
CLOSED_ROUTES = ["/v1/fleet/register-node", "/v1/fleet/unregister-node"]
OPEN_ROUTES = [path for path in FLEET_ROUTES if path not in CLOSED_ROUTES]
KEY_HEADER = (b"flwr-public-key", b"x")


# --- The doors by themselves ------------------------------------------------------------------------------------------


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def ask(door: Any, scope: Scope) -> int | str | Scope:
    """Status of the door's answer, or the scope with which it called the app behind it, or how it closed."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(door(scope, _nothing, send))
    if sent and sent[0]["type"] == "reached":
        return dict(sent[0]["scope"])
    return int(sent[0]["status"]) if sent and "status" in sent[0] else "closed"


async def reached(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached", "scope": scope})


class NobodyEnrolled:
    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        return None

    def was_revoked(self, public_key: bytes) -> bool:
        return False


def judge() -> FleetJudge:
    """A coordinator's that has enrolled nobody; it asks its database nothing."""
    authenticator = Authenticator(NobodyEnrolled(), body_signature=True)
    return FleetJudge(authenticator, Speech(None, MessageLimits(2**20)), Crowd(), Allowances())  # type: ignore[arg-type]


async def lets_all_in(scope: Scope, receive: Receive) -> Asked:
    return Asked(scope["path"], None, Sender(7, b"", None))


async def answered(asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached", "scope": scope, "asked": asked})


def http(path: str, *headers: tuple[bytes, bytes], port: int = 8443) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": list(headers), "server": ("127.0.0.1", port)}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/./pull-messages",
        "/v1/fleet//pull-messages",
        "//v1/fleet/pull-messages",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/pull-messages?x=/v1/control/list-nodes",
        "/v1/fleet/pull-messages#",
        "/v1/fleet/pull-messages\n",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet\\..\\control\\list-nodes",
        "/v1/fleet/pull-messages;x",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/pull_messages",
        "http://other/v1/fleet/pull-messages",
        "/health/",
        "/healthz",
        "",
        *DOCUMENTS,
    ],
)
def test_tricks_with_the_path_end_at_the_public_door(path: str) -> None:
    assert ask(public_door(judge(), answered), http(path, KEY_HEADER)) == 404


def test_what_the_public_door_passes() -> None:
    assert ask(public_door(judge(), answered), http("/v1/fleet/pull-messages")) == 401
    assert ask(public_door(judge(), answered), http("/v1/fleet/pull-messages", KEY_HEADER)) == 401
    assert isinstance(ask(public_door(lets_all_in, answered), http("/v1/fleet/pull-messages")), dict)
    assert ask(public_door(judge(), answered), http("/v1/fleet/pull-messages") | {"method": "GET"}) == 404


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "something"])
def test_only_plain_http_passes_a_door(kind: str) -> None:
    scope = http("/v1/fleet/pull-messages", KEY_HEADER) | {"type": kind}
    assert ask(public_door(lets_all_in, answered), scope) == "closed"
    assert ask(operator_door(reached, "token", reached, reached), scope) == "closed"


def test_flower_sees_the_path_that_the_door_judged() -> None:
    path = "/v1/control/list-nodes"
    sly = http(path, (b"authorization", b"Bearer token"), (b"host", b"x/v1/runtime/pull-object?"))
    scope = ask(operator_door(reached, "token", inside, page), sly | {"root_path": "/v1"})
    assert isinstance(scope, dict)
    assert Request(scope).url.path == scope["path"] == path
    assert scope["root_path"] == ""
    assert b"host" not in dict(scope["headers"])


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached", "scope": {**scope, "inside": True}})


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached", "scope": {**scope, "page": True}})


def test_the_page_asks_for_the_token_itself_and_only_its_own_paths_reach_it() -> None:
    door = operator_door(reached, "secret", inside, page)
    for path in ("/page", "/page/", "/page/sign-in", "/page/../v1/control/list-nodes"):
        assert ask(door, http(path))["page"]  # type: ignore[index]
    for path in ("/pages", "/Page/", "//page/", "/v1/page/"):
        assert ask(door, http(path)) == 401


def test_collegiums_own_requests_need_the_token_and_never_reach_flower() -> None:
    door = operator_door(reached, "secret", inside, page)
    assert ask(door, http("/v1/collegium/answered")) == 401
    scope = ask(door, http("/v1/collegium/anything", (b"authorization", b"Bearer secret")))
    assert isinstance(scope, dict)
    assert scope["inside"]
    assert ask(public_door(judge(), answered), http("/v1/collegium/answered", KEY_HEADER)) == 404


@pytest.mark.parametrize(
    ("header", "passes"),
    [
        ((b"authorization", b"Bearer secret"), True),
        ((b"authorization", b"bearer secret"), False),
        ((b"authorization", b"Bearer secret "), False),
        ((b"authorization", b"Bearer secre"), False),
        ((b"authorization", b"Bearer "), False),
        ((b"authorization", b"Bearer \xff"), False),
        ((b"authorization", b"secret"), False),
        ((b"x-token", b"secret"), False),
    ],
)
def test_the_operator_door_wants_exactly_the_token(header: tuple[bytes, bytes], passes: bool) -> None:
    answer = ask(operator_door(reached, "secret", inside, page), http("/v1/control/list-nodes", header))
    assert isinstance(answer, dict) if passes else answer == 401


@pytest.mark.parametrize("path", ["/v1/runtime/../control/list-nodes", "/v1/runtime//x", "/v1/runtime/", "/health/x"])
def test_tricks_with_the_path_need_the_token_at_the_operator_door(path: str) -> None:
    assert ask(operator_door(reached, "secret", inside, page), http(path)) == 401


def test_the_port_of_the_socket_chooses_the_door() -> None:
    public, operator = public_door(judge(), answered), operator_door(reached, "secret", inside, page)
    doors = two_doors(reached, public, operator, operator_port=8000)
    assert ask(doors, http("/docs", port=8443)) == 404
    assert ask(doors, http("/docs", port=8000)) == 401
    assert ask(doors, http("/docs") | {"server": None}) == 404
    assert isinstance(ask(doors, {"type": "lifespan"}), dict)


# --- Both doors over real TLS -----------------------------------------------------------------------------------------


class Doors:
    """Clients of a served folder, one per door."""

    def __init__(self, home: ServerHome) -> None:
        settings = read_settings(home)
        self.home = home
        trusted = ssl.create_default_context(cafile=str(home.ca_certificate))
        self.public = httpx.Client(base_url=f"https://localhost:{settings.public_port}", verify=trusted)
        self.operator = httpx.Client(base_url=f"https://127.0.0.1:{settings.operator_port}", verify=trusted)
        self.token = {"authorization": f"Bearer {home.operator_token}"}
        self.public_port = settings.public_port


@pytest.fixture(scope="module")
def doors(served_home: ServerHome) -> Iterator[Doors]:
    both = Doors(served_home)
    with both.public, both.operator:
        yield both


def test_there_are_routes_to_test() -> None:
    assert {"/v1/fleet/register-node", "/v1/fleet/pull-messages"} <= set(FLEET_ROUTES)
    assert "/v1/control/start-run" in CONTROL_ROUTES
    assert "/v1/runtime/acquire-task" in RUNTIME_ROUTES


@pytest.mark.parametrize("path", [*CONTROL_ROUTES, *RUNTIME_ROUTES, *DOCUMENTS, "/v1/responses"])
def test_the_public_door_hides_everything_but_the_fleet(doors: Doors, path: str) -> None:
    unknown = doors.public.post("/no-such-thing", headers=PROTOBUF)
    for answer in (doors.public.post(path, headers=PROTOBUF | doors.token), doors.public.get(path)):
        assert (answer.status_code, answer.content) == (404, unknown.content)


@pytest.mark.parametrize("path", OPEN_ROUTES)
def test_the_fleet_needs_a_key(doors: Doors, path: str) -> None:
    assert doors.public.post(path, headers=PROTOBUF).status_code == 401
    assert doors.public.get(path).status_code == 404


@pytest.mark.parametrize("path", [*CLOSED_ROUTES, "/v1/fleet/unknown"])
def test_who_is_enrolled_is_not_the_fleets_to_say(doors: Doors, path: str) -> None:
    assert doors.public.post(path, headers=PROTOBUF).status_code == 404


@pytest.mark.parametrize("path", OPEN_ROUTES)
def test_a_forged_key_is_refused(doors: Doors, path: str) -> None:
    forged = {"flwr-public-key": "AAAA", "flwr-signature": "AAAA", "flwr-timestamp": "2026-01-01T00:00:00+00:00"}
    assert doors.public.post(path, headers=PROTOBUF | forged).status_code == 401


def signed(doors: Doors, path: str, message: Any, pair: tuple[Any, ec.EllipticCurvePublicKey]) -> int:
    """Status of a fleet request that is signed as Collegium's daemon signs it."""
    request = doors.public.build_request("POST", path, content=message.SerializeToString(), headers=PROTOBUF)
    request.headers[HEADER] = sign_request(pair[0], "POST", path, request.content)
    return doors.public.send(flower_signed(request, *pair)).status_code


def test_a_good_signature_with_a_key_that_is_not_enrolled_is_refused(doors: Doors) -> None:
    pair = generate_key_pairs()
    statuses = {path: signed(doors, path, PROTOBUF_REQUEST_TYPES["POST", path](), pair) for path in OPEN_ROUTES}
    # A SuperNode says by this one answer why it cannot connect.
    assert statuses.pop("/v1/fleet/activate-node") == 412
    assert set(statuses.values()) == {401}
    with OperatorClient(doors.home) as client:
        assert all(node.status != "online" for node in client.nodes())


def test_an_enrolled_key_passes_until_it_is_revoked_and_not_for_another_node(doors: Doors) -> None:
    pair, other = generate_key_pairs(), generate_key_pairs()
    with OperatorClient(doors.home) as client:
        node_id = client.register_node("passes", public_key_to_bytes(pair[1]))
        client.register_node("other", public_key_to_bytes(other[1]))
        pull = PullMessagesRequest(node=NodeId(node_id=node_id))
        assert signed(doors, "/v1/fleet/pull-messages", pull, pair) == 200
        assert signed(doors, "/v1/fleet/pull-messages", pull, other) == 401
        client.unregister_node(node_id)
        assert signed(doors, "/v1/fleet/pull-messages", pull, pair) == 401


@pytest.mark.parametrize("path", [*CONTROL_ROUTES, *FLEET_ROUTES, *DOCUMENTS, "/v1/unknown"])
def test_the_operator_door_needs_the_token(doors: Doors, path: str) -> None:
    wrong = {"authorization": "Bearer wrong"}
    for headers in (PROTOBUF, PROTOBUF | wrong):
        assert doors.operator.post(path, headers=headers).status_code == 401
        assert doors.operator.get(path, headers=headers).status_code == 401


@pytest.mark.parametrize("path", FLEET_ROUTES)
def test_the_operator_is_no_institution(doors: Doors, path: str) -> None:
    assert doors.operator.post(path, headers=PROTOBUF | doors.token).status_code == 404


@pytest.mark.parametrize("path", RUNTIME_ROUTES)
def test_flower_protects_its_runtime_itself(doors: Doors, path: str) -> None:
    assert doors.operator.post(path, headers=PROTOBUF).status_code == 401


def test_the_token_and_health_open_the_operator_door(doors: Doors) -> None:
    assert doors.operator.post("/v1/control/list-nodes", headers=PROTOBUF | doors.token).status_code == 200
    assert doors.operator.get("/docs", headers=doors.token).status_code == 200
    assert doors.operator.get("/health/live").status_code == doors.public.get("/health/live").status_code == 200
    assert doors.operator.get("/health").status_code == doors.public.get("/health").status_code == 503, "no SuperExec"


def raw(doors: Doors, request: bytes) -> bytes:
    """First line of the answer to bytes that no HTTP library would send."""
    trusted = ssl.create_default_context(cafile=str(doors.home.ca_certificate))
    with (
        socket.create_connection(("127.0.0.1", doors.public_port), timeout=5) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(request)
        return connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/fleet/../control/list-nodes",
        b"/v1/fleet/%2e%2e/control/list-nodes",
        b"/v1/fleet%2f..%2fcontrol%2flist-nodes",
        b"/v1/fleet/..%2fcontrol/list-nodes",
        b"//v1/control/list-nodes",
        b"/v1//control/list-nodes",
        b"/%76%31/control/list-nodes",
        b"/v1/control/list-nodes?/v1/fleet/pull-messages",
        b"/v1/control/list-nodes#/v1/fleet/pull-messages",
        b"http://localhost/v1/control/list-nodes",
        b"https://localhost/openapi.json",
    ],
)
def test_tricks_with_raw_requests(doors: Doors, target: bytes) -> None:
    request = b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\nflwr-public-key: x\r\n"
    request += b"Content-Type: application/protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert raw(doors, request).split()[1] in (b"404", b"400")


@pytest.mark.parametrize(
    "host", [b"x/v1/runtime/pull-object?", b"x/v1/control/list-nodes#", b"localhost/health?", b"", b"a b"]
)
def test_a_crafted_host_does_not_pass_the_key_check(doors: Doors, host: bytes) -> None:
    request = b"POST /v1/fleet/pull-object HTTP/1.1\r\nHost: " + host + b"\r\nflwr-public-key: x\r\n"
    request += b"Content-Type: application/protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert raw(doors, request).split()[1] in (b"401", b"400")


def test_forwarding_headers_do_not_move_a_request_to_the_other_door(doors: Doors) -> None:
    forwarded = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "127.0.0.1:8000"}
    answer = doors.public.post("/v1/control/list-nodes", headers=PROTOBUF | doors.token | forwarded)
    assert answer.status_code == 404


def test_a_websocket_is_not_opened(doors: Doors) -> None:
    request = (
        b"GET /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    )
    request += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert raw(doors, request).split()[1] == b"404"


def test_plain_http_and_another_authority_are_refused(doors: Doors) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{doors.public_port}/health")
    stranger = ssl.create_default_context(cadata=create_authority().certificate.decode())
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{doors.public_port}/health", verify=stranger)


def test_answers_are_not_held_back_by_nagle(doors: Doors) -> None:
    doors.public.get("/health")
    began = time.monotonic()
    for _ in range(20):
        doors.public.get("/health")
    assert (time.monotonic() - began) / 20 < 0.035


# --- Stock SuperNodes -------------------------------------------------------------------------------------------------


def supernode(home: ServerHome, folder: Path, key: Path, ca: Path) -> subprocess.Popen[str]:
    (port,) = free_ports(1)
    return subprocess.Popen(
        [
            flower_command("flower-supernode"),
            "--superlink",
            f"localhost:{read_settings(home).public_port}",
            *("--root-certificates", str(ca)),
            *("--auth-supernode-private-key", str(key)),
            *("--isolation", "process", "--host", "127.0.0.1", "--port", str(port)),
        ],
        env={**os.environ, **flower_environment(folder / "flower")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_key(folder: Path) -> tuple[Path, bytes]:
    private, public = generate_key_pairs()
    path = folder / "node.key"
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    return path, public_key_to_bytes(public)


@pytest.mark.slow
def test_a_stock_supernode_connects_once_it_is_enrolled_where_it_is_let_in(home: ServerHome, tmp_path: Path) -> None:
    settings = home.settings_file.read_text(encoding="utf-8")
    assert "require_body_signature = true" in settings
    home.settings_file.write_text(settings.replace("signature = true", "signature = false"), encoding="utf-8")
    key, public = write_key(tmp_path)
    with forked(home), OperatorClient(home) as client:
        refused = supernode(home, tmp_path, key, home.ca_certificate)
        output, _ = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert "Failed to activate SuperNode" in output

        client.register_node("stock", public)
        accepted = supernode(home, tmp_path, key, home.ca_certificate)
        try:
            node = wait_until_online(client, "stock", accepted)
            assert node.status == "online"
            assert node.last_seen is not None
            assert abs(node.last_seen.timestamp() - time.time()) < 30
        finally:
            accepted.terminate()
            accepted.communicate(timeout=30)


def wait_until_online(client: OperatorClient, name: str, process: "subprocess.Popen[str]") -> Node:
    end = time.monotonic() + 60
    while True:
        (node,) = [node for node in client.nodes() if node.name == name]
        if node.status == "online" or time.monotonic() > end or process.poll() is not None:
            return node
        time.sleep(0.1)


@pytest.mark.slow
def test_a_stock_supernode_is_not_let_in_otherwise(home: ServerHome, superlink: object, tmp_path: Path) -> None:
    key, public = write_key(tmp_path)
    with OperatorClient(home) as client:
        client.register_node("stock", public)
        refused = supernode(home, tmp_path, key, home.ca_certificate)
        refused.communicate(timeout=60)
        assert all(node.status != "online" for node in client.nodes() if node.name == "stock")
    # A server of its own, since refusals are few lines a minute in the log.
    assert "require_body_signature" in (home.logs / "superlink.log").read_text()


def test_a_stock_supernode_refuses_another_authority(served_home: ServerHome, tmp_path: Path) -> None:
    key, _ = write_key(tmp_path)
    (tmp_path / "other.crt").write_bytes(create_authority().certificate)
    process = supernode(served_home, tmp_path, key, tmp_path / "other.crt")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "SSL/TLS handshake error" in output


# --- The process ------------------------------------------------------------------------------------------------------


def run_superlink(root: Path) -> None:
    sys.exit(superlink_main(["--home", str(root)]))


@pytest.mark.parametrize("setting", ["public_port", "operator_port"])
def test_a_port_in_use_is_named(home: ServerHome, in_a_fork: Forked, setting: str) -> None:
    port = getattr(read_settings(home), setting)
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ConnectionFailedError, match=rf"127\.0\.0\.1:{port}.*{setting}"):
            open_listeners(read_settings(home))
        ended = in_a_fork(run_superlink, home.root)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Expected to listen on")
    assert "Traceback" not in ended.stderr
    for listener in open_listeners(read_settings(home)):
        listener.close()


def test_a_damaged_database_and_key_are_named(home: ServerHome, in_a_fork: Forked) -> None:
    home.superlink_database.write_bytes(b"no database" * 1000)
    ended = in_a_fork(run_superlink, home.root)
    assert (ended.returncode, ended.stderr.count("superlink.db")) == (1, 1), ended.stderr
    home.superlink_database.unlink()
    home.server_key.write_text("no key")
    ended = in_a_fork(run_superlink, home.root)
    assert ended.returncode == 1
    assert "server.key" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_sigterm_ends_it_cleanly_even_with_a_client_connected(
    home: ServerHome, superlink: subprocess.Popen[bytes]
) -> None:
    trusted = ssl.create_default_context(cafile=str(home.ca_certificate))
    with httpx.Client(verify=trusted) as client:
        client.get(f"https://127.0.0.1:{read_settings(home).public_port}/health")
        began = time.monotonic()
        superlink.terminate()
        assert superlink.wait(timeout=20) == 0
    assert time.monotonic() - began < 6
    log = (home.logs / "superlink.log").read_text()
    assert log.count("Application shutdown complete") == 1
    assert "Traceback" not in log
