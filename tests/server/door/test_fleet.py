"""Who asks the database has few threads, and no node has more than one of them."""

import sqlite3
import threading
from typing import Any

import anyio
import pytest
from sqlalchemy.exc import OperationalError

from server.door.authentication import Sender
from server.door.fleet import PUSH_PATH, Asked, Fleet, in_turn
from server.door.limits import THREADS


def test_a_node_has_one_thread_at_a_time() -> None:
    end, under_way, most = threading.Event(), list[int](), list[int]()

    def ask(node_id: int) -> None:
        under_way.append(node_id)
        most.append(under_way.count(1))
        if node_id == 1:
            assert end.wait(30)
        under_way.remove(node_id)

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * THREADS):
                tasks.start_soon(in_turn, 1, ask, 1)
            await anyio.sleep(0.05)
            with anyio.fail_after(20):
                await in_turn(2, ask, 2)
            end.set()

    anyio.run(both)
    assert max(most) == 1
    assert len(most) == 2 * THREADS + 1


def test_a_database_that_refuses_is_told_as_a_passing_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def full(*_: object) -> bytes:
        raise OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full"))

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    monkeypatch.setattr(Fleet, "_handle", full)
    scope = {"type": "http", "path": PUSH_PATH, "method": "POST", "headers": []}
    asked = Asked(PUSH_PATH, None, Sender(7, b"", None))
    anyio.run(Fleet(None).answer, asked, scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 503
