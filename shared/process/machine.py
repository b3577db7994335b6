"""What the machine refuses (a permission, room on the disk, a folder that is not there), as one sentence.

Where a module knows more of what failed than the machine says, it says so itself; all else passes here, at the edge of
every command and child process.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import MachineError, plain

EXPLAINED = {
    errno.EACCES: ("to be allowed to use", "give it to the user who runs this command, or name another path"),
    errno.EPERM: ("to be allowed to use", "give it to the user who runs this command, or name another path"),
    errno.EROFS: ("to be able to write to", "name a path on a disk that can be written to"),
    errno.ENOENT: ("to find", "check the path"),
    errno.ENOTDIR: ("every part of the path but the last to be a folder, in", "check the path"),
    errno.EISDIR: ("a file at", "check the path"),
    errno.EEXIST: ("nothing to be at", "name another path"),
    errno.ENAMETOOLONG: ("a shorter path than", "name another path"),
    errno.ENOSPC: ("room on the disk for", "make room and try again"),
    errno.EDQUOT: ("room in this user's quota for", "make room and try again"),
    errno.EFBIG: ("to be allowed files of any size, such as", "raise the limit (ulimit -f)"),
    errno.EMFILE: ("to be allowed more open files, for", "raise the limit (ulimit -n)"),
    errno.EIO: ("a disk that works under", "look after the disk"),
    errno.EADDRINUSE: ("a port to be free for", "stop the program that uses it, or set another port"),
    errno.ENOMEM: ("more memory, for", "end other programs, or use a machine with more of it"),
}
"""By number of the error: what was expected of a path, and what to do."""


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turn an OSError that nothing else has explained into a MachineError."""
    try:
        yield
    except OSError as error:
        raise MachineError(explain(error)) from error


def explain(error: OSError) -> str:
    """One sentence: what was expected of which path, what came, and what to do."""
    reason = error.strerror or plain(str(error)) or type(error).__name__
    if error.errno not in EXPLAINED:
        where = "" if error.filename is None else f" at {error.filename}"
        return f"The machine refused what this command needs{where}: {reason.rstrip('.')}."
    expected, advice = EXPLAINED[error.errno]
    path = error.filename2 or error.filename or "what is written or read"
    return f"Expected {expected} {path}, but the machine refused ({reason}); {advice}."
