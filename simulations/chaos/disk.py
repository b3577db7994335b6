"""A small disk of its own for a folder, which can be filled: needs the right to mount one."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import ProcessError

MEBIBYTES = 96
"""Several times what a tiny federation writes in a run."""
FILLER = ".full"
AGAIN_SECONDS = 0.05


@contextmanager
def small_disk(folder: Path, mebibytes: int = MEBIBYTES) -> Iterator[None]:
    """A disk of so much room at a folder, which is made; what is on it is gone when the block ends.

    Raises:
        ProcessError: This user may not mount one.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "collegium-chaos", str(folder)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ProcessError(f"Expected to be allowed to mount a small disk, but: {done.stderr.strip()}; run it as root.")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def may_mount() -> bool:
    """Whether this process may do so."""
    if os.geteuid():
        return False
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return bool(effective & 1 << 21)  # CAP_SYS_ADMIN


def fill(folder: Path, over: threading.Event, seconds: float) -> None:
    """Leave no room on a folder's disk for so many seconds, or until it is over; what others give back is taken too."""
    file = folder / FILLER
    ended = threading.Event()
    timer = threading.Timer(seconds, ended.set)
    timer.start()
    try:
        with file.open("wb") as stream:
            size = 0
            while not (ended.is_set() or over.is_set()):
                size = _take_all(stream.fileno(), size)
                over.wait(AGAIN_SECONDS)
    finally:
        timer.cancel()
        with suppress(FileNotFoundError):
            file.unlink()


def _take_all(descriptor: int, size: int) -> int:
    piece = 2**24
    while piece >= 4096:
        try:
            os.posix_fallocate(descriptor, size, piece)
            size += piece
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            piece //= 2
    return size
