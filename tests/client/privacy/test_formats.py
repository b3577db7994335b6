"""Ledgers of earlier releases: what they have spent counts to the last step, whatever dies while they are opened."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.hashchain import Head
from client.privacy import chain
from client.privacy.dataset import Dataset
from client.privacy.ledger import Ledger
from shared.errors import BudgetError

OLDER = Path(__file__).parent / "older"
"""Dumps of ledgers that earlier releases wrote: NUMBER and a letter, since format 1 grew under one number."""
HALF_WAY = """
import sys
from pathlib import Path
from client.privacy import chain
def slow(found):
    found.append("format", {"format": 3})
    print("half way", flush=True)
    sys.stdin.read()
chain.STEPS = {2: lambda chain: None, 3: slow}
chain.bring_up_to_date(Path(sys.argv[1]))
"""
DUMPS = sorted(OLDER.glob("*.sql"))


def restore(dump: Path, path: Path) -> list[tuple[Any, ...]]:
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))
    connection.close()
    return rows(path)


def rows(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT * FROM entries ORDER BY sequence").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
def test_every_entry_of_an_older_ledger_survives_and_counts(
    dump: Path, path: Path, dataset_of: Callable[..., Dataset]
) -> None:
    before = restore(dump, path)
    remembered = Head(before[-1][0], before[-1][3])
    ledger = Ledger.open(path, known=[remembered])
    assert rows(path)[: len(before)] == before
    missing = chain.FORMAT - int(dump.stem[0])
    assert [entry[1] for entry in rows(path)[len(before) :]] == ["format"] * missing
    steps = sorted(ledger.spent(dataset, 1e-5).steps for dataset in ledger.datasets())
    assert steps == [5, 24]
    assert Ledger.open(path, known=[remembered, ledger.head]).head == ledger.head, "once"
    patients = dataset_of({"17": ["a", "b"], "18": ["c"]})
    assert ledger.spent(patients, 1e-5).steps == (29 if dump.stem == "1a" else 24), "1a: marks of another making"


def test_there_is_a_step_to_every_format() -> None:
    assert list(chain.STEPS) == list(range(2, chain.FORMAT + 1))
    assert {int(dump.stem.rstrip("abcdefgh")) for dump in DUMPS} == set(range(1, chain.FORMAT))


def test_a_new_ledger_needs_no_step(path: Path) -> None:
    Ledger.open(path)
    assert [entry[1] for entry in rows(path)] == ["ledger"]


def test_a_format_that_is_no_number_is_refused(path: Path) -> None:
    Ledger.open(path)
    with chain.transaction(path, write=True) as found:
        found.append("format", {})
    with pytest.raises(BudgetError, match="in format 3 or earlier, but it is in None; install the release"):
        Ledger.open(path)


@pytest.mark.slow
def test_a_process_killed_half_way_loses_nothing(path: Path) -> None:
    before = restore(DUMPS[-1], path)
    command = [sys.executable, "-c", HALF_WAY, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        os.kill(process.pid, signal.SIGKILL)
    assert rows(path) == before
    ledger = Ledger.open(path)
    assert sorted(ledger.spent(dataset, 1e-5).steps for dataset in ledger.datasets()) == [5, 24]
