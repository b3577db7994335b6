"""Who is invited, who has taken it up, and who has left: a small database of the coordinator's folder.

Of an invitation's code only the hash is kept. Taking it up is one UPDATE that one key alone can make true, so that two
who come at once are one too many.
"""

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.enrolment.statements import code_hash
from shared.errors import EnrolmentError, StoreError
from shared.process.files import private_file

SCHEMA = """
CREATE TABLE IF NOT EXISTS invitations (
    name TEXT PRIMARY KEY, code_hash TEXT NOT NULL UNIQUE, expires REAL NOT NULL, public_key TEXT);
CREATE TABLE IF NOT EXISTS departures (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, public_key TEXT NOT NULL, how TEXT NOT NULL, time REAL NOT NULL,
    successor TEXT);
"""
How = Literal["revoked", "left", "rotated"]


@dataclass(frozen=True)
class Departure:
    """A key that is good no more."""

    name: str
    public_key: str
    """Its line."""
    how: How
    time: float
    """Seconds since 1970."""
    successor: str | None = None
    """The line of the key that took its place."""


class Invitations:
    """The database; each call is one transaction, and several processes may make them.

    Args:
        file: Of the coordinator's folder; made if there is none.

    Raises:
        StoreError: It cannot be used; every method may say so.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        with self._failing():
            private_file(file)
            with closing(sqlite3.connect(file)) as connection:
                connection.executescript(SCHEMA)

    def invite(self, name: str, *, seconds: float, now: float | None = None) -> str:
        """A new code for an institution, in the place of an earlier one.

        Args:
            name: The institution.
            seconds: How long it is good.
            now: Seconds since 1970; a test may pass its own.
        """
        code = secrets.token_urlsafe(32)
        row = (name, code_hash(code), (now or time.time()) + seconds)
        with self._transaction() as rows:
            rows.execute("REPLACE INTO invitations (name, code_hash, expires) VALUES (?, ?, ?)", row)
        return code

    def claim(self, code: str, name: str, public_key: str, *, now: float | None = None) -> bool:
        """Take up an invitation for a key, once; the same key may come again. Whether this was the first time.

        Raises:
            EnrolmentError: There is no such invitation for this name, it is taken up by another key, or expired.
        """
        hashed = code_hash(code)
        with self._transaction() as rows:
            found = rows.execute(
                "SELECT name, expires, public_key FROM invitations WHERE code_hash = ?", (hashed,)
            ).fetchone()
            if found is None or found[0] != name:
                raise EnrolmentError(
                    f"Expected an invitation of this coordinator's for {name!r}, but it has given none with this code, "
                    "or another one since; ask the coordinator for a new invitation."
                )
            if found[2] == public_key:
                return False
            if found[2] is not None:
                raise EnrolmentError(
                    f"Expected an invitation that nobody has used, but {name!r} has joined with this one, by another "
                    "key; tell the coordinator if that was not you, and ask for a new invitation."
                )
            if found[1] <= (now or time.time()):
                raise EnrolmentError(
                    f"Expected an invitation that is still good, but that for {name!r} has expired; ask the "
                    "coordinator for another one."
                )
            rows.execute("UPDATE invitations SET public_key = ? WHERE code_hash = ?", (public_key, hashed))
            return True

    def give_back(self, code: str, public_key: str) -> None:
        """Undo `claim` where the key could not be enrolled."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE invitations SET public_key = NULL WHERE code_hash = ? AND public_key = ?",
                (code_hash(code), public_key),
            )

    def withdraw(self, name: str) -> None:
        """Forget an institution's invitation, if it has one."""
        with self._transaction() as rows:
            rows.execute("DELETE FROM invitations WHERE name = ?", (name,))

    def note(self, name: str, public_key: str, how: How, *, successor: str | None = None) -> None:
        """Remember that a key is good no more, once."""
        row = (name, public_key, how, successor, time.time())
        with self._transaction() as rows:
            rows.execute(
                "INSERT INTO departures (name, public_key, how, successor, time) SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS "
                "(SELECT id FROM departures WHERE name = ?1 AND public_key = ?2 AND how = ?3)",
                row,
            )

    def departures(self) -> list[Departure]:
        """All of them, in their order."""
        with self._transaction() as rows:
            found = rows.execute("SELECT name, public_key, how, time, successor FROM departures ORDER BY id")
            return [Departure(*row) for row in found]

    def open(self, now: float | None = None) -> dict[str, float]:
        """Names whose invitation can be taken up, and until when (seconds since 1970)."""
        with self._transaction() as rows:
            found = rows.execute(
                "SELECT name, expires FROM invitations WHERE public_key IS NULL AND expires > ? ORDER BY name",
                (now or time.time(),),
            )
            return dict(found.fetchall())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._failing(), closing(sqlite3.connect(self._file, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"Expected the coordinator's invitations in {self._file}, but they cannot be used ({error}); check "
                "that the disk has space and that you own the file, or restore it from your copy of the folder."
            ) from None
