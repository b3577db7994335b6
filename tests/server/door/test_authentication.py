"""Who sends a request, from its headers: nothing else is read before that is known."""

import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from server.door.authentication import REMEMBERED_SECONDS, Authenticator, Nonces
from server.door.refusals import RefusedError
from shared.flower.constants import TIMESTAMP_TOLERANCE
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes
from shared.signing import HEADER, read_signature, sign_request
from simulations.attacks.coordinator import flower_signed

PATH = "/v1/fleet/pull-messages"
PAIR = generate_key_pairs()
KEY = public_key_to_bytes(PAIR[1])


class OneEnrolled:
    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        return 7 if public_key == KEY else None

    def was_revoked(self, public_key: bytes) -> bool:
        return False


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def authenticator(clock: Any, *, strict: bool = True) -> Authenticator:
    clock.now -= 1  # the coordinator was up before
    made = Authenticator(OneEnrolled(), body_signature=strict, clock=clock, steady=clock)
    clock.now += 1
    return made


def whole(body: bytes = b"body", pair: Any = PAIR) -> Headers:
    request = httpx.Request("POST", f"https://localhost{PATH}", content=body)
    return Headers(dict(flower_signed(request, *pair).headers) | {HEADER: sign_request(pair[0], "POST", PATH, body)})


def stock() -> Headers:
    return Headers({name: value for name, value in whole().items() if name != HEADER})


def status(made: Authenticator, headers: Headers, method: str = "POST", path: str = PATH) -> int:
    try:
        made.check(made.read(headers), method, path)
    except RefusedError as refused:
        return refused.status
    return 200


def test_a_request_counts_once_for_its_method_and_path(clock: Clock) -> None:
    made = authenticator(clock)
    headers = whole()
    assert status(made, headers, path="/v1/fleet/push-messages") == 401
    assert status(made, headers, method="PUT") == 401
    assert status(made, headers) == 200
    assert status(made, headers) == 401


def test_the_body_that_was_signed_is_known(clock: Clock) -> None:
    made = authenticator(clock)
    sender = made.check(made.read(whole(b"abc")), "POST", PATH)
    assert sender.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (sender.node_id, sender.public_key) == (7, KEY)


def test_stock_signatures_pass_only_where_they_are_let_in(clock: Clock) -> None:
    assert status(authenticator(clock), stock()) == 401
    lax = authenticator(clock, strict=False)
    assert status(lax, stock()) == status(lax, whole()) == 200
    forged = Headers(dict(stock()) | {"flwr-signature": b64encode(b"x" * 100).decode()})
    assert status(lax, forged) == 401


def test_another_key_and_another_signature_are_refused(clock: Clock) -> None:
    made, stranger = authenticator(clock), generate_key_pairs()
    assert status(made, whole(pair=stranger)) == 401
    assert status(made, whole(pair=stranger), path="/v1/fleet/activate-node") == 412
    mixed = Headers(dict(whole()) | {HEADER: sign_request(stranger[0], "POST", PATH, b"body")})
    assert status(made, mixed) == 401


def test_time_is_short_and_does_not_begin_before_the_process(clock: Clock) -> None:
    made = authenticator(clock)
    headers = whole()
    clock.now += TIMESTAMP_TOLERANCE + 6
    assert status(made, headers) == 401
    clock.now -= TIMESTAMP_TOLERANCE + 20
    assert status(made, headers) == 401
    clock.now += 30
    restarted = Authenticator(OneEnrolled(), body_signature=True, clock=clock, steady=clock)
    assert status(restarted, headers) == 503, "it may have come to the process before"


@pytest.mark.parametrize("hours", [1, -1])
def test_who_signs_by_a_clock_that_was_set_is_heard_at_once(hours: int) -> None:
    clock, passed = Clock(), Clock()
    made = Authenticator(OneEnrolled(), body_signature=True, clock=clock, steady=passed)
    before = whole()
    clock.now += 10
    passed.now += 10
    assert status(made, before) == 200
    clock.now += hours * 3600
    assert status(made, before) == 401
    signed = sign_request(PAIR[0], "POST", PATH, b"body", ahead=hours * 3600 + 9)
    assert status(made, Headers(dict(before) | {HEADER: signed})) == 200
    clock.now -= hours * 3600
    assert status(made, before) == 401, "it is still known"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "1",
        "2 2026-01-01T00:00:00+00:00 " + "0" * 32 + " " + "0" * 64 + " AAAAAAAA",
        "1 2026-01-01T00:00:00 " + "0" * 32 + " " + "0" * 64 + " AAAAAAAA",
        "1 2026-01-01T00:00:00+00:00 " + "0" * 32 + " " + "0" * 64 + " AAAA=AAA",
        "1 " + "9" * 40 + " " + "0" * 32 + " " + "0" * 64 + " AAAAAAAA",
        "1 2026-01-01T00:00:00+00:00 " + "G" * 32 + " " + "0" * 64 + " AAAAAAAA",
    ],
)
def test_headers_of_another_form_are_refused(clock: Clock, header: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its words, it is caught as one
        read_signature(header)
    assert status(authenticator(clock), Headers(dict(whole()) | {HEADER: header})) == 401


@pytest.mark.parametrize("key", ["", "x", "AAAA", "A" * 4000])
def test_what_is_no_key_is_refused(clock: Clock, key: str) -> None:
    assert status(authenticator(clock), Headers(dict(whole()) | {"flwr-public-key": key})) == 401


def test_nonces_are_forgotten_in_time_and_bounded_per_node() -> None:
    nonces = Nonces(limit=2)
    nonces.add(1, "a", now=0.0)
    nonces.add(1, "b", now=1.0)
    nonces.add(2, "a", now=1.0)
    with pytest.raises(RefusedError) as refused:
        nonces.add(1, "c", now=2.0)
    assert refused.value.status == 429
    nonces.add(1, "c", now=REMEMBERED_SECONDS + 0.5)
    with pytest.raises(RefusedError, match="before"):
        nonces.add(1, "b", now=REMEMBERED_SECONDS + 0.5)


def test_a_time_of_any_zone_is_one_time() -> None:
    header = sign_request(PAIR[0], "POST", PATH, b"")
    assert abs(read_signature(header).time - datetime.now(UTC)) < timedelta(seconds=5)
