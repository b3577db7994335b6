"""Holding a request open until what it asks for is there: no thread waits for it, and nobody asks in between."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

HEADER = "collegium-wait"
"""In a request: the seconds for which it may be held. In the answer: those for which it would have been."""
EXECUTOR_HEADER = "collegium-executor"
"""In an executor's request for a task: which of its site's executors it is, one after the other."""
LEAVES_HEADER = "collegium-leaves"
"""In an institution's reply: it is the last one, and it counts as offline once that is there."""
LONGEST_SECONDS = 25.0
"""Flower's clients give up a request after 30 s, and many proxies after 60."""

Receive = Callable[[], Awaitable[Any]]
"""ASGI's: once the body is read, it returns when the client has gone."""


class GoneError(Exception):
    """The client has ended its request."""


class Bell:
    """Wakes whoever waits for a key; it may be rung in any thread."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[_Waiter]] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Nobody is to wait any more."""
        return self._closed

    def ring(self, key: Hashable) -> None:
        """Wake all who wait for this key now."""
        with self._lock:
            for waiter in self._waiting.get(key, ()):
                waiter.wake()

    def close(self) -> None:
        """Wake everybody, for good."""
        with self._lock:
            self._closed = True
            for waiters in self._waiting.values():
                for waiter in waiters:
                    waiter.wake()

    def count(self, key: Hashable) -> int:
        """How many wait for a key."""
        with self._lock:
            return len(self._waiting.get(key, ()))

    @contextmanager
    def listening(self, key: Hashable) -> Iterator["_Waiter"]:
        """Hear every ring for this key, from before the first look on."""
        waiter = _Waiter()
        with self._lock:
            self._waiting.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiting[key].discard(waiter)
                if not self._waiting[key]:
                    del self._waiting[key]


class _Waiter:
    def __init__(self) -> None:
        self._loop, self.event = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self.event.set)


async def hold(
    bell: Bell, key: Hashable, ready: Callable[[], Awaitable[bool]], *, seconds: float, receive: Receive
) -> None:
    """Return when `ready` says so, the bell is closed, or the time is over; look at first and after every ring.

    Args:
        bell: Rung for `key` whenever `ready` may have become true.
        key: What is waited for.
        ready: Looks.
        seconds: The longest wait.
        receive: Of the request, whose body has been read.

    Raises:
        GoneError: The client did not wait for it.
    """
    with bell.listening(key) as waiter:
        gone = asyncio.ensure_future(receive())
        try:
            async with asyncio.timeout(seconds):
                while not (bell.closed or await ready()):
                    rung = asyncio.ensure_future(waiter.event.wait())
                    try:
                        await asyncio.wait({rung, gone}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        rung.cancel()
                    if gone.done():
                        raise GoneError
                    waiter.event.clear()
        except TimeoutError:
            return
        finally:
            gone.cancel()


async def hold_request(
    bell: Bell, key: Hashable, ready: Callable[[], Awaitable[bool]], *, seconds: float, receive: Receive
) -> Receive:
    """Read a request's body, hold the request, and return what gives the body to whoever answers it.

    Raises:
        GoneError: The client did not wait for it.
    """
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    else:
        raise GoneError
    await hold(bell, key, ready, seconds=seconds, receive=receive)
    return replayed(body, receive)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application that is to read the body anew: it at once, then whatever comes after it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return pending.pop() if pending else await receive()

    return receive_again


def seconds_asked(value: str | None, longest: float = LONGEST_SECONDS) -> float:
    """The seconds that a request's header allows, at most `longest`; 0 if it has none, or no number."""
    try:
        asked = float(value or 0.0)
    except ValueError:
        return 0.0
    return min(asked, longest) if asked > 0 else 0.0  # also of what is no number
