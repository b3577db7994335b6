"""Saying no: to the sender in a word, to the operator in a log that nobody can fill."""

import logging
import math
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

DETAILS = {
    401: "Invalid SuperNode authentication",
    403: "Not allowed to this SuperNode",
    404: "Not Found",
    408: "The body did not come in time",
    411: "Content-Length is required",
    413: "Too large",
    429: "Too many requests",
    503: "Not now",
}
LINES_PER_MINUTE = 60


class RefusedError(Exception):
    """A request that goes no further.

    Attributes:
        status: HTTP status of the answer.
        reason: For the log; the sender gets the status alone, or `body` in its place.
        body: JSON of the answer.
        retry_after: Seconds after which the sender may ask again, if that helps.
    """

    def __init__(
        self, status: int, reason: str, *, body: dict[str, int | str] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after
        self.body = body or {"detail": DETAILS.get(status, "Refused")}


async def answer(refused: RefusedError, scope: Scope, receive: Receive, send: Send) -> None:
    """Tell the sender, and end its connection: what it may still be sending is not read."""
    headers = {"connection": "close"} | ({"WWW-Authenticate": "Bearer"} if refused.status == 401 else {})
    if refused.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(refused.retry_after))
    await JSONResponse(refused.body, status_code=refused.status, headers=headers)(scope, receive, send)


class FewLines(logging.Filter):
    """Passes some lines a minute and counts the others; routine lines (INFO, answers below 400) do not count.

    Args:
        limit: Lines a minute.
        clock: Seconds; a test may pass its own.
    """

    def __init__(self, limit: int = LINES_PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit, self._clock = limit, clock
        self._since, self._passed, self._left_out = clock(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; the first one of a new minute says how many were not."""
        if _is_routine(record):
            return True
        if (now := self._clock()) - self._since >= 60:
            if self._left_out:
                record.msg = f"{record.msg} ({self._left_out} more lines were left out)"
            self._since, self._passed, self._left_out = now, 0, 0
        self._passed += 1
        if self._passed > self._limit:
            self._left_out += 1
            return False
        return True


class NoRoutine(logging.Filter):
    """Leaves out answers below 400, of which a federation makes thousands an hour."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return not (record.name == "uvicorn.access" and _is_routine(record))


def _is_routine(record: logging.LogRecord) -> bool:
    if record.name == "uvicorn.access" and isinstance(record.args, tuple) and record.args:
        return isinstance(record.args[-1], int) and record.args[-1] < 400
    return record.levelno <= logging.INFO
