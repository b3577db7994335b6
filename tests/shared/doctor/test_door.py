"""What a door's one answer means: good, slow or fast clocks, certificates that end, nobody there, another one there."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from server.enrolment import authority
from server.enrolment.authority import create_authority, issue_server_certificate
from shared.doctor.door import Door, check_clock, check_health, check_name, check_tls, look_at_door


class Answer(BaseHTTPRequestHandler):
    """Healthy."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path, *, days: int = 100) -> Iterator[tuple[str, Path]]:
    """A door with a certificate that is good for some days; its address and CA."""
    issuer = create_authority("of a test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authority, "SERVER_DAYS", days)
        issued = issue_server_certificate(issuer, ["localhost"])
    for name, content in (("ca.crt", issuer.certificate), ("both.pem", issued.certificate + issued.key)):
        (folder / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    server = HTTPServer(("127.0.0.1", 0), Answer)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", folder / "ca.crt"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_door_that_is_well(tmp_path: Path) -> None:
    with served(tmp_path) as (address, ca):
        door = look_at_door(address, ca)
    assert (door.status, door.days) == (200, 99)
    assert door.ahead is not None
    assert abs(door.ahead) < 5
    assert [check(door).verdict for check in (check_health, check_tls, check_clock)] == ["ok"] * 3


def test_a_certificate_that_ends_soon_and_one_of_another_authority(tmp_path: Path) -> None:
    with served(tmp_path, days=10) as (address, ca):
        found = check_tls(look_at_door(address, ca))
        assert (found.verdict, "ends in 9 days" in found.text) == ("warning", True)
        ca.write_bytes(create_authority("of another").certificate)
        stranger = look_at_door(address, ca)
    assert (check_tls(stranger).verdict, check_health(stranger).verdict) == ("error", "warning")
    assert "certificate" in stranger.untrusted


def test_nobody_there_is_for_the_coordinator_to_mend(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(create_authority("of a test").certificate)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    door = look_at_door(f"127.0.0.1:{port}", tmp_path / "ca.crt")
    assert "refused" in door.unreachable
    assert [check(door).verdict for check in (check_health, check_tls, check_clock)] == ["warning"] * 3


def test_a_proxy_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.crt").write_bytes(create_authority("of a test").certificate)
    monkeypatch.setenv("HTTPS_PROXY", "http://[")
    assert check_name("fl.example.org:8443").verdict == "error"
    assert "HTTPS_PROXY" in look_at_door("fl.example.org:8443", tmp_path / "ca.crt").unreachable
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example.org:3128")
    found = check_name("fl.example.org:8443")
    assert (found.verdict, "proxy.example.org" in found.text, "secret" in found.text) == ("ok", True, False)


def test_a_name_that_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert check_name("127.0.0.1:8443").text == "127.0.0.1 is 127.0.0.1, without a proxy."
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    found = check_name("fl.example.org:8443")
    assert (found.verdict, "Name or service not known" in found.text) == ("error", True)


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [
        (0.4, "ok"),
        (-20.0, "ok"),
        (4.5, "warning"),
        (-90.0, "warning"),
        (7.0, "error"),
        (-301.0, "error"),
        (3600, "error"),
    ],
)
def test_clocks(ahead: float, verdict: str) -> None:
    assert check_clock(Door("a:1", days=100, ahead=ahead, status=200)).verdict == verdict


def test_another_answer_than_health() -> None:
    assert check_health(Door("a:1", days=100, ahead=0.0, status=404)).verdict == "warning"
    assert "no round could run" in check_health(Door("a:1", days=100, ahead=0.0, status=503)).text
