"""Connections at the public door: strangers are few, short-lived and pushed out by the next; institutions are not.

Before TLS and the headers are done an institution cannot be told from a stranger. So nobody is turned away at the
entrance: the newcomer gets a place, and the oldest connection that has shown no key goes, of the address that holds
most of them. A flood thus drives out itself, while who shows an enrolled key within seconds keeps its place.
"""

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.door.limits import (
    CONNECTIONS_PER_NODE,
    EXPULSION_SECONDS,
    STRANGER_SECONDS,
    STRANGERS,
    STRANGERS_PER_ADDRESS,
)

GUEST = "collegium.guest"
"""Extension of an ASGI scope in which the request's `Guest` stands."""


class Guest:
    """One connection, from its first packet to its last.

    Args:
        connection: The accepted socket.
        address: Of the other end.
    """

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.connection = connection
        self.address = network(address)
        self.node_id: int | None = None
        self.transport: asyncio.Transport | None = None
        self.welcome: asyncio.Task[None] | None = None
        """The TLS handshake, while it lasts."""
        self.judged = False
        """Whether its headers are there and wait for us: what that takes is no time of its own."""

    @contextmanager
    def judging(self) -> Iterator[None]:
        """While it is looked at who it is."""
        self.judged = True
        try:
            yield
        finally:
            self.judged = False

    def close(self) -> None:
        """End it at once, whatever it is doing."""
        if self.transport is not None:
            self.transport.abort()
        elif self.welcome is not None:
            self.welcome.cancel()


class Crowd:
    """Who is at the door.

    Args:
        strangers: Connections without a key, in all.
        per_address: Of one address.
        per_node: Connections of one institution.
        seconds: Life of a connection without a key.
    """

    def __init__(
        self,
        *,
        strangers: int = STRANGERS,
        per_address: int = STRANGERS_PER_ADDRESS,
        per_node: int = CONNECTIONS_PER_NODE,
        seconds: float = STRANGER_SECONDS,
    ) -> None:
        self._most, self._per_address, self._per_node, self._seconds = strangers, per_address, per_node, seconds
        self._strangers: dict[str, OrderedDict[Guest, asyncio.TimerHandle]] = {}
        self._nodes: dict[int, set[Guest]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def strangers(self) -> int:
        """Connections without a key now."""
        return sum(map(len, self._strangers.values()))

    def enter(self, guest: Guest) -> None:
        """Give a new connection its place and its time; another one may have to go."""
        self._loop = asyncio.get_running_loop()
        own = self._strangers.setdefault(guest.address, OrderedDict())
        own[guest] = self._loop.call_later(self._seconds, self._time_is_up, guest)
        if len(own) > self._per_address:
            self._show_out(next(iter(own)))
        if self.strangers > self._most:
            crowded = max(self._strangers.values(), key=len)
            self._show_out(next(iter(crowded)))

    def recognise(self, guest: Guest, node_id: int) -> bool:
        """Move a connection to the institution that it turned out to be; False if that has too many."""
        own = self._nodes.setdefault(node_id, set())
        if guest in own:
            return True
        if len(own) >= self._per_node or guest.node_id is not None or not self._forget_stranger(guest):
            self._drop_if_empty(node_id)
            return False
        guest.node_id = node_id
        own.add(guest)
        return True

    def leave(self, guest: Guest) -> None:
        """Forget a connection that has ended."""
        self._forget_stranger(guest)
        if guest.node_id is not None:
            self._nodes.get(guest.node_id, set()).discard(guest)
            self._drop_if_empty(guest.node_id)

    def expel(self, node_id: int) -> None:
        """End all connections of an institution in a moment, in which requests that are held are told why.

        It may come again if it has an enrolled key. May be called in any thread.
        """
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._loop.call_later, EXPULSION_SECONDS, self._expel, node_id)

    def _expel(self, node_id: int) -> None:
        for guest in list(self._nodes.get(node_id, ())):
            guest.close()

    def _drop_if_empty(self, node_id: int) -> None:
        if node_id in self._nodes and not self._nodes[node_id]:
            del self._nodes[node_id]

    def _time_is_up(self, guest: Guest) -> None:
        if guest.judged and self._loop is not None:  # a crowd of institutions would only come again, and again
            self._strangers[guest.address][guest] = self._loop.call_later(self._seconds, self._time_is_up, guest)
        else:
            self._show_out(guest)

    def _show_out(self, guest: Guest) -> None:
        self._forget_stranger(guest)
        guest.close()

    def _forget_stranger(self, guest: Guest) -> bool:
        own = self._strangers.get(guest.address)
        timer = own.pop(guest, None) if own is not None else None
        if own is None or timer is None:
            return False
        timer.cancel()
        if not own:
            del self._strangers[guest.address]
        return True


def network(address: str) -> str:
    """What counts as one address: itself, or the /64 network that one IPv6 subscriber has."""
    with suppress(ValueError):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(parsed, ipaddress.IPv6Address):
            if parsed.ipv4_mapped:
                return str(parsed.ipv4_mapped)
            return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
