"""Who asks more than its share is told so, is named, and gets its share again with time."""

import asyncio

import pytest

from server.door.allowances import Allowances
from server.door.limits import (
    BYTES_AT_ONCE,
    BYTES_PER_SECOND,
    BYTES_UNDER_WAY,
    MIB,
    OBJECT_BYTES,
    REQUESTS_AT_ONCE,
    REQUESTS_PER_SECOND,
    REQUESTS_PER_WINDOW,
)
from server.door.refusals import RefusedError


class Clock:
    now = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def allowances(clock: Clock) -> Allowances:
    return Allowances(clock=lambda: clock.now, pause=0.0)


def taken(allowances: Allowances, node: int, length: int = 0, *, tries: int) -> int:
    """How many of so many requests pass before the first is refused."""
    for number in range(tries):
        try:
            asyncio.run(allowances.take(node, length))
        except RefusedError as refused:
            told = refused
        else:
            continue
        assert (told.status, (told.retry_after or 0.0) > 0) == (429, True)
        return number
    return tries


def test_requests_are_saved_up_and_then_come_at_their_rate(allowances: Allowances, clock: Clock) -> None:
    assert taken(allowances, 7, tries=5000) == REQUESTS_AT_ONCE
    assert taken(allowances, 8, tries=10) == 10, "another node has its own"
    clock.now += 1.0
    assert taken(allowances, 7, tries=5000) == pytest.approx(REQUESTS_PER_SECOND, abs=1)
    assert allowances.report() == [{"node_id": 7, "limit": "requests", "times": 2}]


def test_bytes_too(allowances: Allowances, clock: Clock) -> None:
    assert taken(allowances, 7, OBJECT_BYTES, tries=5000) == BYTES_AT_ONCE // OBJECT_BYTES
    with pytest.raises(RefusedError):
        asyncio.run(allowances.take(7, OBJECT_BYTES))
    clock.now += OBJECT_BYTES / BYTES_PER_SECOND + 0.001
    assert taken(allowances, 7, OBJECT_BYTES, tries=5) == 1


def test_who_has_nothing_left_is_refused_before_its_signature_is_verified(allowances: Allowances, clock: Clock) -> None:
    asyncio.run(allowances.check(7))
    taken(allowances, 7, tries=5000)
    with pytest.raises(RefusedError):
        asyncio.run(allowances.check(7))
    asyncio.run(allowances.check(8))
    clock.now += 1.0
    asyncio.run(allowances.check(7))


def test_few_bodies_are_read_at_a_time(allowances: Allowances) -> None:
    with allowances.reading(7, BYTES_UNDER_WAY - MIB), allowances.reading(8, MIB):
        with allowances.reading(7, MIB):
            pass
        with pytest.raises(RefusedError) as refused, allowances.reading(7, MIB + 1):
            pass
    assert refused.value.status == 429
    with allowances.reading(7, BYTES_UNDER_WAY):
        pass
    assert allowances.report() == [{"node_id": 7, "limit": "bytes under way", "times": 1}]


def test_a_refusal_takes_time() -> None:
    allowances = Allowances(clock=lambda: 0.0, pause=0.1)

    async def play() -> float:
        for _ in range(int(REQUESTS_AT_ONCE)):
            await allowances.take(7, 0)
        began = asyncio.get_running_loop().time()
        with pytest.raises(RefusedError):
            await allowances.take(7, 0)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(play()) >= 0.09


def test_whoever_keeps_to_the_rate_never_runs_out_of_nonces() -> None:
    assert 310 * REQUESTS_PER_SECOND + REQUESTS_AT_ONCE < REQUESTS_PER_WINDOW
