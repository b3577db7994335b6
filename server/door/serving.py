"""Two sockets, one server: uvicorn, with limits on the connections of the public one.

uvicorn learns of a connection when its TLS handshake is over, and waits for headers as long as the other end likes.
Here the public socket's connections are accepted one by one, each with its place in the crowd (`crowd.py`).
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.door.crowd import GUEST, Crowd, Guest
from server.door.limits import HANDSHAKE_SECONDS, HEAD_BYTES
from shared.process.waiting import Bell

TICKS = 10
"""Of uvicorn, between two looks for a new server certificate: a second."""
PAUSE_SECONDS = 0.1
"""Before accepting again when the machine has no sockets left."""


class DoorProtocol(HttpToolsProtocol):
    """HTTP/1.1 of one connection: one request after the other, and heads of limited size.

    Args:
        guest: The connection.
        crowd: Where it leaves at its end.
        options: uvicorn's.
    """

    def __init__(self, *, guest: Guest, crowd: Crowd, **options: Any) -> None:
        super().__init__(**options)
        self._guest, self._crowd = guest, crowd
        self._in_head, self._head_bytes = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        super().connection_lost(exc)
        self._crowd.leave(self._guest)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head takes too much of it."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins; one may wait for the end of the last answer, of which the client has had all it counts."""
        if self.pipeline:
            raise httptools.HttpParserError("requests before the answer to the last one")
        super().on_message_begin()
        self.scope["extensions"] = {GUEST: self._guest}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there; what follows is the next head."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0


class DoorServer(uvicorn.Server):
    """uvicorn on two sockets, the public one first.

    Args:
        config: uvicorn's, loaded.
        crowd: The public socket's connections.
        bell: Closed at the end, so that held requests are answered.
    """

    def __init__(self, config: uvicorn.Config, crowd: Crowd, bell: Bell) -> None:
        super().__init__(config)
        self._crowd, self._bell = crowd, bell
        self._certificate = Path(str(config.ssl_certfile))
        self._certified = self._certificate.stat().st_mtime_ns
        self._accepting: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start Flower's app, then open both doors."""
        assert sockets is not None
        public, operator = sockets
        self.servers: list[asyncio.Server] = []
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        loop = asyncio.get_running_loop()
        self.servers.append(
            await loop.create_server(self._protocol(HttpToolsProtocol), sock=operator, ssl=self.config.ssl)
        )
        public.setblocking(False)
        self._accepting = loop.create_task(self._accept(public))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close both doors, then stop Flower's app."""
        self._bell.close()
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:  # no sockets left, or the other end has gone already
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            guest = Guest(connection, str(address[0]))
            guest.welcome = loop.create_task(self._welcome(guest))
            self._crowd.enter(guest)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn calls ten times a second; whether to stop."""
        if counter % TICKS == 0:
            self._renew_certificate()
        return await super().on_tick(counter)

    def _renew_certificate(self) -> None:
        """Show a new server certificate from now on if there is one; connections that are open stay."""
        with suppress(OSError):  # ssl.SSLError is an OSError
            changed = self._certificate.stat().st_mtime_ns
            if changed != self._certified and self.config.ssl is not None:
                self._certified = changed
                self.config.ssl.load_cert_chain(self._certificate, self.config.ssl_keyfile)

    async def _welcome(self, guest: Guest) -> None:
        """The TLS handshake, after which the protocol has the connection."""
        protocol = self._protocol(DoorProtocol, guest=guest, crowd=self._crowd)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                protocol, guest.connection, ssl=self.config.ssl, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, asyncio.CancelledError):  # ssl.SSLError is an OSError
            self._crowd.leave(guest)
            guest.connection.close()
            return
        guest.transport, guest.welcome = transport, None

    def _protocol(self, kind: type[HttpToolsProtocol], **own: Any) -> Callable[[], HttpToolsProtocol]:
        return lambda: kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state, **own)
