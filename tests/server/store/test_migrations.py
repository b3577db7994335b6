"""Older stores: every version opens, and says afterwards all that it said before, whatever dies meanwhile."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.runs.status import refusals
from server.store import SCHEMA_VERSION, Store, migrations, replies, schema
from server.store.schema import metadata
from shared.errors import StoreError

OLDER = Path(__file__).parent / "older"
"""Dumps of stores that earlier releases wrote: NUMBER and a letter, since version 1 grew six times under one number."""
HALF_WAY = """
import sys
from pathlib import Path
from server.store import Store, migrations
step = migrations.STEPS[2]
def slow(connection):
    step(connection)
    print("half way", flush=True)
    sys.stdin.read()
migrations.STEPS = {**migrations.STEPS, 2: slow}
Store.open(sys.argv[1], checkpoints=Path(sys.argv[2]))
"""


def restore(dump: Path, path: Path) -> dict[str, list[dict[str, Any]]]:
    """Write a dumped store to `path`; its rows by table."""
    with sqlite3.connect(path) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))
    connection.close()
    return read(path)


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in tables}
    connection.close()
    return found


def open_store(path: Path) -> Store:
    return Store.open(f"sqlite:///{path}", checkpoints=path.parent / "checkpoints")


@pytest.mark.parametrize("dump", sorted(OLDER.glob("*.sql")), ids=lambda dump: dump.stem)
def test_every_row_of_an_older_store_survives(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "collegium.db"
    before = restore(dump, path)
    assert sum(map(len, before.values())) > 10
    with open_store(path) as store:
        assert [row["kind"] for row in refusals(store.rows(replies, "0a1b2c3d"))] == ["policy"]
        for table in metadata.sorted_tables:
            store.rows(table)
    after = read(path)
    assert set(after) == set(metadata.tables)
    assert [row["version"] for row in after.pop("schema_version")][-1] == SCHEMA_VERSION
    before.pop("schema_version", None)
    for name, rows in before.items():
        assert len(after[name]) == len(rows)
        for old, new in zip(rows, after[name], strict=True):
            if new.get("refusal") and "refusal" not in old:
                new["reason"] = f"{new['refusal']}: {new['reason']}"
            assert {key: new[key] for key in old} == old


def test_a_migrated_store_has_the_columns_of_a_new_one(tmp_path: Path) -> None:
    restore(OLDER / "1a.sql", tmp_path / "old.db")
    columns = []
    for name in ("old.db", "new.db"):
        open_store(tmp_path / name).__exit__()
        look = sa.inspect(sa.create_engine(f"sqlite:///{tmp_path / name}"))
        columns.append({t: sorted(c["name"] for c in look.get_columns(t)) for t in look.get_table_names()})
    assert columns[0] == columns[1]


def test_there_is_a_step_to_every_version() -> None:
    assert list(migrations.STEPS) == list(range(2, SCHEMA_VERSION + 1))
    numbers = {int(dump.stem.rstrip("abcdefgh")) for dump in OLDER.glob("*.sql")}
    assert numbers == set(range(1, SCHEMA_VERSION)), "a dump of every version that came before"


def test_a_store_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "collegium.db"
    with open_store(path) as store, store._writing("write") as connection:
        connection.execute(sa.insert(schema).values(version=SCHEMA_VERSION + 1))
    before = read(path)
    with pytest.raises(StoreError, match=rf"version {SCHEMA_VERSION} or earlier, but .* {SCHEMA_VERSION + 1}; install"):
        open_store(path)
    assert read(path) == before


@pytest.mark.slow
@pytest.mark.parametrize("dump", ["1a.sql", "1f.sql"])
def test_a_process_killed_half_way_loses_nothing(dump: str, tmp_path: Path) -> None:
    path = tmp_path / "collegium.db"
    before = restore(OLDER / dump, path)
    command = [sys.executable, "-c", HALF_WAY, f"sqlite:///{path}", str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        os.kill(process.pid, signal.SIGKILL)
    assert read(path) == before
    with open_store(path) as store:
        assert len(store.rows(replies)) == len(before["replies"])


@pytest.mark.slow
def test_two_processes_that_open_an_older_store_at_once_migrate_it_once(tmp_path: Path) -> None:
    path = tmp_path / "collegium.db"
    restore(OLDER / "1f.sql", path)
    command = [sys.executable, "-c", HALF_WAY, f"sqlite:///{path}", str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "half way\n"
        other = [sys.executable, "-c", HALF_WAY.replace("sys.stdin.read()", ""), *command[3:]]
        with subprocess.Popen(other, stdout=subprocess.PIPE, text=True) as second:
            first.stdin.close()
            assert second.communicate(timeout=60)[0] == "", "the second found nothing left to do"
        assert (first.wait(60), second.returncode) == (0, 0)
    assert [row["version"] for row in read(path)["schema_version"]] == [1, SCHEMA_VERSION]


@pytest.mark.extra
def test_postgresql_is_migrated_alike(tmp_path: Path, postgresql: str) -> None:
    engine = sa.create_engine(postgresql, poolclass=sa.NullPool)
    with Store.open(postgresql, checkpoints=tmp_path) as store:
        assert store.rows(replies) == []
    with engine.begin() as connection:
        for name in ("spending", "evaluations", "findings", "cuts", "releases", "withdrawals"):
            connection.execute(sa.text(f"DROP TABLE {name}"))
        later = (("replies", "refusal"), ("replies", "losses"), ("rounds", "norm"), ("replies", "software"))
        runs = (("runs", column) for column in ("attempt", "tries", "pausing", "parent", "parent_round", "asking"))
        for name, column in (*later, *runs, ("events", "time")):
            connection.execute(sa.text(f"ALTER TABLE {name} DROP COLUMN {column}"))
        connection.execute(sa.text("UPDATE schema_version SET version = 1"))
        for line in (OLDER / "1f.sql").read_text(encoding="utf-8").splitlines():
            if line.startswith('INSERT INTO "runs"'):
                connection.exec_driver_sql(line.rstrip(";").replace("%", "%%"))
        columns = "(id, run, round, kind, institution, status, reason, bytes_up, bytes_down, seconds)"
        values = "(1, '0a1b2c3d', 1, 'train', 'bank', 'refused', 'policy: no: way', 1, 2, 0.5)"
        connection.exec_driver_sql(f"INSERT INTO replies {columns} VALUES {values}")
    with Store.open(postgresql, checkpoints=tmp_path) as store:
        (row,) = store.rows(replies)
        assert (row["refusal"], row["reason"]) == ("policy", "no: way")
        for table in metadata.sorted_tables:
            store.rows(table)
