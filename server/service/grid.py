"""Flower's Grid between a run and the SuperLink of the same machine, whose messages carry their arrays."""

from collections.abc import Iterable
from typing import Any, cast

from flwr.app import Message
from flwr.serverapp import Grid

from shared.process.carrying import MOST_BYTES, Carrier


def carrying(grid: Grid) -> Grid:
    """A Grid that asks for less: one request for a message, and one for a reply; another than Flower's own as it is."""
    return cast(Grid, _CarryingGrid(grid)) if hasattr(grid, "_runtime_client") else grid


class _CarryingGrid:
    def __init__(self, grid: Any) -> None:
        self._grid, self._carrier = grid, Carrier(takes=MOST_BYTES, confirms=True)
        client = grid._runtime_client
        client._interceptors = (self._carrier, *client._interceptors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, one at a time; their ids."""
        for message in messages:
            self._carrier.offer(message)
            yield from self._grid.push_messages([message])
