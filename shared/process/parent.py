"""What a child process reports to the supervisor before it ends: why it cannot go on, as JSON through its own pipe.

A restart would not help. The reason is not read out of the child's log, which is for people and starts again when it
is full.
"""

import json
import os
import stat
import sys
from contextlib import suppress

from shared.errors import LONGEST_LINE, loggable, plain

VARIABLE = "COLLEGIUM_PARENT"
"""In a child's environment: the number of the pipe's end that it writes to."""
PIPE_BYTES = 2**16
"""What a pipe holds without anybody reading: more than two errors of LONGEST_LINE, in UTF-8."""


def tell_parent(error: Exception) -> None:
    """Tell the supervisor, if there is one, why this process ends."""
    told = {"error": plain(str(error), LONGEST_LINE), "loggable": loggable(error)}
    message = json.dumps(told, ensure_ascii=False).encode()
    with suppress(OSError, ValueError):  # nobody listens: then whoever reads the log knows
        pipe = int(os.environ.pop(VARIABLE, ""))
        if stat.S_ISFIFO(os.fstat(pipe).st_mode):
            os.write(pipe, message)


def heard(pipe: int) -> str | None:
    """The reason that a child sent through its pipe before it ended; None if none came whole. Does not block.

    All of it if somebody sits at this process's terminal, and else what a log may have, such as the system's journal.
    """
    received = b""
    with suppress(BlockingIOError):  # a process that it left behind may still hold the other end
        while len(received) < PIPE_BYTES and (part := os.read(pipe, PIPE_BYTES)):
            received += part
    try:
        return str(json.loads(received)["error" if sys.stderr.isatty() else "loggable"])
    except (ValueError, LookupError, TypeError):
        return None
