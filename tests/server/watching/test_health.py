"""`/health` is SERVING only while rounds could run, and says why not to the operator alone."""

import asyncio
import time
from pathlib import Path
from typing import Any, NoReturn

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from starlette.types import Message, Receive, Scope, Send

from server.enrolment import health as grpc_health
from server.enrolment.door import open_door
from server.home import ServerHome, read_settings
from server.watching import health
from server.watching.health import Health
from shared.errors import StoreError
from shared.process.lock import only_one
from shared.watching.metrics import Process
from simulations.attacks.coordinator import new_home


def looked(home: ServerHome, *, asked: float | None = 0.0, flower: Exception | None = None) -> list[str]:
    def ask_flower() -> None:
        if flower:
            raise flower

    return Health(home, lambda: None if asked is None else time.monotonic() - asked, ask_flower).obstacles()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """The daemon's processes."""
    found = {"daemon": Process(1, 1.0), "superexec": Process(1, 1.0)}
    monkeypatch.setattr(health, "processes", lambda daemon: found)
    return found


def test_each_thing_that_a_round_needs_is_looked_at(
    home: ServerHome, running: dict[str, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = looked(home)
    assert "server up" in only, "nobody starts runs"
    with only_one(home.lock_file, serving="it", advice="no"):
        assert looked(home) == []
        assert len(looked(home, asked=None)) == len(looked(home, asked=60.0)) == 1
        assert "database" in looked(home, flower=RuntimeError("locked"))[0]
        running.pop("superexec")
        assert "has ended" in looked(home)[0]
        running["superexec"] = Process(1, 1.0)
        monkeypatch.setattr(health, "LEAST_DISK", 2**80)
        assert "MiB are free" in looked(home)[0]
        monkeypatch.setattr(health, "LEAST_DISK", 0)

        def locked(folder: Path) -> NoReturn:
            raise StoreError("locked")

        monkeypatch.setattr(health, "open_store", locked)
        assert looked(home) == ["The store cannot be read."]


def answer(door: Health, path: str, *, reasons: bool) -> tuple[int, bytes]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418})
        await send({"type": "http.response.body", "body": b""})

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    told: Any = door.before(behind, reasons=reasons)(scope, receive, send)
    asyncio.run(told)
    return sent[0]["status"], sent[1]["body"]


def test_strangers_are_told_that_and_not_why(home: ServerHome) -> None:
    door = Health(home, lambda: None, lambda: None)
    assert answer(door, "/health", reasons=False) == (503, b'{"status":"NOT_SERVING"}')
    status, body = answer(door, "/health", reasons=True)
    assert (status, b"server up" in body) == (503, True)
    assert answer(door, "/health/live", reasons=False) == (200, b'{"status":"SERVING"}')
    assert answer(door, "/health/", reasons=False)[0] == answer(door, "/healthz", reasons=False)[0] == 418


def test_an_answer_holds_for_a_moment_however_many_ask(home: ServerHome) -> None:
    looks = []
    door = Health(home, lambda: None, lambda: looks.append(1))
    for _ in range(20):
        answer(door, "/health", reasons=False)
    assert len(looks) == 1


def test_grpc_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home(tmp_path / "coordinator", federation="name = 1")
    ready = False

    def get(client: httpx.Client, path: str) -> httpx.Response:
        assert str(client.base_url).endswith(f":{read_settings(home).operator_port}")
        assert path == "/health"
        return httpx.Response(200 if ready else 503)

    monkeypatch.setattr(httpx.Client, "get", get)
    monkeypatch.setattr(grpc_health, "KNOWN_SECONDS", 0.0)
    server, port = open_door(home, read_settings(home))
    server.start()
    trusted = grpc.ssl_channel_credentials(home.ca_certificate.read_bytes())
    try:
        with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
            stub = HealthStub(channel)

            def check(service: str) -> int:
                found: int = stub.Check(HealthCheckRequest(service=service), timeout=10).status
                return found

            assert check("") == check("collegium") == HealthCheckResponse.NOT_SERVING
            ready = True
            assert check("") == check("live") == HealthCheckResponse.SERVING
            ready = False
            assert check("live") == HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                check("other")
    finally:
        server.stop(None).wait()
