"""An append-only file of chained entries: one SQLite table, read and verified as a whole in every transaction.

Each entry's SHA-256 covers what it says, its number, and the SHA-256 of the entry before it, so the last one, the head,
stands for all. An edited entry breaks the chain. A file that was cut or replaced by an older copy is a right chain in
itself: it shows by a head that was remembered elsewhere.

The journal mode is DELETE, not WAL, so that between transactions the one file is all there is: no entry waits in a
second file that a copy would leave behind. `synchronous` is EXTRA: when a transaction has ended, its entries are on
disk and so is the removal of the journal that could undo them.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.errors import BudgetError
from shared.process.files import private_folder, sync_folder

FORMAT = 1
_TABLE = "CREATE TABLE entries (sequence INTEGER PRIMARY KEY, kind TEXT, body TEXT, sha256 TEXT)"
_SETTINGS = ("journal_mode = DELETE", "synchronous = EXTRA", "fullfsync = ON", "cell_size_check = ON")
_WAIT_SECONDS = 30.0
"""How long a transaction waits for another process to end its own."""


@dataclass(frozen=True)
class Head:
    """The last entry of a chain at some time; whoever remembers it can tell whether the chain still contains it."""

    sequence: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.sha256}"


@dataclass(frozen=True)
class Entry:
    """One entry; its number is its place, from 0."""

    sequence: int
    kind: str
    body: Mapping[str, Any]
    sha256: str

    @property
    def head(self) -> Head:
        """The head of the chain that ends here."""
        return Head(self.sequence, self.sha256)


@dataclass
class Chain:
    """The entries within one transaction."""

    entries: list[Entry]
    _connection: sqlite3.Connection = field(repr=False)

    def append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        """Add an entry, to which the time is added; it counts once the transaction has ended."""
        text = json.dumps({**body, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}, allow_nan=False)
        sequence = len(self.entries)
        previous = self.entries[-1].sha256 if self.entries else ""
        sha256 = _digest(previous, sequence, kind, text)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (sequence, kind, text, sha256))
        self.entries.append(Entry(sequence, kind, json.loads(text), sha256))
        return self.entries[-1]


def create(path: Path) -> None:
    """Make a chain of one entry, kind `ledger`, whose random name tells it from all others; never replaces a file.

    Raises:
        BudgetError: It could not be written, or a journal of an earlier file lies there.
    """
    if path.with_name(f"{path.name}-journal").exists():
        raise BudgetError(
            f"Expected the privacy ledger {path}, but there is only its journal; restore the latest copy from a backup."
        )
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        private_folder(path.parent)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with _connected(temporary) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_TABLE)
            Chain([], connection).append("ledger", {"format": FORMAT, "name": secrets.token_hex(16)})
            connection.execute("COMMIT")
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
        sync_folder(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, "written", error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def transaction(path: Path, *, write: bool) -> Iterator[Chain]:
    """All entries, verified; what the block appends is on disk when it has ended, or not at all if it raises.

    Writers wait for each other, in this process and others.

    Raises:
        BudgetError: The file is missing, cannot be read or written, or has been tampered with.
    """
    try:
        with _connected(path) as connection:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield Chain(_read(connection, path), connection)
            connection.execute("COMMIT")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message quotes what has been edited
        raise _unusable(path, "written" if write else "read", error) from error


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    # A connection per transaction: one held open would go on writing to a file that has since been replaced.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        yield connection
    finally:
        connection.close()  # rolls back what has not been committed


def _read(connection: sqlite3.Connection, path: Path) -> list[Entry]:
    schema = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    if schema != [(_TABLE,)]:
        raise _tampered(path, "has another structure")
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise _tampered(path, f"is damaged ({damage})")
    rows = connection.execute("SELECT sequence, kind, body, sha256 FROM entries ORDER BY sequence").fetchall()
    entries = list(_verified(rows, path))
    if not entries or entries[0].kind != "ledger":
        raise _tampered(path, "does not begin as a ledger does")
    if entries[0].body.get("format") != FORMAT:
        raise BudgetError(
            f"Expected the privacy ledger {path} in format {FORMAT}, but it is in {entries[0].body.get('format')}; "
            "use the version of collegium that wrote it, or a later one."
        )
    return entries


def _verified(rows: list[tuple[int, str, str, str]], path: Path) -> Iterator[Entry]:
    previous = ""
    for place, (sequence, kind, body, sha256) in enumerate(rows):
        if sequence != place or sha256 != _digest(previous, sequence, kind, body):
            raise _tampered(path, f"has been edited at entry {place}")
        try:
            content = dict(json.loads(body))
        except (TypeError, ValueError):
            raise _tampered(path, f"has been edited at entry {place}") from None
        yield Entry(sequence, kind, content, sha256)
        previous = sha256


def _digest(previous: str, sequence: int, kind: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{sequence}\n{kind}\n{body}".encode()).hexdigest()


def _tampered(path: Path, what: str) -> BudgetError:
    return BudgetError(
        f"Expected the privacy ledger {path} as it was written, but it {what}; nothing is trained with differential "
        "privacy until its latest copy is restored from a backup."
    )


def _unusable(path: Path, what: str, error: Exception) -> BudgetError:
    return BudgetError(
        f"The privacy ledger {path} could not be {what} ({error}); nothing is trained with differential privacy until "
        "it can be: look after the disk and the file's rights, or restore its latest copy from a backup."
    )
