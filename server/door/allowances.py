"""How much each node has asked lately: who passes a limit is refused, and named."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from server.door.limits import (
    BYTES_AT_ONCE,
    BYTES_PER_SECOND,
    BYTES_UNDER_WAY,
    REFUSAL_SECONDS,
    REQUESTS_AT_ONCE,
    REQUESTS_PER_SECOND,
)
from server.door.refusals import RefusedError


class Allowances:
    """What each node may still ask.

    Args:
        clock: Seconds; a test may pass its own.
        pause: Seconds before a refusal.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, pause: float = REFUSAL_SECONDS) -> None:
        self._clock, self._pause = clock, pause
        self._paid: dict[tuple[int, str], float] = {}
        """By node and limit, the time until which what it has asked is paid for; it may be that far in the future."""
        self._reading: dict[int, int] = {}
        self._refused: dict[tuple[int, str], int] = {}

    async def check(self, node_id: int) -> None:
        """Raise RefusedError, after a pause, if the node may not ask anything now."""
        if (wait := self._wait(node_id, "requests", 1 / REQUESTS_PER_SECOND)) > 0:
            await self._end(node_id, "requests", wait)

    async def take(self, node_id: int, length: int) -> None:
        """Count a request with a body of `length` bytes.

        Raises:
            RefusedError: It is more than the node may ask; after a pause.
        """
        for limit, cost in (("requests", 1 / REQUESTS_PER_SECOND), ("bytes", length / BYTES_PER_SECOND)):
            if (wait := self._wait(node_id, limit, cost)) > 0:
                await self._end(node_id, limit, wait)
            self._paid[node_id, limit] = max(self._paid.get((node_id, limit), 0.0), self._clock()) + cost

    @contextmanager
    def reading(self, node_id: int, length: int) -> Iterator[None]:
        """While the block lasts, a body of `length` bytes is read.

        Raises:
            RefusedError: The node sends too many at once.
        """
        if self._reading.get(node_id, 0) + length > BYTES_UNDER_WAY:
            raise self.refuse(node_id, "bytes under way")
        self._reading[node_id] = self._reading.get(node_id, 0) + length
        try:
            yield
        finally:
            self._reading[node_id] -= length
            if not self._reading[node_id]:
                del self._reading[node_id]

    def refuse(self, node_id: int, limit: str, wait: float = REFUSAL_SECONDS) -> RefusedError:
        """What to raise where a node passes a limit, which is noted."""
        self._refused[node_id, limit] = self._refused.get((node_id, limit), 0) + 1
        return RefusedError(429, f"node {node_id} passes its limit of {limit}", retry_after=wait)

    def report(self) -> list[dict[str, Any]]:
        """`node_id`, `limit`, `times`: who was refused for asking too much since the server was started."""
        return [
            {"node_id": node, "limit": limit, "times": times} for (node, limit), times in sorted(self._refused.items())
        ]

    def _wait(self, node_id: int, limit: str, cost: float) -> float:
        """Seconds until the node has saved up enough."""
        most = REQUESTS_AT_ONCE / REQUESTS_PER_SECOND if limit == "requests" else BYTES_AT_ONCE / BYTES_PER_SECOND
        return self._paid.get((node_id, limit), 0.0) + cost - self._clock() - most

    async def _end(self, node_id: int, limit: str, wait: float) -> None:
        refused = self.refuse(node_id, limit, wait)
        await asyncio.sleep(self._pause)
        raise refused
