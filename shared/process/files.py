"""Files that Collegium keeps: on disk before they are relied on, and their owner's alone but for what is handed on."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import ConfigError, StoreError

OTHERS = 0o077
"""The bits of a mode that let anybody but the owner in."""


def private_umask() -> None:
    """Make every file and folder that this process and its children create readable by its owner alone."""
    os.umask(OTHERS)


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may open, or close it if it is an older one, with all that is in it.

    Raises:
        OSError: It cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & OTHERS:
        for folder, _, files in os.walk(path):
            for name in (folder, *(os.path.join(folder, file) for file in files)):
                _close(Path(name))
    return path


def check_folder(path: Path) -> None:
    """Raise StoreError unless files can be made in a folder, which need not be there yet; nothing is left behind."""
    place = next(each for each in (path, *path.parents) if each.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".collegium-", dir=place):
            pass
    except OSError as error:
        raise StoreError(
            f"Expected a folder that can be written to at {path}, but in {place} nothing can be made "
            f"({error.strerror}); look after its rights and the disk, or name another folder."
        ) from None


def private_file(path: Path) -> None:
    """Make an empty file that its owner alone may read, or close it if there is one; what is in it stays.

    One that is there is not opened: a process that closes any descriptor of a file loses all its locks on it, and
    SQLite's are such. Without them another process that ends takes itself for the last one, and removes the log that
    this one goes on writing to.

    Raises:
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _close(path)


def write_synced(file: Path, blob: bytes) -> None:
    """Put a file in the place of the last one, whole or not at all, however the machine dies.

    Raises:
        OSError: The disk is full or not writable; the last one stays.
    """
    temporary = file.with_suffix(".part")
    try:
        with temporary.open("wb") as stream:
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(file.parent)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Create a file with `mode` from the first moment on, and have it on disk; it is not there if this fails.

    Raises:
        OSError: There is one, or it cannot be written; `filename` is its path.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def built(folder: Path) -> Iterator[Path]:
    """A folder to build in, whose content takes its place when the block has ended; of one that fails nothing stays.

    Args:
        folder: Made, with the folders above it; one that exists keeps what it has.

    Raises:
        OSError: The disk refuses, or `folder` has something of the same name; it is as it was then.
    """
    folder = folder.absolute()
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700)
    building = Path(tempfile.mkdtemp(prefix=".collegium-", dir=folder))
    moved: list[Path] = []
    try:
        yield building
        for entry in building.iterdir():
            if (target := folder / entry.name).exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        for entry in list(building.iterdir()):
            moved.append(entry.rename(folder / entry.name))
        building.rmdir()
        sync_folder(folder)
    except BaseException:
        for target in moved:
            target.rename(building / target.name)
        shutil.rmtree(building, ignore_errors=True)
        for each in missing:
            with suppress(OSError):  # somebody else has put something into it
                each.rmdir()
        raise


def sync_folder(path: Path) -> None:
    """Have the names of a folder's files on disk when this returns."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_private(path: Path) -> None:
    """Raise ConfigError if others may read or write a key; a file that is not there is for its reader to miss."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & OTHERS:
        raise ConfigError(
            f"Expected {path} to be its owner's alone, since it is a secret, but other users of this machine may open "
            f"it (mode {stat.S_IMODE(mode):04o}); run `chmod 600 {path}`, and make a new one if somebody may have "
            "read it."
        )


def _close(path: Path) -> None:
    with suppress(OSError):  # another user's file in it, or one that has gone meanwhile
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)
