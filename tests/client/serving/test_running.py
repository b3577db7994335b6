"""The door's patience with heads, who may open one, and workers that share a port."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from client.serving import running
from client.serving.running import PatientProtocol, check_door
from client.serving.settings import Settings
from shared.errors import ConfigError


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server that says yes to everything."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"yes"})

    monkeypatch.setattr(running, "HEAD_SECONDS", 0.3)
    config = uvicorn.Config(app, http=PatientProtocol, lifespan="off", log_level="critical", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join()


def said(port: int, *parts: bytes) -> bytes:
    """What comes until the other end closes, or for a second."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1.0)
        found = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
            while more := connection.recv(65536):
                found += more
        except OSError as error:
            return found or type(error).__name__.encode()
        return found or b"closed"


HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"


def test_heads_are_short_and_come_in_time(port: int) -> None:
    assert b"200 OK" in said(port, HEAD + b"\r\n")
    assert b"200 OK" in said(port, HEAD, b"a: b\r\n", b"\r\n")
    assert said(port, HEAD) in (b"closed", b"ConnectionResetError")
    assert said(port) in (b"closed", b"ConnectionResetError")
    for long in (HEAD + b"a: " + b"b" * 20_000 + b"\r\n\r\n", HEAD + b"a: b\r\n" * 5000, b"GET /" + b"a" * 20_000):
        answer = said(port, long)
        assert b"200 OK" not in answer
    assert b"200 OK" not in said(port, (HEAD + b"\r\n") * 3)


def test_a_second_request_on_a_connection_has_its_own_time(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            assert client.get("/").text == "yes"
            time.sleep(0.2)


def test_a_door_to_others_needs_tokens(tmp_path: Path) -> None:
    settings, file = Settings(()), tmp_path / "server.pem"
    check_door(settings, "127.0.0.1", None, None)
    with pytest.raises(ConfigError, match="--tokens"):
        check_door(settings, "0.0.0.0", None, None)
    file.touch()
    for certificate, key, what in ((file, None, "together"), (None, file, "together"), (file, tmp_path / "no", "PEM")):
        with pytest.raises(ConfigError, match=what):
            check_door(settings, "127.0.0.1", certificate, key)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_reload_die_and_stop_without_losing_a_request(everything: Path) -> None:
    command = [sys.executable, "-m", "collegium", "serve", str(everything), "--port", "0", "--workers", "2"]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
    codes, stop = Counter[int](), threading.Event()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        httpx.get(f"{url}health", timeout=120)

        def ask() -> None:
            while not stop.is_set():
                codes[
                    httpx.post(f"{url}v1/predict/topics", json={"inputs": "It is late."}, timeout=60).status_code
                ] += 1

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        process.send_signal(signal.SIGHUP)
        reloads = "collegium_serving_reloads_total"
        ends = time.monotonic() + 120
        while f'{reloads}{{outcome="done"}} 2.0' not in httpx.get(f"{url}metrics", timeout=60).text:
            assert time.monotonic() < ends
            time.sleep(0.5)
        stop.set()
        for thread in asking:
            thread.join()
        assert set(codes) == {200}
        told = httpx.get(f"{url}metrics", timeout=60).text
        assert f'answers_total{{status="200",task="topics"}} {codes[200]}.0' in told
    finally:
        stop.set()
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_what_keeps_it_from_starting_is_said(everything: Path, tmp_path: Path) -> None:
    names = {key: value for key, value in os.environ.items() if key != "COLLEGIUM_LOG_FORMAT"}
    command = [sys.executable, "-m", "collegium", "serve", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=names, check=False)
    assert ended.returncode == 1
    assert json.dumps(ended.stderr.splitlines()[-1]).startswith('"error: ')
