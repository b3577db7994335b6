"""An append-only file of chained entries: one SQLite table, read and verified as a whole in every transaction.

Each entry's SHA-256 covers what it says, its number, and the SHA-256 of the entry before it, so the last one, the head,
stands for all. An edited entry breaks the chain. A file that was cut or replaced by an older copy is a right chain in
itself: it shows by a head that was remembered elsewhere.

The journal mode is DELETE, not WAL, so that between transactions the one file is all there is: no entry waits in a
second file that a copy would leave behind. `synchronous` is EXTRA: when a transaction has ended, its entries are on
disk and so is the removal of the journal that could undo them.
"""

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.hashchain import Head
from shared.errors import BudgetError
from shared.process.files import sync_folder

FORMAT = 3
"""What entries may contain; the last entry with a number (`ledger`, the first one, or `format`) has the file's."""
START = Head(-1, "")
"""What the first entry follows."""
_TABLE = "CREATE TABLE entries (sequence INTEGER PRIMARY KEY, kind TEXT, body TEXT, sha256 TEXT)"
_SETTINGS = ("journal_mode = DELETE", "synchronous = EXTRA", "fullfsync = ON", "cell_size_check = ON")
_WAIT_SECONDS = 30.0
"""How long a transaction waits for another process to end its own."""


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
        sequence, sha256 = _after(self.entries[-1].head if self.entries else START, kind, text)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (sequence, kind, text, sha256))
        self.entries.append(Entry(sequence, kind, json.loads(text), sha256))
        return self.entries[-1]


STEPS: Mapping[int, Callable[[Chain], None]] = {2: lambda chain: None, 3: lambda chain: None}
"""What makes a ledger one of each format, out of one of the format before. Entries are never rewritten: a step can only
add some, and a `format` entry is written after it.

2: data sets are marked by what owners and records say, in whatever spelling (`data`, `approve`, `scored`); what stands
under `dataset` is read as before.
3: a ledger may be taken into another one of the institution's (`adopt` there, `moved` here).
"""


def create(path: Path) -> None:
    """Make a chain of one entry, kind `ledger`, with a random name unlike all others; never replaces a file.

    Raises:
        BudgetError: It could not be written, or a journal of an earlier file lies there.
    """
    if path.with_name(f"{path.name}-journal").exists():
        raise BudgetError(
            f"Expected the privacy ledger {path}, but there is only its journal; restore the latest copy from a backup."
        )
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def bring_up_to_date(path: Path) -> Head:
    """Apply the steps that an older ledger lacks, in order and in one transaction.

    Returns:
        The head, by now.

    Raises:
        BudgetError: As `transaction`; the file is then as it was.
    """
    with transaction(path, write=False) as found:
        if format_of(found.entries) == FORMAT:
            return found.entries[-1].head
    with transaction(path, write=True) as found:
        for number in range(format_of(found.entries) + 1, FORMAT + 1):
            STEPS[number](found)
            found.append("format", {"format": number})
    return found.entries[-1].head


def format_of(entries: Sequence[Entry]) -> Any:
    """The number of a ledger's format; whatever else stands in its place."""
    return next(entry.body.get("format") for entry in reversed(entries) if entry.kind in ("ledger", "format"))


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
    number = format_of(entries)
    if number not in range(1, FORMAT + 1):
        raise BudgetError(
            f"Expected the privacy ledger {path} in format {FORMAT} or earlier, but it is in {number}; "
            "install the release of Collegium that wrote it, or a later one."
        )
    return entries


def _verified(rows: list[tuple[int, str, str, str]], path: Path) -> Iterator[Entry]:
    head = START
    for sequence, kind, body, sha256 in rows:
        head = _after(head, kind, body)
        if head != (sequence, sha256):
            raise _tampered(path, f"has been edited at entry {head.sequence}")
        try:
            content = dict(json.loads(body))
        except (TypeError, ValueError):
            raise _tampered(path, f"has been edited at entry {head.sequence}") from None
        yield Entry(sequence, kind, content, sha256)


def _after(head: Head, kind: str, body: str) -> Head:
    return head.follow(f"{head.sha256}\n{head.sequence + 1}\n{kind}\n{body}".encode())


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
