"""Between an institution and its coordinator: a proxy that lets TLS through, or IPv6; on loopback neither is asked."""

import contextlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import tomli_w

from client.keys import generate_node_key
from server.home import ServerHome, init_home, read_settings
from server.service.operator import OperatorClient
from shared.federation import Federation
from simulations.demo import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOST = "fl.example.test"
"""A name that only the proxy knows."""
NO_PROXIES = {"HTTP_PROXY": "http://[", "ALL_PROXY": "socks5://nowhere:1", "NO_PROXY": "[::1]"}
GARBAGE = NO_PROXIES | {"HTTPS_PROXY": "::::"}
HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text()


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that knows CONNECT alone, and one host.

    Args:
        port: Of the coordinator on 127.0.0.1.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.target = ("127.0.0.1", port)
        self.heads: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        proxy = self.server
        assert isinstance(proxy, Proxy)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        proxy.heads.append(head.decode())
        with socket.create_connection(proxy.target) as behind:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(behind, self.request), daemon=True)
            back.start()
            _pass_on(self.request, behind)
            back.join(5)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxying(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@contextlib.contextmanager
def collegium(folder: Path, proxies: Mapping[str, str], *verb: str) -> Iterator[Callable[[str], None]]:
    """A `collegium` process until the block ends; what it gives waits until the process has said something."""
    log = folder / f"{verb[0]}.log"
    argv = [sys.executable, "-m", "collegium", *verb]
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env={**os.environ, **proxies}, stdout=file, stderr=subprocess.STDOUT)

    def says(words: str) -> None:
        end = time.monotonic() + 120
        while words not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, f"no {words!r} in {log.read_text()}"
            time.sleep(0.1)

    try:
        yield says
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def make_coordinator(folder: Path, host: str) -> ServerHome:
    public, operator = free_ports(2)
    return init_home(folder / "coordinator", hosts=[host], public_port=public, operator_port=operator)


@pytest.fixture
def make_institution(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[[ServerHome], Path]:
    def make(home: ServerHome) -> Path:
        federation = tiny_federation().model_dump(mode="json", exclude_none=True)
        for file in (tmp_path / "federation.toml", home.federation_file):
            file.write_text(tomli_w.dumps(federation), encoding="utf-8")
        generate_node_key(tmp_path / "node.key")
        values = {
            "name": "hospital",
            "server": {"address": read_settings(home).address, "ca": str(home.ca_certificate)},
            "data": {"clauses": {"train": str(write_records(tmp_path / "clauses.jsonl", "clauses"))}},
        }
        path = tmp_path / "institution.toml"
        path.write_text(tomli_w.dumps(values), encoding="utf-8")
        return path

    return make


def enrol(home: ServerHome, file: Path, proxies: Mapping[str, str]) -> None:
    argv = [sys.executable, "-m", "collegium", "server", "enrol", "hospital"]
    argv += ["--public-key", str(file.parent / "node.pub"), "--home", str(home.root)]
    subprocess.run(argv, env={**os.environ, **proxies}, check=True)


def test_an_institution_is_connected_through_a_proxy_and_nothing_else_is(
    tmp_path: Path, make_institution: Callable[[ServerHome], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_coordinator(tmp_path, HOST)
    settings = home.settings_file.read_text()
    home.settings_file.write_text(settings.replace('public_host = "0.0.0.0"', 'public_host = "127.0.0.1"'))
    file, port = make_institution(home), read_settings(home).public_port
    with proxying(port) as proxy, collegium(tmp_path, GARBAGE, "server", "up", str(home.root)) as server_says:
        server_says("The server is up")
        enrol(home, file, GARBAGE)
        by_proxy = NO_PROXIES | {"HTTPS_PROXY": f"http://user:secret@{proxy.address}"}
        with collegium(tmp_path, by_proxy, "client", "up", str(file)) as client_says:
            client_says(f"hospital is connected to the coordinator at {HOST}:{port}")
            for name, value in GARBAGE.items():
                monkeypatch.setenv(name, value)
            with OperatorClient(home) as operator:
                assert [node.status for node in operator.nodes()] == ["online"]
            client_says("is ready")  # the executor has reached the SuperNode
        assert proxy.heads
        for head in proxy.heads:
            assert head.startswith(f"CONNECT {HOST}:{port} HTTP/1."), "1.0 where it looks at the certificate alone"
            assert f"Basic {b64encode(b'user:secret').decode()}" in head


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no ::1")
def test_an_institution_is_connected_over_ipv6(tmp_path: Path, make_institution: Callable[[ServerHome], Path]) -> None:
    homes = [make_coordinator(tmp_path / name, host) for name, host in (("plain", "::1"), ("bracketed", "[::1]"))]
    assert [read_settings(home).address for home in homes] == [
        f"[::1]:{read_settings(home).public_port}" for home in homes
    ]
    home = homes[0]
    address = read_settings(home).address
    file = make_institution(home)
    with collegium(tmp_path, {}, "server", "up", str(home.root)) as server_says:
        server_says(f"The server is up: institutions reach it at {address}.")
        enrol(home, file, {})
        with collegium(tmp_path, {}, "client", "up", str(file)) as client_says:
            client_says(f"hospital is connected to the coordinator at {address}.")
