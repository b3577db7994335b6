import datetime
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from server.home import Retention, ServerHome
from server.opening import open_store
from server.store import Store, checkpoints, events
from server.upkeep import retention
from server.upkeep.retention import forget_old, lack_of_room, make_room, rounds_to_keep, shrink, sizes, thin_checkpoints
from shared.errors import StoreError
from shared.federation import Federation
from shared.state import State

NOW = datetime.datetime.now(datetime.UTC)


def write_run(store: Store, federation: Federation, scores: list[float | None]) -> str:
    """A run with a checkpoint after each round, and its score."""
    run = store.create_run(federation)
    store.save_checkpoint(run, 0, State({"a": np.zeros(3, np.float32)}))
    for number, score in enumerate(scores, 1):
        store.save_checkpoint(run, number, State({"a": np.full(3, number, np.float32)}))
        store.add_round(run, number, 1.0, {} if score is None else {number: score})
    return run


def stored(store: Store, run: str) -> list[int]:
    return [row["round"] for row in store.rows(checkpoints, run)]


def test_the_first_the_best_and_the_last_are_kept() -> None:
    assert rounds_to_keep(range(20), [5, 9, 2, 7], 2) == {0, 5, 9, 18, 19}
    assert rounds_to_keep([], [], 2) == set()
    assert rounds_to_keep([0, 1], [1], 3) == {0, 1}


def test_a_long_run_keeps_few_checkpoints(home: ServerHome, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(home.root) as store:
        run = write_run(store, tiny_federation(), [0.1, 0.9, 0.3, 0.8, 0.9, 0.2, 0.1, 0.1])
        (home.checkpoints / run / "round-00003-young.safetensors").write_text("its row may come")
        old = home.checkpoints / run / "round-00003-old.safetensors"
        old.write_text("its row was never written")
        os.utime(old, (0, time.time() - 7200))
        thin_checkpoints(store, Retention(checkpoints=2))
        assert stored(store, run) == [0, 2, 5, 7, 8]
        assert store.best_round(run) == 2, "the earlier one of two that are as good"
        left = sorted(file.name[:12] for file in (home.checkpoints / run).iterdir())
        assert left.count("round-00003-") == 1, "what is young may be another process's"
        assert "round-00001-" not in left
        store.load_checkpoint(run, 2)
        store.update_run(run, status="completed")


def test_the_best_round_has_a_checkpoint(home: ServerHome, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(home.root) as store:
        run = write_run(store, tiny_federation(), [0.1, 0.9, 0.3, 0.4, None])
        store.keep_checkpoints(run, [0, 3, 4, 5], older_than=3600)
        assert store.best_rounds(run) == [4, 3]
        assert store.best_round(run) == 4
        assert len(list((home.checkpoints / run).iterdir())) == 4


@pytest.mark.parametrize("tables", [{"method": "fedex"}, {}])
def test_rounds_that_a_release_is_made_of_stay(
    home: ServerHome, tiny_federation: Callable[..., Federation], tables: dict[str, str]
) -> None:
    with open_store(home.root) as store:
        run = write_run(store, tiny_federation(rounds=tables), [None] * 9)
        thin_checkpoints(store, Retention(checkpoints=1))
        assert len(stored(store, run)) == (10 if tables else 2)


def test_events_of_old_runs_go(home: ServerHome, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(home.root) as store:
        first, second, third = (store.create_run(tiny_federation()) for _ in range(3))
        for run in (first, second, third):
            store.add_event(run, "said")
        store.update_run(first, status="completed", ended="2026-01-01T00:00:00")
        store.update_run(second, status="completed", ended="2026-03-01T00:00:00")
        store.forget_events("2026-02-01")
        assert [row["run"] for row in store.rows(events)] == sorted([second, third], key=[second, third].index)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "superlink.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE task (task_id BIGINT, finished_at TEXT)")
        connection.execute("CREATE TABLE task_logs (task_id BIGINT, log TEXT)")
        for number, day in ((1, "2026-01-01"), (2, "2026-06-01"), (3, None)):
            connection.execute("INSERT INTO task VALUES (?, ?)", (number, day and f"{day} 10:00:00.000000+00:00"))
            connection.execute("INSERT INTO task_logs VALUES (?, ?)", (number, "said"))
        connection.execute("CREATE TABLE objects (content BLOB)")
        connection.execute("INSERT INTO objects VALUES (zeroblob(?))", (4 * 2**20,))
        connection.execute("DELETE FROM objects")
    return file


def test_flowers_database_gives_room_back_while_it_is_used(database: Path) -> None:
    before = database.stat().st_size
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        shrink(database, datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC))
        assert other.execute("SELECT task_id FROM task_logs").fetchall() == [(2,), (3,)]
        assert other.execute("SELECT COUNT(*) FROM task").fetchone() == (3,)
    assert database.stat().st_size < before / 10


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "superlink.db"
    file.write_text("no database, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        shrink(file, NOW)


def test_what_goes_wrong_is_said_once_and_tried_again(home: ServerHome) -> None:
    home.superlink_database.write_text("no database, " * 100)
    said: list[str] = []
    looks = iter([False, False, True])
    with open_store(home.root) as store:
        make_room(home, store, Retention(), over=lambda seconds: next(looks), announce=said.append)
    assert len(said) == 1
    assert "make room" in said[0]


def test_runs_wait_for_room(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lack_of_room(home) == ""
    monkeypatch.setattr(retention, "LEAST_BYTES", 2**60)
    assert "Runs wait for room" in lack_of_room(home)


def test_sizes_are_told_by_kind(home: ServerHome) -> None:
    (home.checkpoints / "run").mkdir()
    (home.checkpoints / "run" / "file").write_bytes(b"12345")
    assert sizes(home) == {"store": 0, "flower": 0, "checkpoints": 5, "logs": 0}


@pytest.mark.extra
def test_postgresql_throws_away_alike(
    tmp_path: Path, postgresql: str, tiny_federation: Callable[..., Federation]
) -> None:
    with Store.open(postgresql, checkpoints=tmp_path) as store:
        run = write_run(store, tiny_federation(), [0.1, 0.9, 0.3, 0.8, 0.9, 0.2, 0.1, 0.1])
        store.add_event(run, "said")
        thin_checkpoints(store, Retention(checkpoints=2))
        assert stored(store, run) == [0, 2, 5, 7, 8]
        assert store.best_round(run) == 2
        store.update_run(run, status="completed", ended="2026-01-01T00:00:00")
        store.forget_events("2026-02-01")
        assert store.rows(events) == []


def test_logs_of_runs_go_with_their_events(home: ServerHome) -> None:
    for name, days in (("run-old.log", 91), ("run-old.log.1", 91), ("run-new.log", 89), ("superlink.log", 91)):
        (home.logs / name).touch()
        os.utime(home.logs / name, (time.time() - days * 86400,) * 2)
    with open_store(home.root) as store:
        forget_old(home, store, Retention(days=90))
    assert {file.name for file in home.logs.iterdir()} == {"run-new.log", "superlink.log"}
