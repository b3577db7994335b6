"""Lines of logs: text for people, or one JSON object each with time, level, run, round, institution and event.

The format is a variable of the environment, so that all processes of a daemon have the same. What is known of a line
beside its text, such as the round, is said once for a block (`about`) and stands in every line that comes out of it.
"""

import json
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType, TracebackType

VARIABLE = "COLLEGIUM_LOG_FORMAT"
FRAME = Path(__file__).with_name("frame.py")
"""The program that makes JSON of what a child prints."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_BYTES = 10 * 2**20
"""A log that has grown beyond this becomes `NAME.1`, in the place of the one before."""
_known: ContextVar[Mapping[str, str | int]] = ContextVar("known", default=MappingProxyType({}))


def choose(format: str) -> None:
    """Have this process, and those that it starts, write lines in this format."""
    os.environ[VARIABLE] = format


def as_json() -> bool:
    """Whether lines are JSON objects."""
    return os.environ.get(VARIABLE) == "json"


@contextmanager
def about(*, run: str | None = None, round: int | None = None, institution: str | None = None) -> Iterator[None]:
    """While the block lasts, this thread's lines are about that."""
    given = {"run": run, "round": round, "institution": institution}
    token = _known.set({**_known.get(), **{name: value for name, value in given.items() if value is not None}})
    try:
        yield
    finally:
        _known.reset(token)


def line(event: str, *, level: str = "info", time: float | None = None, **more: str) -> str:
    """A line of the log as JSON.

    Args:
        event: What happened, a sentence.
        level: `debug`, `info`, `warning`, `error` or `critical`.
        time: Seconds since 1970; now if not given.
        more: Further fields.
    """
    moment = datetime.now(UTC) if time is None else datetime.fromtimestamp(time, UTC)
    said = {"time": moment.isoformat(timespec="milliseconds"), "level": level, **_known.get(), "event": event, **more}
    return json.dumps(said, ensure_ascii=False)


def text_of(line: str) -> str:
    """What a line says, as it stands in a log of text: ` LOGGER: EVENT` or the event alone."""
    if not line.startswith('{"time": '):
        return line
    try:
        said = json.loads(line)
        return f" {said['logger']}: {said['event']}" if "logger" in said else str(said["event"])
    except (ValueError, LookupError, TypeError):
        return line


class _WithoutMessages(logging.Formatter):
    """Says where an exception came from and of which kind it is, never its text, which may quote a record."""

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The places in the code, the latest last, and the exception's type."""
        kind, _, place = ei
        return "".join(traceback.format_tb(place)) + (kind.__name__ if kind else "")


class _JsonLines(_WithoutMessages):
    """One JSON object a record.

    Args:
        fields: In every one.
    """

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """The object, in one line."""
        more = {"logger": record.name, **self._fields}
        if record.exc_info:
            more["where"] = self.formatException(record.exc_info)
        return line(record.getMessage(), level=record.levelname.lower(), time=record.created, **more)


@contextmanager
def written(log: logging.Logger, file: Path, process: str) -> Iterator[None]:
    """While the block lasts, a logger writes to a file of its own, which begins anew as `NAME.1` at LOG_BYTES.

    Args:
        log: The logger; nobody else hears it then.
        file: Its folder is there.
        process: A field of its lines, where they are JSON.
    """
    handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(_JsonLines(process=process) if as_json() else _WithoutMessages(TEXT))
    log.propagate, before = False, log.propagate
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.propagate = before


def set_up() -> None:
    """Have this process's loggers write to stderr from level INFO on, in the format that was chosen."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if as_json() else _WithoutMessages(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
