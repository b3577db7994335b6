"""One daemon per folder: a lock that the kernel frees however its process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigError


def holder(file: Path) -> str | None:
    """The process that holds a lock, as it names itself; None if nobody does."""
    try:
        with file.open("r", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return file.read_text(encoding="ascii").strip() or "unknown"
    except OSError:  # there is none, or nobody may read it
        return None
    return None


def is_served(file: Path) -> bool:
    """Whether the process that a lock file names is alive; takes no lock, so that it can be asked at any time."""
    try:
        os.kill(int(file.read_text(encoding="ascii")), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def only_one(file: Path, *, serving: str, advice: str) -> Iterator[None]:
    """Hold the lock while the block lasts.

    Args:
        file: The lock file; made if there is none. It names the process that holds it.
        serving: What is served, for the error.
        advice: What to do if it is served already, for the error.

    Raises:
        ConfigError: Another process holds the lock.
    """
    with file.open("a+", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise ConfigError(
                f"Expected {serving} to be free, but process {owner} already serves it; {advice}."
            ) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
        stream.truncate(0)
