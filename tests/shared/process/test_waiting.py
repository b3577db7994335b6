"""Who waits is woken from any thread, misses nothing, and is let go when the time, the client or the server ends."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.process.waiting import Bell, GoneError, hold, hold_request, seconds_asked


async def stays() -> Any:
    return await asyncio.Future()


async def leaves() -> Any:
    await asyncio.sleep(0.05)
    return {"type": "http.disconnect"}


def held(
    bell: Bell, look: Callable[[], bool], *, seconds: float = 5.0, receive: Callable[[], Awaitable[Any]] = stays
) -> float:
    """How long a request for "key" was held."""

    async def ready() -> bool:
        return look()

    began = time.monotonic()
    asyncio.run(hold(bell, "key", ready, seconds=seconds, receive=receive))
    return time.monotonic() - began


def test_a_ring_in_another_thread_wakes_who_waits_for_that_key() -> None:
    bell, looks = Bell(), list[bool]()

    def look() -> bool:
        looks.append(len(looks) > 0)
        return looks[-1]

    threading.Timer(0.05, bell.ring, ["another key"]).start()
    threading.Timer(0.2, bell.ring, ["key"]).start()
    assert 0.15 < held(bell, look) < 2.0
    assert looks == [False, True], "nobody looks without a ring"
    assert bell.count("key") == 0


def test_a_ring_during_the_first_look_is_not_missed() -> None:
    bell, there = Bell(), list[str]()

    def look() -> bool:
        if there:
            return True
        there.append("it comes when the look is nearly over")
        bell.ring("key")
        return False

    assert held(bell, look) < 1.0


def test_nobody_waits_longer_than_allowed() -> None:
    assert 0.1 <= held(Bell(), lambda: False, seconds=0.1) < 1.0
    assert held(Bell(), lambda: True) < 0.5


def test_a_client_that_goes_is_not_waited_for() -> None:
    with pytest.raises(GoneError):
        held(Bell(), lambda: False, receive=leaves)


def test_at_the_end_everybody_is_let_go_and_nobody_waits_again() -> None:
    bell = Bell()
    threading.Timer(0.1, bell.close).start()
    assert held(bell, lambda: False) < 2.0
    assert held(bell, lambda: False) < 0.5


def test_thousands_wait_without_a_thread_each() -> None:
    bell = Bell()

    async def never() -> bool:
        return False

    async def all_at_once() -> int:
        waiting = [
            asyncio.create_task(hold(bell, number, never, seconds=30.0, receive=stays)) for number in range(3000)
        ]
        await asyncio.sleep(0.2)
        threads = threading.active_count()
        bell.close()
        await asyncio.gather(*waiting)
        return threads

    assert asyncio.run(all_at_once()) <= threading.active_count() + 1


def test_the_body_of_a_held_request_is_there_for_who_answers_it() -> None:
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.request", "body": b"a", "more_body": True},
    ]

    async def receive() -> Any:
        return pieces.pop() if pieces else await stays()

    async def ready() -> bool:
        return True

    async def play() -> Any:
        again = await hold_request(Bell(), "key", ready, seconds=1.0, receive=receive)
        return await again()

    assert asyncio.run(play()) == {"type": "http.request", "body": b"ab", "more_body": False}


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, 0.0), ("", 0.0), ("x", 0.0), ("nan", 0.0), ("-1", 0.0), ("7.5", 7.5), ("1e9", 25.0), ("inf", 25.0)],
)
def test_what_a_header_allows(said: str | None, seconds: float) -> None:
    assert seconds_asked(said) == seconds
