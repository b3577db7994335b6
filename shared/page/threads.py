"""Where pages read and act: in few threads, so that they leave the others to what else a process has to do."""

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

P = ParamSpec("P")
T = TypeVar("T")
PLACES = CapacityLimiter(4)
"""Of all pages together. A reader may wait for an answer of its own process, which takes a thread as well."""


async def in_thread(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Have something done in a thread; what it returns or raises."""
    return await run_sync(partial(work, *args, **more), limiter=PLACES)
