"""How often a stranger may try, and the numbers by which nobody can say a thing twice."""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from threading import Lock
from urllib.parse import unquote

from server.door.crowd import network
from shared.errors import EnrolmentError

PER_ADDRESS, AT_ONCE = 0.5, 30
"""Requests of one address (IPv6: of one /64 network): a second, and those that it may have saved up."""
IN_ALL, IN_ALL_AT_ONCE = 10.0, 300
"""Requests of all addresses together, likewise."""
NONCE_SECONDS = 60.0


class Tries:
    """Counts requests: every one costs, whatever it says.

    Args:
        at_once: Of one address, what it may have saved up.
        all_at_once: Of all addresses.
        clock: Seconds; a test may pass its own.
    """

    REMEMBERED = 4096

    def __init__(
        self,
        at_once: int = AT_ONCE,
        all_at_once: int = IN_ALL_AT_ONCE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once, self._all_at_once, self._clock = at_once, all_at_once, clock
        self._paid: OrderedDict[str, float] = OrderedDict()
        """By address, the time until which what it has asked is paid for; it may be that far in the future."""
        self._all = 0.0
        self._lock = Lock()

    def wait(self, peer: str) -> float:
        """Count a request; the seconds after which to ask again, 0 if it may pass.

        Args:
            peer: The other end as gRPC names it.
        """
        address, now = address_of(peer), self._clock()
        with self._lock:
            own = max(self._paid.pop(address, 0.0), now)
            every = max(self._all, now)
            wait = max(own - now + (1 - self._at_once) / PER_ADDRESS, every - now + (1 - self._all_at_once) / IN_ALL)
            if wait <= 1e-6:  # of what floating-point numbers leave of nothing
                own, self._all = own + 1 / PER_ADDRESS, every + 1 / IN_ALL
            self._paid[address] = own
            if len(self._paid) > self.REMEMBERED:
                self._paid.popitem(last=False)
        return wait if wait > 1e-6 else 0.0


class Nonces:
    """Numbers that are good for one request within a minute. Only those that were used are remembered.

    Args:
        clock: Seconds; a test may pass its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._key = clock, secrets.token_bytes(32)
        self._used: OrderedDict[str, float] = OrderedDict()
        self._lock = Lock()

    def issue(self) -> str:
        """A new one."""
        stem = f"{self._clock():.3f}-{secrets.token_hex(16)}"
        return f"{stem}-{self._mac(stem)}"

    def spend(self, nonce: str) -> None:
        """Use one; EnrolmentError unless it is from here, of the last minute, and was not used yet."""
        stem, _, mac = nonce.rpartition("-")
        now = self._clock()
        good = hmac.compare_digest(mac.encode(), self._mac(stem).encode())
        if not good or now - float(stem.partition("-")[0]) > NONCE_SECONDS:
            raise EnrolmentError("Expected a request of this minute, but it is older, or was for another coordinator.")
        with self._lock:
            while self._used and next(iter(self._used.values())) < now - NONCE_SECONDS:
                self._used.popitem(last=False)
            if nonce in self._used:
                raise EnrolmentError("Expected a new request, but this one has come before.")
            self._used[nonce] = now

    def _mac(self, stem: str) -> str:
        return hmac.new(self._key, stem.encode(), sha256).hexdigest()


def address_of(peer: str) -> str:
    """What counts as one address, from gRPC's `ipv4:ADDRESS:PORT` or `ipv6:%5BADDRESS%5D:PORT`."""
    return network(unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]"))
