"""A line between an institution and the coordinator, which can be cut: nothing comes through, and nobody is told."""

import asyncio
import socket
import threading

CHUNK = 65536


class Line:
    """A TCP proxy on a loopback port of its own, in a thread.

    While the line is cut, connections stay open and new ones are taken, but not a byte passes. When it is mended those
    from before it end, as where a firewall has forgotten them, and what was in them is lost.

    Args:
        port: Where the coordinator listens on loopback.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._over, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="line")
        self._thread.start()

    def cut(self) -> None:
        """Let nothing pass."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Let everything pass again, but for connections from before."""
        self._loop.call_soon_threadsafe(self._mend)

    def close(self) -> None:
        """End all of it."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def _mend(self) -> None:
        for task in self._connections:
            task.cancel()
        self._open.set()

    async def _serve(self) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._connections.add(task)
            try:
                await self._connect(reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                writer.close()
                self._connections.discard(task)

        server = await asyncio.start_server(accept, sock=self._listener)
        await self._over.wait()
        server.close()
        self._mend()
        await asyncio.sleep(0.1)  # transports close

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            above, up = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:  # the coordinator is not up
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up))
                both.create_task(self._pump(above, writer))
        except* OSError:
            pass
        finally:
            up.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        writer.close()
