"""Who sends a request, from its headers alone.

The signature is ours (`shared.signing`), which covers method, path, body, time and a nonce. Where the coordinator lets
stock SuperNodes in, Flower's will do: it covers the time, so that whoever has seen one may use it for five minutes.
One signature is verified per request, in the place of Flower's own check and not before it: it is most of the cost.
"""

import binascii
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import sub
from threading import Lock
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from starlette.datastructures import Headers

from server.door.limits import REQUESTS_PER_WINDOW
from server.door.refusals import RefusedError
from shared.flower.constants import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from shared.flower.crypto import bytes_to_public_key, verify_signature
from shared.flower.errors import API_ERROR_MAP, ApiErrorCode, FlowerError
from shared.signing import HEADER, RequestSignature, read_signature

ACTIVATE_PATH = "/v1/fleet/activate-node"
NOT_ENROLLED = "Its key is not enrolled."
REVOKED = "Its key was revoked."
"""As `client.service.daemon` finds them in a SuperNode's log."""
LONGEST_KEY = 512
REMEMBERED_SECONDS = TIMESTAMP_TOLERANCE + 2 * SYSTEM_TIME_TOLERANCE
"""No signature is taken that long after it has come once."""


class KnownKeys(Protocol):
    """The coordinator's records, as far as they are asked here."""

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        """The enrolled node that has this key, if one does."""

    def was_revoked(self, public_key: bytes) -> bool:
        """Whether a node that had this key was revoked, has left, or got another key."""


@dataclass(frozen=True)
class Claim:
    """What the headers say, not believed yet."""

    public_key: bytes
    signature: RequestSignature | None
    """None from a stock SuperNode, whose `flower` says the time and Flower's signature of it."""
    flower: tuple[str, bytes] = ("", b"")


@dataclass(frozen=True)
class Sender:
    """The enrolled node that sends a request."""

    node_id: int
    public_key: bytes
    digest: str | None
    """SHA-256 that the body must have; None if it was not signed."""


class Nonces:
    """What every node has signed lately, so that nothing counts twice; bounded per node."""

    def __init__(self, limit: int = REQUESTS_PER_WINDOW) -> None:
        self._limit = limit
        self._seen: dict[int, dict[str, tuple[float, float]]] = {}
        self._lock = Lock()

    def add(self, node_id: int, nonce: str, now: float, passed: float | None = None) -> None:
        """Remember a nonce.

        Args:
            node_id: Whose.
            nonce: In a signature.
            now: By the clock that signatures are judged by, which somebody may set.
            passed: By one that nobody sets; without it the same.

        Raises:
            RefusedError: It has come before, or the node has sent too much to remember.
        """
        with self._lock:
            seen = self._seen.setdefault(node_id, {})
            both = (now, now if passed is None else passed)
            while seen and max(map(sub, next(iter(seen.values())), both)) < -REMEMBERED_SECONDS:
                del seen[next(iter(seen))]
            if nonce in seen:
                raise RefusedError(401, "a request that has come before")
            if len(seen) >= self._limit:
                raise RefusedError(429, f"more than {self._limit} requests in {REMEMBERED_SECONDS} s")
            seen[nonce] = both


class Authenticator:
    """Tells senders by their headers.

    Args:
        keys: The coordinator's records.
        body_signature: Whether a request must be signed whole, as Collegium's daemon does.
        clock: Seconds since 1970; a test may pass its own.
        steady: Seconds since whenever, by a clock that nobody sets.
    """

    def __init__(
        self,
        keys: KnownKeys,
        *,
        body_signature: bool,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._body_signature, self._clock, self._steady = keys, body_signature, clock, steady
        self._nonces, self._began = Nonces(), steady()

    def read(self, headers: Headers) -> Claim:
        """The claim in the headers; costs next to nothing.

        Raises:
            RefusedError: There is none, or it is out of date.
        """
        try:
            public_key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            if len(public_key) > LONGEST_KEY:
                raise ValueError("no P-384 key")
            if HEADER in headers:
                signature = read_signature(headers[HEADER])
                self._check_time(signature.time)
                return Claim(public_key, signature)
            if self._body_signature:
                raise RefusedError(
                    401,
                    "a request that is not signed whole; only Collegium's daemon does that (require_body_signature)",
                )
            stamp = headers[TIMESTAMP_HEADER]
            self._check_time(datetime.fromisoformat(stamp))
            return Claim(public_key, None, (stamp, b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)))
        except (KeyError, ValueError, TypeError, binascii.Error) as error:
            raise RefusedError(401, f"headers without a sender ({error})") from None

    def check(self, claim: Claim, method: str, path: str) -> Sender:
        """Who it is; asks the database and verifies the signature, so call it from a worker thread.

        Raises:
            RefusedError: The key is not enrolled, the signature is not its own, or it has come before.
        """
        node_id = self._keys.get_node_id_by_public_key(claim.public_key)
        if node_id is None:
            raise self._unknown_key(claim.public_key, path)
        key = _parsed(claim.public_key)
        if not _is_signed(claim, key, method, path):
            raise RefusedError(401, f"a signature that node {node_id} did not make for this")
        if claim.signature:
            self._nonces.add(node_id, claim.signature.nonce, self._clock(), self._steady())
        return Sender(node_id, claim.public_key, claim.signature.digest if claim.signature else None)

    def _unknown_key(self, public_key: bytes, path: str) -> RefusedError:
        if path != ACTIVATE_PATH:
            return RefusedError(401, "a key that is not enrolled")
        # What Flower itself answers here, and also to a key whose last process it still counts as online: a SuperNode
        # says by it why it cannot connect, and by what is added the institution's daemon tells the three apart.
        code = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
        why = REVOKED if self._keys.was_revoked(public_key) else NOT_ENROLLED
        body = FlowerError(code, "").to_json(f"{API_ERROR_MAP[code].public_message} {why}")
        return RefusedError(API_ERROR_MAP[code].http_status_code, "a key that is not enrolled", body=body)

    def _check_time(self, signed: datetime) -> None:
        age = self._clock() - signed.timestamp()
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            raise ValueError(f"signed {age:.0f} s ago; check both clocks")
        # Nonces are remembered by this process: what was signed before it started may have come to the one before.
        # When that was is counted back by today's clock, which somebody may have set since.
        if age > self._steady() - self._began:
            raise RefusedError(503, "a request signed before this coordinator was started")


@lru_cache(maxsize=1024)
def _parsed(public_key: bytes) -> ec.EllipticCurvePublicKey:
    return bytes_to_public_key(public_key)


def _is_signed(claim: Claim, key: ec.EllipticCurvePublicKey, method: str, path: str) -> bool:
    if claim.signature:
        return claim.signature.verify(key, method, path)
    stamp, signature = claim.flower
    return verify_signature(key, stamp.encode("ascii", "replace"), signature)
