"""A copy of a folder whose processes go on: one tar file, its owner's alone, with the SHA-256 of all that is in it."""

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from shared.errors import ConfigError, StoreError
from shared.process.files import built, sync_folder

MANIFEST = "MANIFEST.json"
"""Last in an archive: what it is a copy of, and each file's SHA-256."""
FORMAT = 1
DATABASES = (".db", ".sqlite")
PASSING = (".lock", ".part", "-wal", "-shm", "-journal")
"""Endings of files that mean nothing once their process has ended, or that a copy of their database has taken in."""
CHUNK = 2**20
LONGEST_MANIFEST = 2**26


@dataclass
class Collected:
    """What an archive is made of: files by their name in it."""

    folder: Path
    """Where databases are copied to before they are packed."""
    files: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, file: Path) -> None:
        """Take a file as it is when it is read, or a database as it stands between two transactions."""
        if file.suffix in DATABASES:
            self.add_database(name, file)
        else:
            self.files[name] = file

    def add_database(self, name: str, file: Path) -> None:
        """Take a SQLite file, whatever its name, as it stands between two transactions."""
        copy = self.folder / f"{len(self.files)}.sqlite"
        copy_database(file, copy)
        self.files[name] = copy

    def add_folder(self, name: str, folder: Path, *, but: Iterable[Path] = ()) -> None:
        """Take all files below a folder but those that mean nothing without their process, and but some places."""
        for file in files_below(folder, {each.resolve() for each in but}):
            self.add(str(PurePosixPath(name) / file.relative_to(folder).as_posix()), file)


def files_below(folder: Path, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """The files below a folder that are worth keeping, in order; links are what they lead to.

    Args:
        folder: The folder.
        left_out: Resolved paths of files and folders that are passed over.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(each for each in folders if _is_kept(Path(place, each), left_out))
        for file in (Path(place, name) for name in sorted(names)):
            if file.is_file() and _is_kept(file, left_out):
                yield file


def _is_kept(path: Path, left_out: Collection[Path]) -> bool:
    return (
        not path.name.startswith(".collegium-") and not path.name.endswith(PASSING) and path.resolve() not in left_out
    )


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite file that other processes write to, as it stands between two of their transactions.

    Raises:
        StoreError: It cannot be read, or the copy not be written.
    """
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=30.0)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise StoreError(f"Could not copy the database {source}: {error}; nothing has been written.") from None


def pack(target: Path, collect: Callable[[Collected], Mapping[str, Any]], *, kind: str) -> Path:
    """Write an archive, whole or not at all.

    Args:
        target: The file to make.
        collect: Says what goes into it; what it returns stands in the manifest as well. Called again, twice at most, if
            a file that it named has gone before it was read.
        kind: Whose copy it is.

    Raises:
        ConfigError: There is such a file already.
        StoreError: A database cannot be copied, or files go away faster than they are read.
        OSError: A file cannot be read, or the disk refuses.
    """
    target = target.absolute()
    if target.exists():
        raise ConfigError(f"Expected a file to make, but {target} exists; name another one, or remove it.")
    with tempfile.TemporaryDirectory(prefix=".collegium-", dir=target.parent) as scratch:
        for number in range(3):
            try:
                written = _write(Path(scratch, f"{number}.tar"), Path(scratch), number, collect, kind)
                break
            except FileNotFoundError as error:  # what was old enough to be thrown away
                gone = error.filename
        else:
            raise StoreError(
                f"Expected the files to stay while they are copied, but {gone} has gone each time; try again."
            )
        written.rename(target)
    sync_folder(target.parent)
    return target


def _write(
    file: Path, scratch: Path, number: int, collect: Callable[[Collected], Mapping[str, Any]], kind: str
) -> Path:
    collected = Collected(scratch / str(number))
    collected.folder.mkdir(mode=0o700)
    said = collect(collected)
    sums: dict[str, str] = {}
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, source in sorted(collected.files.items()):
                with source.open("rb") as content:
                    sums[name] = _add(tar, name, content, os.fstat(content.fileno()).st_size)
            manifest = json.dumps({"format": FORMAT, "kind": kind, **said, "files": sums}, indent=1).encode()
            _add(tar, MANIFEST, io.BytesIO(manifest), len(manifest))
        stream.flush()
        os.fsync(stream.fileno())
    return file


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> str:
    """Put a file of this size into the archive, without the names of this machine's users; its SHA-256."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    reader = _Summing(content)
    tar.addfile(member, reader)
    return reader.sha256.hexdigest()


class _Summing:
    """A file that is read once, and its SHA-256."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.sha256.update(block)
        return block


@contextmanager
def unpacked(file: Path, folder: Path, *, kind: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Unpack an archive to a new folder, which is there once the block has ended: whole and verified, or not at all.

    Args:
        file: The archive.
        folder: The folder to make; may exist if it is empty.
        kind: Whose copy it must be.

    Yields:
        The folder as it is being built, and the manifest.

    Raises:
        ConfigError: The folder has something in it, or the file is no such archive, or another file than was written.
        OSError: The disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"Expected a new folder to restore to, but {folder} has something in it; name another one.")
    manifest = _check(file, kind)
    with built(folder) as building:
        with tarfile.open(file) as tar:
            for member in tar:
                if member.name != MANIFEST:
                    tar.extract(member, building, filter="data")
        for path in building.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        for name, sha256 in manifest["files"].items():
            if _sha256(building / name) != sha256:
                raise ConfigError(f"Expected {file} to stay as it is, but it has changed while it was read; try again.")
        yield building, manifest


def _check(file: Path, kind: str) -> dict[str, Any]:
    """The manifest of an archive whose every file is found to be as it says."""
    try:
        with tarfile.open(file) as tar:
            found: dict[str, str] = {}
            manifest: dict[str, Any] = {}
            for member in tar:
                body = tar.extractfile(member) if member.isreg() else None
                way = PurePosixPath(member.name)
                if body is None or member.name in found or way.is_absolute() or ".." in way.parts:
                    raise ConfigError(_damaged(file, member.name))
                if member.name == MANIFEST:
                    manifest = dict(json.loads(body.read(LONGEST_MANIFEST)))
                else:
                    found[member.name] = _digest(body)
            told = dict(manifest.get("files", {}))
    except (tarfile.TarError, ValueError, TypeError, EOFError) as error:
        raise ConfigError(_damaged(file, type(error).__name__)) from None
    if (came := (manifest.get("kind"), manifest.get("format"))) != (kind, FORMAT):
        raise ConfigError(
            f"Expected a backup of {kind} in {file}, in format {FORMAT}, but it is one of {str(came[0])[:40]}, in "
            f"format {str(came[1])[:20]}; name another file."
        )
    if wrong := sorted(name for name in found.keys() | told.keys() if found.get(name) != told.get(name)):
        raise ConfigError(_damaged(file, wrong[0]))
    return manifest


def _damaged(file: Path, where: str) -> str:
    return (
        f"Expected {file} as `backup` has written it, but it has been cut or changed ({where}); nothing has been "
        "restored: use another copy."
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return _digest(stream)


def _digest(stream: IO[bytes]) -> str:
    found = hashlib.sha256()
    while block := stream.read(CHUNK):
        found.update(block)
    return found.hexdigest()
