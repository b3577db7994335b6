"""Connections: a flood drives out itself, and who is known keeps its place."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from server.door.crowd import Crowd, Guest, network


class Seat(Guest):
    """A guest without a socket."""

    def __init__(self, address: str) -> None:
        super().__init__(None, address)  # type: ignore[arg-type]
        self.closed = False

    def close(self) -> None:
        self.closed = True


def in_a_loop(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


def enter(crowd: Crowd, address: str, count: int = 1) -> list[Seat]:
    seats = [Seat(address) for _ in range(count)]
    for seat in seats:
        crowd.enter(seat)
    return seats


def test_one_address_drives_out_its_own_oldest() -> None:
    async def scene() -> None:
        crowd = Crowd(per_address=3)
        (other,) = enter(crowd, "10.0.0.1")
        seats = enter(crowd, "10.0.0.2", 5)
        assert [seat.closed for seat in seats] == [True, True, False, False, False]
        assert not other.closed
        assert crowd.strangers == 4

    in_a_loop(scene)


def test_when_all_is_full_the_most_crowded_address_gives_way() -> None:
    async def scene() -> None:
        crowd = Crowd(strangers=4, per_address=3)
        (one,) = enter(crowd, "10.0.0.1")
        three = enter(crowd, "10.0.0.2", 3)
        (late,) = enter(crowd, "10.0.0.3")
        assert [seat.closed for seat in three] == [True, False, False]
        assert not one.closed
        assert not late.closed

    in_a_loop(scene)


def test_an_institution_keeps_its_place_in_a_flood() -> None:
    async def scene() -> None:
        crowd = Crowd(strangers=4, per_address=2, per_node=2)
        (known,) = enter(crowd, "10.0.0.2")
        assert crowd.recognise(known, 7)
        assert crowd.recognise(known, 7)
        assert not crowd.recognise(known, 8), "one connection is one institution's"
        enter(crowd, "10.0.0.2", 50)
        assert not known.closed
        (second,) = enter(crowd, "10.0.0.3")
        (third,) = enter(crowd, "10.0.0.4")
        assert crowd.recognise(second, 7)
        assert not crowd.recognise(third, 7), "no more than two"
        crowd.leave(known)
        assert crowd.recognise(third, 7)

    in_a_loop(scene)


def test_who_shows_no_key_is_shown_out_in_time() -> None:
    async def scene() -> None:
        crowd = Crowd(seconds=0.01)
        (stranger,) = enter(crowd, "10.0.0.1")
        (known,) = enter(crowd, "10.0.0.2")
        crowd.recognise(known, 7)
        await asyncio.sleep(0.05)
        assert (stranger.closed, known.closed) == (True, False)
        assert crowd.strangers == 0
        assert not crowd.recognise(stranger, 7), "too late"

    in_a_loop(scene)


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("a path", "a path"),
    ],
)
def test_what_counts_as_one_address(address: str, counts_as: str) -> None:
    assert network(address) == counts_as


def test_who_waits_for_us_is_not_shown_out_for_that() -> None:
    async def scene() -> None:
        crowd = Crowd(seconds=0.02)
        (waiting,) = enter(crowd, "10.0.0.1")
        (silent,) = enter(crowd, "10.0.0.1")
        with waiting.judging():
            await asyncio.sleep(0.07)
            assert silent.closed
            assert not waiting.closed
        await asyncio.sleep(0.05)
        assert waiting.closed, "nobody knew it"
        (other,) = enter(crowd, "10.0.0.2")
        with other.judging():
            await asyncio.sleep(0.05)
            assert crowd.recognise(other, 7)
        await asyncio.sleep(0.05)
        assert not other.closed
        assert crowd.strangers == 0

    in_a_loop(scene)
