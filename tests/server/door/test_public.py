"""The order of things: path, headers, length, sender, and only then the body."""

import asyncio
import hashlib
import logging
import sqlite3
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers

from server.door import public
from server.door.allowances import Allowances
from server.door.authentication import Sender
from server.door.limits import OBJECT_BYTES
from server.door.public import announced_length, receive_body
from server.door.refusals import FewLines, RefusedError
from shared.process.carrying import NOTHING


def refused(call: Any) -> int:
    with pytest.raises(RefusedError) as error:
        call()
    return error.value.status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"content-length": "1", "transfer-encoding": "chunked"}, 411),
        ({"content-length": "-1"}, 411),
        ({"content-length": "1_0"}, 411),
        ({"content-length": "\u0661"}, 411),
        ({"content-length": str(OBJECT_BYTES + 1)}, 413),
        ({"content-length": "9" * 5000}, 413),
    ],
)
def test_a_body_says_its_length_or_is_not_read(headers: dict[str, str], status: int) -> None:
    known = Headers(raw=[(name.encode(), value.encode("utf-8")) for name, value in headers.items()])
    assert refused(lambda: announced_length(known, OBJECT_BYTES)) == status


def receiving(*pieces: bytes, then: float = 0.0) -> Any:
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(then)
            return {"type": "http.disconnect"}
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left) or then > 0}

    return receive


def test_a_body_is_put_together() -> None:
    assert asyncio.run(receive_body(receiving(b"ab", b"", b"c"), 3)) == b"abc"


@pytest.mark.parametrize("pieces", [(), (b"ab",), (b"ab", b"cd")])
def test_a_body_of_another_length_is_refused(pieces: tuple[bytes, ...]) -> None:
    assert refused(lambda: asyncio.run(receive_body(receiving(*pieces), 3))) == 400


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "BODY_SECONDS", 0.05)
    assert refused(lambda: asyncio.run(receive_body(receiving(b"a", then=60.0), 3))) == 408


class AnyOf:
    """Stands in for the rest of the judge's parts, and notes the order in which they are asked."""

    def __init__(self, digest: str | None) -> None:
        self.asked: list[str] = []
        self.paths = {"/v1/fleet/x": None}
        self.digest = digest

    def read(self, _headers: Headers) -> str:
        self.asked.append("claim")
        return "claim"

    def longest_body(self, _path: str) -> int:
        self.asked.append("length")
        return 10

    def check(self, *about: Any) -> Any:
        self.asked.append("sender" if about[0] == "claim" else "speech")
        return Sender(7, b"", self.digest) if about[0] == "claim" else ("message", NOTHING)


def judged(parts: AnyOf, body: bytes) -> Any:
    judge = public.FleetJudge(parts, parts, parts, Allowances())  # type: ignore[arg-type]
    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "path": "/v1/fleet/x", "method": "POST", "headers": headers}

    async def receive() -> dict[str, Any]:
        parts.asked.append("body")
        return {"type": "http.request", "body": body, "more_body": False}

    return asyncio.run(judge(scope, receive))


def test_the_body_is_read_when_its_sender_is_known() -> None:
    parts = AnyOf(hashlib.sha256(b"body").hexdigest())
    asked = judged(parts, b"body")
    assert (asked.path, asked.message, asked.sender.node_id, asked.wait) == ("/v1/fleet/x", "message", 7, 0.0)
    assert parts.asked == ["claim", "length", "sender", "body", "speech"]


def test_a_body_that_was_not_signed_is_not_listened_to() -> None:
    parts = AnyOf(hashlib.sha256(b"another").hexdigest())
    assert refused(lambda: judged(parts, b"body")) == 401
    assert "speech" not in parts.asked


def test_a_long_body_is_not_read_at_all() -> None:
    parts = AnyOf(None)
    assert refused(lambda: judged(parts, b"x" * 11)) == 413
    assert parts.asked == ["claim", "length"]


def test_few_lines_a_minute_are_written_and_the_others_counted() -> None:
    now = [0.0]
    few = FewLines(limit=2, clock=lambda: now[0])

    def passes(level: int = logging.WARNING, name: str = "server.door", *arguments: object) -> str | None:
        record = logging.LogRecord(name, level, "", 0, "refused", arguments, None)
        return str(record.msg) if few.filter(record) else None

    assert [passes() for _ in range(5)] == ["refused", "refused", None, None, None]
    assert passes(logging.INFO) == "refused"
    assert passes(logging.INFO, "uvicorn.access", "client", "GET", "/", "1.1", 200) == "refused"
    assert passes(logging.INFO, "uvicorn.access", "client", "GET", "/", "1.1", 401) is None
    now[0] = 61.0
    assert passes() == "refused (4 more lines were left out)"
    assert passes() == "refused"


def test_a_database_that_refuses_is_no_fault_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk, say: Flower's SuperNode asks again after 503, and ends at 500."""

    async def judge(scope: Any, receive: Any) -> Any:
        raise OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full"))

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    door = public.public_door(judge, judge)  # type: ignore[arg-type]
    scope = {"type": "http", "path": "/v1/fleet/pull-messages", "method": "POST", "headers": []}

    async def knock() -> None:
        await door(scope, receiving(), send)

    asyncio.run(knock())
    assert sent[0]["status"] == 503
    assert "disk is full" in caplog.text
