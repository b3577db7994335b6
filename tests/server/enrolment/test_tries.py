import pytest

from server.enrolment.tries import AT_ONCE, IN_ALL_AT_ONCE, Nonces, Tries, address_of
from shared.errors import EnrolmentError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_address_gets_so_many_tries_and_then_one_every_two_seconds() -> None:
    clock = Clock()
    tries = Tries(clock=clock)
    assert [tries.wait("ipv4:192.0.2.1:5") for _ in range(AT_ONCE)] == [0.0] * AT_ONCE
    assert 0 < tries.wait("ipv4:192.0.2.1:6") <= 2
    assert tries.wait("ipv4:192.0.2.2:6") == 0, "another address"
    clock.now += 2.1
    assert tries.wait("ipv4:192.0.2.1:7") == 0
    assert tries.wait("ipv4:192.0.2.1:7") > 0


def test_all_addresses_together_get_so_many() -> None:
    tries = Tries(clock=Clock())
    passed = sum(tries.wait(f"ipv4:192.0.2.{number % 250}:{number}") == 0 for number in range(2 * IN_ALL_AT_ONCE))
    assert passed == IN_ALL_AT_ONCE


def test_what_is_remembered_is_bounded() -> None:
    tries = Tries(all_at_once=10**6, clock=Clock())
    for number in range(Tries.REMEMBERED + 50):
        tries.wait(f"ipv4:{number // 65536}.{number // 256 % 256}.{number % 256}.1:1")
    assert len(tries._paid) == Tries.REMEMBERED


def test_an_ipv6_subscriber_is_one_address() -> None:
    assert address_of("ipv6:%5B2001:db8::1%5D:4711") == address_of("ipv6:%5B2001:db8::2%5D:4712")
    assert address_of("ipv4:192.0.2.1:4711") == "192.0.2.1"


def test_a_nonce_is_good_once_within_a_minute_and_here() -> None:
    clock = Clock()
    nonces = Nonces(clock)
    nonce = nonces.issue()
    nonces.spend(nonce)
    with pytest.raises(EnrolmentError, match="come before"):
        nonces.spend(nonce)
    late = nonces.issue()
    clock.now += 61
    with pytest.raises(EnrolmentError, match="older"):
        nonces.spend(late)
    for wrong in (Nonces(clock).issue(), nonces.issue()[:-1] + "x", "0" * 64, "-", "1.0-" + "0" * 64):
        with pytest.raises(EnrolmentError, match="older, or was for another"):
            nonces.spend(wrong)
    nonces.spend(nonces.issue())
    assert len(nonces._used) == 1, "those of more than a minute ago are forgotten"
