"""The store: what it says it has, it has, whatever dies when."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from server.store import Score, Store, checkpoints, scores
from shared.errors import ConfigError, StoreError
from shared.federation import Federation
from shared.state import State

STATE = {"adapter/a": np.arange(6, dtype=np.float32).reshape(2, 3)}
WRITER = """
import sys
import numpy as np
from pathlib import Path
from server.store import Store
from shared.state import State
store = Store.open(sys.argv[1], checkpoints=Path(sys.argv[2]))
number = store.last_round(sys.argv[3]) or 0
while True:
    number += 1
    store.save_checkpoint(sys.argv[3], number, State({"adapter/a": np.full((200, 200), number, np.float32)}))
    print(number, flush=True)
"""


def open_store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints")


def test_checkpoints_round_trip(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        store.save_checkpoint(run, 0, State(STATE))
        store.save_checkpoint(run, 1, State({name: array + 1 for name, array in STATE.items()}))
    with open_store(tmp_path) as store:
        assert store.last_round(run) == 1
        np.testing.assert_array_equal(store.load_checkpoint(run, 0).model["adapter/a"], STATE["adapter/a"])
        assert store.agreement(run).digest == tiny_federation().digest


def test_a_changed_checkpoint_is_refused(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        store.save_checkpoint(run, 0, State(STATE))
        file = next((tmp_path / "checkpoints" / run).iterdir())
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(StoreError, match="has been changed"):
            store.load_checkpoint(run, 0)


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        store.save_checkpoint(run, 0, State(STATE))

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"No space left on device; what was stored before is intact"):
            store.save_checkpoint(run, 1, State(STATE))
        monkeypatch.undo()
        assert store.last_round(run) == 0
        assert [file.name[:11] for file in (tmp_path / "checkpoints" / run).iterdir()] == ["round-00000"]


def test_a_round_stored_twice_keeps_a_file_that_fits_its_row(
    tmp_path: Path, tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        store.save_checkpoint(run, 1, State(STATE))
        original = sa.insert
        monkeypatch.setattr(sa, "insert", lambda _table: original(sa.table("nowhere", sa.column("run"))))
        with pytest.raises(StoreError, match="Could not store a checkpoint"):  # the file is there, the row is not
            store.save_checkpoint(run, 1, State({name: array + 1 for name, array in STATE.items()}))
        monkeypatch.undo()
        np.testing.assert_array_equal(store.load_checkpoint(run, 1).model["adapter/a"], STATE["adapter/a"])
        store.save_checkpoint(run, 1, State({name: array + 2 for name, array in STATE.items()}))
        np.testing.assert_array_equal(store.load_checkpoint(run, 1).model["adapter/a"], STATE["adapter/a"] + 2)


def test_scores_told_twice_count_once(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        for value in (0.1, 0.2):
            store.add_scores(run, [Score(1, "test", name, "clauses", "f1", value, 9) for name in ("bank", "hospital")])
        store.add_scores(run, [Score(1, "test", "bank", "clauses", "f1", 0.3, 9)])
        store.add_scores(run, [])
        assert [(row["institution"], row["value"]) for row in store.rows(scores, run)] == [
            ("hospital", 0.2),
            ("bank", 0.3),
        ]


def test_the_best_round_without_scores_is_the_last(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        assert store.best_round(run) is None
        for number in range(3):
            store.save_checkpoint(run, number, State(STATE))
        store.add_round(run, 1, 1.0, {})
        store.add_round(run, 2, 1.0, {})
        assert store.best_round(run) == 2


def test_the_earlier_of_equally_good_rounds_is_best(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        for number, score in enumerate([0.2, 0.7, 0.7, 0.1], start=1):
            store.save_checkpoint(run, number, State(STATE))
            store.add_round(run, number, 1.0, {number: score})
        assert store.best_round(run) == 2


@pytest.mark.parametrize("url", ["nonsense", "oracle+nodriver://user:hush@host/db"])
def test_an_unusable_address_says_so_without_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="Expected store_url to be a SQLAlchemy URL") as caught:
        Store.open(url, checkpoints=tmp_path)
    assert "hush" not in str(caught.value)


def test_a_database_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Could not open the database at .*unable to open database file"):
        Store.open(f"sqlite:///{tmp_path / 'missing' / 'store.db'}", checkpoints=tmp_path / "checkpoints")


def test_an_unknown_run_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ConfigError, match="Expected a run"):
        store.run("nope")


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_whole_checkpoints(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
    arguments = [f"sqlite:///{tmp_path / 'store.db'}", str(tmp_path / "checkpoints"), run]
    confirmed = 0
    for attempt in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(3 + attempt):
                confirmed = int(writer.stdout.readline())
            time.sleep(0.003 * attempt)
            writer.send_signal(signal.SIGKILL)
        with open_store(tmp_path) as store:
            rows = store.rows(checkpoints, run)
            assert rows[-1]["round"] >= confirmed
            for row in rows:
                assert (store.load_checkpoint(run, row["round"]).model["adapter/a"] == row["round"]).all()


def test_private_scores_choose_the_best_round_and_others_do_not(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    private = {"rounds": {"weighting": "equal", "method": "ffa"}, "training": {"weight_decay": 0.0}}
    with open_store(tmp_path) as store:
        for agreed, best in (({"epsilon": 3.0}, 3), ({"epsilon": 3.0, "evaluation_epsilon": 1.0}, 2)):
            run = store.create_run(tiny_federation(privacy=agreed, **private))
            for number, score in enumerate([0.2, 0.7, 0.1], start=1):
                store.save_checkpoint(run, number, State(STATE))
                store.add_round(run, number, 1.0, {number: score})
            assert store.best_round(run) == best


def test_the_last_ledger_is_the_latest_that_training_or_scoring_told_of(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        assert store.last_ledgers().get("bank") is None
        store.add_evaluation(run, 0, "bank", "test", 0.5, f"9:{'a' * 64}")
        assert store.last_ledgers().get("bank") == f"9:{'a' * 64}"
        store.add_spending(run, 1, "bank", 1.0, f"11:{'b' * 64}")
        assert store.last_ledgers().get("bank") == f"11:{'b' * 64}"
        store.add_evaluation(run, 1, "bank", "validation", 0.5, None)
        assert store.last_ledgers().get("bank") == f"11:{'b' * 64}"


def test_what_one_process_writes_all_others_see(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    other = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute(sys.argv[2]).fetchone()[0]); c.close()"
    )

    def asked(query: str) -> str:
        argv = [sys.executable, "-S", "-c", other, str(tmp_path / "store.db"), query]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    with open_store(tmp_path) as store:
        run = store.create_run(tiny_federation())
        with open_store(tmp_path):  # a second one in this process must not take the first one's locks away
            pass
        assert asked("SELECT count(*) FROM runs") == "1"
        store.update_run(run, status="running")
        assert asked("SELECT status FROM runs") == "running", "the log that is written to is the one that is read"
