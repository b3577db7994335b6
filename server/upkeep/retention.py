"""What a coordinator throws away while it serves, so that a year of runs takes no more room than a month.

Of each run the first checkpoint, the best ones and the last ones stay, and of one that has ended long ago no events.
Flower throws away messages and nonces by itself; what is left in its database are lines that run processes wrote, and
the room of what is gone. Scores, answers and what they have cost are the record of a run, and stay.
"""

import datetime
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from server.home import Retention, ServerHome
from server.store import Store, checkpoints, runs
from shared.errors import CollegiumError, StoreError

YOUNG_SECONDS = 3600.0
"""A checkpoint's file is written before its row: one without a row is another process's for so long."""
LOOK_SECONDS = 60.0
"""Between two looks at checkpoints."""
DAY_SECONDS = 24 * 3600.0
LEAST_BYTES = 32 * 2**20
"""Free on the disk: with less no run goes on."""
FREE_PAGES = 256
"""A database with more free pages than this, and more than a quarter of all, is written anew."""


def make_room(
    home: ServerHome,
    store: Store,
    kept: Retention,
    *,
    over: Callable[[float], bool],
    announce: Callable[[str], None],
) -> None:
    """Throw away what is not kept, again and again; what goes wrong is said once, and tried again.

    Args:
        home: The coordinator's folder.
        store: Its store.
        kept: What is kept.
        over: Waits some seconds; whether the daemon ends.
        announce: Told what goes wrong.
    """
    forgotten, said = -DAY_SECONDS, ""
    while True:
        try:
            thin_checkpoints(store, kept)
            if time.monotonic() - forgotten >= DAY_SECONDS:
                forgotten = time.monotonic()
                forget_old(home, store, kept)
        except CollegiumError as error:
            if str(error) != said:
                said = str(error)
                announce(said)
        if over(LOOK_SECONDS):
            return


def thin_checkpoints(store: Store, kept: Retention) -> None:
    """Throw away the checkpoints that nobody needs any more, of all runs.

    Raises:
        StoreError: The store cannot be written.
    """
    for row in store.rows(runs):
        run = row["run"]
        stored = [each["round"] for each in store.rows(checkpoints, run)]
        if len(stored) > 2 * kept.checkpoints and not store.agreement(run).method.folds:
            rounds = rounds_to_keep(stored, store.best_rounds(run), kept.checkpoints)
            store.keep_checkpoints(run, rounds, older_than=YOUNG_SECONDS)


def rounds_to_keep(stored: Collection[int], best: Sequence[int], most: int) -> set[int]:
    """The first, the best and the last of the rounds that have a checkpoint."""
    return {*sorted(stored)[:1], *best[:most], *sorted(stored)[-most:]}


def forget_old(home: ServerHome, store: Store, kept: Retention) -> None:
    """Throw away events and lines of runs that ended long ago, and give free room of Flower's database back.

    Raises:
        StoreError: A database cannot be written.
    """
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=kept.days)
    store.forget_events(before.isoformat(timespec="microseconds"))
    for file in home.logs.glob("run-*.log*"):
        with suppress(OSError):  # it has gone meanwhile
            if file.stat().st_mtime < before.timestamp():
                file.unlink()
    if home.superlink_database.exists():
        shrink(home.superlink_database, before)


def shrink(database: Path, before: datetime.datetime) -> None:
    """Throw away what processes of runs wrote that ended before a time, and write the file anew if much of it is free.

    Args:
        database: Flower's, which a SuperLink may use meanwhile: it waits for milliseconds.
        before: The time, in UTC.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        with closing(sqlite3.connect(database, timeout=30.0, isolation_level=None)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if {"task", "task_logs"} <= tables:
                connection.execute(
                    "DELETE FROM task_logs WHERE task_id IN (SELECT task_id FROM task WHERE finished_at < ?)",
                    (before.strftime("%Y-%m-%d %H:%M:%S.%f"),),
                )
            free, pages = (
                connection.execute(f"PRAGMA {each}").fetchone()[0] for each in ("freelist_count", "page_count")
            )
            if free > max(FREE_PAGES, pages // 4):
                connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StoreError(f"Could not make room in Flower's database {database}: {error}; it is as it was.") from None


def lack_of_room(home: ServerHome) -> str:
    """The sentence that tells the operator that runs wait for room on the disk; empty if there is enough."""
    free = shutil.disk_usage(home.root).free
    if free >= LEAST_BYTES:
        return ""
    return (
        f"Runs wait for room on the disk of {home.root}, where {free / 2**20:.0f} MiB are free; they go on once there "
        f"are {LEAST_BYTES / 2**20:.0f} MiB, and nothing is lost meanwhile."
    )


def sizes(home: ServerHome) -> dict[str, int]:
    """Bytes on disk, by what they are: both databases, checkpoints, logs."""
    return {
        "store": _bytes(home.state.glob("collegium.db*")),
        "flower": _bytes(home.state.glob("superlink.db*")),
        "checkpoints": _bytes(home.checkpoints.rglob("*")),
        "logs": _bytes(home.logs.rglob("*")),
    }


def _bytes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        with suppress(OSError):  # it has gone meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total
