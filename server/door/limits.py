"""How much one may take of the coordinator, and for how long."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from server.door.refusals import RefusedError

MIB = 2**20
STRANGER_SECONDS = 10.0
"""Life of a connection that has not shown an enrolled key: TLS, headers and signature must be done by then."""
EXPULSION_SECONDS = 1.0
"""Until the connections of an institution that was revoked end; it may ask nothing any more in that time."""
HANDSHAKE_SECONDS = 5.0
STRANGERS = 256
"""Connections without a key at any time; one more ends the oldest one of the most crowded address."""
STRANGERS_PER_ADDRESS = 32
"""Of one IPv4 address, or one /64 network of IPv6."""
CONNECTIONS_PER_NODE = 16
"""Flower's SuperNode needs four: one that asks, one for heartbeats, two that push or pull."""
HEAD_BYTES = 16 * 1024
"""Request line and headers."""
OBJECT_BYTES = 8 * MIB
"""Body that carries an object: Flower cuts arrays into objects of 5 MiB."""
BODY_BYTES = MIB
"""Any other body, without the objects that it carries."""
BODY_SECONDS, SLOWEST_BYTES_PER_SECOND = 30.0, 8 * 1024
"""A body of n bytes must be there after 30 s + n / 8 KiB/s."""
REQUESTS_PER_WINDOW = 20_000
"""Requests of one node whose nonces are remembered at a time, which is about five minutes."""
CHUNK_BYTES = 5 * MIB
"""Flower's size of a piece of an array."""
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 50.0, 1000
"""Of one node: on average, and those that it may have saved up. A round takes it about thirty."""
BYTES_PER_SECOND, BYTES_AT_ONCE = 32.0 * MIB, 1024 * MIB
"""Of one node's bodies, likewise."""
BYTES_UNDER_WAY = 4 * OBJECT_BYTES
"""Of one node's bodies that are being read at a time: Flower's SuperNode sends two pieces at once."""
REFUSAL_SECONDS = 1.0
"""Before a node that asks too much is told so: it has few connections, and each of them waits for that."""
THREADS = 4
"""That ask the database for institutions; one alone may write to it, and the others would wait in turn."""


@dataclass(frozen=True)
class MessageLimits:
    """What one reply may take in the database.

    Attributes:
        max_bytes: Of all its objects together.
    """

    max_bytes: int

    @property
    def max_objects(self) -> int:
        """Pieces of arrays of that size, twice, and what holds them together."""
        return 64 + 2 * -(-self.max_bytes // CHUNK_BYTES)


class Uploads:
    """Bytes that have come for replies under way; a reply that has got all of its share gets no more."""

    REMEMBERED = 4096

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._bytes: OrderedDict[str, int] = OrderedDict()
        self._lock = Lock()

    def add(self, reply: str, size: int) -> None:
        """Count an object of a reply.

        Raises:
            RefusedError: It would be more than one reply may have.
        """
        with self._lock:
            total = self._bytes.pop(reply, 0) + size
            if total > self._limits.max_bytes:
                self._bytes[reply] = total - size
                raise RefusedError(413, f"a reply of more than {self._limits.max_bytes} bytes (max_message_bytes)")
            self._bytes[reply] = total
            if len(self._bytes) > self.REMEMBERED:
                self._bytes.popitem(last=False)
