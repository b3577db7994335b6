"""The daemon against a real coordinator: its public TLS door, node keys, real child processes."""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from flwr.supercore.routers.runtime.router import router
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from client.institution import load_institution
from client.keys import generate_node_key
from client.service import daemon, looking
from client.service.daemon import _new_lines, serve
from client.watching.metrics import Link
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.service import daemon as coordinator_daemon
from server.service.operator import OperatorClient
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, EnrolmentError, ProcessError
from shared.federation import Federation
from shared.process.supervisor import Child, supervise
from simulations.demo import free_ports

WriteRecords = Callable[..., Path]


class Background:
    """A daemon's `serve` in a thread, and what it announced."""

    def __init__(self, run: Callable[..., None], what: object) -> None:
        self.stop, self.said, self.error = threading.Event(), list[str](), list[CollegiumError]()
        self.thread = threading.Thread(target=self._run, args=(run, what))

    def _run(self, run: Callable[..., None], what: object) -> None:
        try:
            run(what, stop=self.stop, announce=self.said.append)
        except CollegiumError as error:
            self.error.append(error)

    def __enter__(self) -> "Background":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def wait_for(self, words: str, count: int = 1, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while sum(words in line for line in self.said) < count:
            assert not self.error, self.error
            assert time.monotonic() < deadline, f"{words!r} was not announced: {self.said}"
            time.sleep(0.05)

    def wait_for_end(self, seconds: float = 120.0) -> CollegiumError:
        self.thread.join(seconds)
        assert self.error, self.said
        return self.error[0]


def test_the_daemon_does_without_torch() -> None:
    """A mistake is told at once, and while the executor works the daemon takes no memory for it."""
    heavy = "('torch', 'transformers', 'peft')"
    code = f"import sys, client.service.daemon; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def make_coordinator(folder: Path) -> ServerHome:
    public, operator = free_ports(2)
    return init_home(folder, hosts=["localhost"], public_port=public, operator_port=operator)


@contextlib.contextmanager
def coordinating(home: ServerHome) -> Iterator[Background]:
    with Background(coordinator_daemon.serve, home) as running:
        running.wait_for("server is up")
        yield running


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    home = make_coordinator(tmp_path_factory.mktemp("coordinator") / "home")
    with coordinating(home):
        yield home


@pytest.fixture
def institution(
    tmp_path: Path,
    coordinator: ServerHome,
    tiny_federation: Callable[..., Federation],
    write_records: WriteRecords,
) -> Callable[..., Path]:
    """Makes a complete site: key, CA, approved federation, data; keyword tables change institution.toml."""

    def make(**tables: dict[str, Any]) -> Path:
        federation = tiny_federation()
        (tmp_path / "federation.toml").write_text(
            tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
        )
        (tmp_path / "ca.crt").write_bytes(coordinator.ca_certificate.read_bytes())
        generate_node_key(tmp_path / "node.key")
        values: dict[str, Any] = {
            "name": "hospital",
            "server": {"address": f"localhost:{read_settings(coordinator).public_port}"},
            "data": {"clauses": {"train": str(write_records(tmp_path / "clauses.jsonl", "clauses"))}},
        }
        path = tmp_path / "institution.toml"
        path.write_text(tomli_w.dumps(values | tables), encoding="utf-8")
        return path

    return make


def supervise_supernode(children: Sequence[Child], **options: Any) -> None:
    """Leave the executor out: it takes seconds to load PyTorch."""
    supervise(children[:1], **options)


@pytest.fixture
def only_supernode(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about the executor."""
    monkeypatch.setattr(daemon, "supervise", supervise_supernode)


def enrol(coordinator: ServerHome, file: Path, name: str) -> None:
    with OperatorClient(coordinator) as operator:
        operator.register_node(name, read_public_key(file.parent / "node.pub"))


def processes(state: Path) -> dict[int, str]:
    """Processes whose command line names the state folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(state) in command:
                found[int(path.parent.name)] = command
    return found


def test_a_proxy_is_named_where_it_matters(institution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = institution(server={"address": "fl.example.test:8443"})
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.test:3128")
    said: list[str] = []
    daemon._announce_connection(load_institution(file), said.append, Link(), iter(["Connection attempt failed"]))
    assert said == [
        "The coordinator at fl.example.test:8443 cannot be reached through the proxy http://proxy.test:3128; "
        "trying again until it can."
    ]
    monkeypatch.setenv("HTTPS_PROXY", "::::")
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        daemon.serve(file, stop=threading.Event(), announce=said.append)


@pytest.mark.slow
def test_a_site_comes_up_comes_back_and_goes_without_a_trace(
    coordinator: ServerHome, institution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = institution()
    state = file.parent / "state"
    enrol(coordinator, file, "comes-up")
    with Background(serve, file) as running:
        running.wait_for("hospital is connected")
        running.wait_for("hospital is ready")
        secret = state / "superexec.secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        first_secret = secret.read_text()
        (executor,) = (pid for pid, command in processes(state).items() if "client.service.executor" in command)
        os.kill(executor, signal.SIGKILL)
        running.wait_for("executor was killed by SIGKILL")
        running.wait_for("hospital is ready", count=2)
        began = time.monotonic()
        running.stop.set()
        running.thread.join(10)
        assert time.monotonic() - began < 5
    assert running.error == []
    assert processes(state) == {}
    monkeypatch.setattr(daemon, "supervise", supervise_supernode)
    again = Background(serve, file)
    with again:
        again.wait_for("hospital is connected")  # the lock was freed
        assert secret.read_text() != first_secret


@pytest.mark.slow
@pytest.mark.usefixtures("only_supernode")
def test_a_key_that_is_not_enrolled_is_said_once_and_tried_until_it_is(
    coordinator: ServerHome, institution: Callable[..., Path]
) -> None:
    file = institution()
    log = file.parent / "state" / "logs" / "supernode.log"
    with Background(serve, file) as running:
        running.wait_for("not enrolled")
        while log.read_text().count("Failed to activate") < 2:
            time.sleep(0.1)
        assert len(running.said) == 1
        assert "node.pub" in running.said[0]
        enrol(coordinator, file, "enrolled-late")
        running.wait_for("hospital is connected")
    assert processes(file.parent) == {}


@pytest.mark.usefixtures("only_supernode")
def test_the_loopback_interface_says_nothing_without_its_secret(
    coordinator: ServerHome, institution: Callable[..., Path]
) -> None:
    """Before, /docs and /openapi.json were served to every user of the machine, by Flower's default."""
    (port,) = free_ports(1)
    file = institution(runtime={"port": port})
    enrol(coordinator, file, "loopback")
    with Background(serve, file) as running:
        running.wait_for("hospital is connected")
        url = f"http://127.0.0.1:{port}"
        for path in ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"):
            assert httpx.get(url + path).status_code == 404, path
        paths = [route.path for route in router.routes if isinstance(route, APIRoute)]
        assert len(paths) > 8
        version = RuntimeVersionMetadata.from_local_component("flwr-clientapp")
        headers = {"content-type": "application/protobuf", **dict(version.as_metadata())}
        for path in paths:
            answer = httpx.post(url + path, headers=headers, content=b"")
            assert answer.status_code in (401, 403), (path, answer.status_code, answer.text)


@pytest.mark.slow
@pytest.mark.usefixtures("only_supernode")
def test_a_killed_supernode_is_let_in_again(coordinator: ServerHome, institution: Callable[..., Path]) -> None:
    file = institution()
    enrol(coordinator, file, "killed")
    with Background(serve, file) as running:
        running.wait_for("hospital is connected")
        (supernode,) = (
            pid for pid, line in processes(file.parent / "state").items() if "client.service.supernode" in line
        )
        os.kill(supernode, signal.SIGKILL)
        running.wait_for("hospital is connected", count=2, seconds=150)  # Flower refuses it for about a minute


@pytest.mark.slow
@pytest.mark.usefixtures("only_supernode")
def test_a_revoked_key_ends_the_daemon(coordinator: ServerHome, institution: Callable[..., Path]) -> None:
    file = institution()
    enrol(coordinator, file, "revoked")
    with Background(serve, file) as running:
        running.wait_for("hospital is connected")
        with OperatorClient(coordinator) as operator:
            (node,) = (node for node in operator.nodes() if node.name == "revoked")
            operator.unregister_node(node.node_id)
        error = running.wait_for_end()
    assert isinstance(error, ProcessError)
    assert "has revoked it" in str(error)


@pytest.mark.slow
@pytest.mark.usefixtures("only_supernode")
def test_a_coordinator_with_another_ca_is_waited_for_until_the_right_ca_is_there(
    coordinator: ServerHome, institution: Callable[..., Path], tmp_path: Path
) -> None:
    file = institution()
    enrol(coordinator, file, "other-ca")
    stranger = make_coordinator(tmp_path / "stranger")
    (tmp_path / "ca.crt").write_bytes(stranger.ca_certificate.read_bytes())
    with Background(serve, file) as running:
        running.wait_for("vouches for")
        assert "unable to get local issuer certificate" in running.said[0]
        (tmp_path / "ca.crt").write_bytes(coordinator.ca_certificate.read_bytes())
        running.wait_for("hospital is connected")
    assert sum("vouches for" in line for line in running.said) == 1


@pytest.mark.usefixtures("only_supernode")
def test_a_federation_file_that_changes_is_spoken_of(
    institution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "WATCH_SECONDS", 0.05)
    file = institution(server={"address": "127.0.0.1:1"})
    agreement = file.parent / "federation.toml"
    with Background(serve, file) as running:
        running.wait_for("cannot be reached")
        agreement.write_text(agreement.read_text() + "# a comment\n")
        time.sleep(0.3)
        agreement.write_text(agreement.read_text().replace("count = 2", "count = 3"))
        running.wait_for("answers under that")
    assert sum("federation.toml has changed" in line for line in running.said) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("only_supernode")
def test_an_unreachable_coordinator_is_announced_once_and_waited_for(
    institution: Callable[..., Path], tmp_path: Path
) -> None:
    late = make_coordinator(tmp_path / "late")
    file = institution(server={"address": f"localhost:{read_settings(late).public_port}"})
    (tmp_path / "ca.crt").write_bytes(late.ca_certificate.read_bytes())
    with coordinating(late):
        enrol(late, file, "late")  # before the site starts: a coordinator that is up refuses a key it does not know
    log = file.parent / "state" / "logs" / "supernode.log"
    with Background(serve, file) as running:
        running.wait_for("cannot be reached")
        while log.read_text().count("Connection attempt failed") < 3:
            time.sleep(0.1)
        assert len(running.said) == 1
        with coordinating(late):
            running.wait_for("hospital is connected")


def test_a_taken_port_is_a_clear_error(institution: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionFailedError, match=f"port {port}.*runtime.port"):
            serve(institution(runtime={"port": port}), stop=threading.Event(), announce=print)


def test_a_port_that_was_found_is_given_to_nobody_else(institution: Callable[..., Path]) -> None:
    """Until the SuperNode listens, which takes seconds, and while it is started anew."""
    site = load_institution(institution())
    with daemon.runtime_port(site) as port:
        for _ in range(2):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            server = uvicorn.Server(uvicorn.Config(FastAPI(), port=port, log_level="critical", ws="none"))
            thread = threading.Thread(target=server.run)  # as Flower's SuperNode serves its executor
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            server.should_exit = True
            thread.join()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_a_second_daemon_on_the_same_state_is_refused(institution: Callable[..., Path]) -> None:
    file = institution()
    (file.parent / "state").mkdir()
    with (file.parent / "state" / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"already serves it.*runtime\.state"):
            serve(file, stop=threading.Event(), announce=print)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("node.key", None, "cannot be read.*keygen"),
        ("node.key", "junk", "something else.*keygen"),
        ("ca.crt", None, "cannot be read.*get ca.crt"),
        ("ca.crt", "junk", "something else.*get ca.crt"),
    ],
)
def test_missing_or_broken_credentials_are_clear_errors(
    institution: Callable[..., Path], name: str, content: str | None, words: str
) -> None:
    file = institution()
    (file.parent / name).unlink()
    if content is not None:
        (file.parent / name).write_text(content)
    with pytest.raises(EnrolmentError, match=words):
        serve(file, stop=threading.Event(), announce=print)


def test_the_executor_is_given_the_threads_that_are_set(institution: Callable[..., Path]) -> None:
    def environment(**runtime: int) -> dict[str, str]:
        site = load_institution(file)
        site = site.model_copy(update={"runtime": site.runtime.model_copy(update=runtime)})
        _, executor = daemon._children(file, site, 1, Path("secret"))
        return dict(executor.env)

    file = institution()
    assert environment(threads=3)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(threads=0)


@pytest.mark.slow
def test_news_goes_on_when_the_log_begins_anew(tmp_path: Path) -> None:
    path, done = tmp_path / "log", threading.Event()
    path.write_text("")
    with path.open("a+", encoding="utf-8") as log:
        lines = _new_lines(log, done)
        with path.open("a") as writer:
            writer.write("one\n" + "x" * 100 + "\n")
        assert [next(lines), next(lines)] == ["one", "x" * 100]
        os.truncate(path, 0)
        with path.open("a") as writer:
            writer.write("two\n")
        assert next(lines) == "two"
