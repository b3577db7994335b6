"""One ledger for an institution: several folders count in it, what an earlier one counted goes on counting."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.privacy import chain, ledger
from client.privacy.accounting import Mechanism, noise_multiplier_for
from client.privacy.dataset import Dataset
from client.privacy.ledger import Ledger, Reservation
from shared.errors import BudgetError

DELTA = 1e-5
Reserve = Callable[..., Reservation]
MakeDataset = Callable[..., Dataset]
KILLED = """
import os, signal, sys
from pathlib import Path
from client.privacy import chain, ledger
create, append, seen = chain.create, chain.Chain.append, []
def counted(self, kind, body):
    entry = append(self, kind, body)
    if kind in ("moved", "adopt"):
        seen.append(kind)
        if len(seen) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    return entry
chain.Chain.append = counted
if sys.argv[3] == "0":
    chain.create = lambda path: (create(path), os.kill(os.getpid(), signal.SIGKILL))
ledger.Ledger.open(Path(sys.argv[1]), former=Path(sys.argv[2]))
"""


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """Where the ledger of one federation's folder lies."""
    return tmp_path / "north" / "ledger.sqlite"


def steps(ledger: Ledger, dataset: Dataset) -> tuple[int, int]:
    spent = ledger.spent(dataset, DELTA)
    return spent.steps, spent.open


def test_two_folders_of_one_institution_have_one_budget(path: Path, patients: Dataset) -> None:
    mechanism = Mechanism(noise_multiplier_for(3.0, DELTA, 0.1, 20), 0.1, 20)
    asked = {"delta": DELTA, "max_epsilon": 3.5, "run": "1", "round": 1}
    north, south = Ledger.open(path), Ledger.open(path)
    north.commit(north.reserve(patients, mechanism, federation="n" * 64, **asked), 20)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match=r"epsilon 3\.5 .* of which 3\.0\d* is spent|of which 2\.99"):
        south.reserve(patients, mechanism, federation="s" * 64, **asked)  # type: ignore[arg-type]
    assert steps(south, patients) == (20, 0)


def test_what_an_earlier_ledger_counted_goes_on_counting(
    path: Path, former: Path, patients: Dataset, reserve: Reserve, dataset_of: MakeDataset
) -> None:
    old = Ledger.open(former)
    old.commit(reserve(old, 10), 4)
    reserve(old, 20, round=2)
    both = dataset_of({"17": ["a", "b"], "30": ["z"]})
    mine = Ledger.open(path)
    mine.commit(reserve(mine, 5, dataset=both), 5)
    merged = Ledger.open(path, known=[old.head, mine.head], former=former)
    assert steps(merged, patients) == steps(merged, both) == (29, 1), "an owner of both has lost in both"
    assert merged.datasets() == [both, patients]
    merged.check([old.head])  # as the coordinator remembers the earlier one
    again = Ledger.open(path, former=former)
    assert again.head == merged.head, "once"
    later = reserve(again, 7, dataset=patients)
    again.commit(later, 7)
    assert steps(Ledger.open(path, known=[again.head, old.head], former=former), patients) == (36, 1)


def test_a_closed_ledger_is_not_gone_on_with(path: Path, former: Path, patients: Dataset, reserve: Reserve) -> None:
    old = Ledger.open(former)
    reserve(old)
    Ledger.open(path, former=former)
    for use in (lambda: reserve(old), lambda: Ledger.open(former)):
        with pytest.raises(
            BudgetError, match=r"ended when it was taken into .*ledger\.sqlite; name that one as runtime"
        ):
            use()


def test_a_copy_that_both_went_on_with_counts_what_they_share_once(
    path: Path, former: Path, patients: Dataset, reserve: Reserve
) -> None:
    old = Ledger.open(former)
    old.commit(reserve(old, 10), 10)
    path.parent.mkdir()
    shutil.copy(former, path)
    mine = Ledger.open(path)
    mine.commit(reserve(mine, 3), 3)
    old.commit(reserve(old, 5), 5)
    assert steps(Ledger.open(path, former=former), patients) == (18, 0)


def test_three_ledgers_one_into_the_other(path: Path, tmp_path: Path, patients: Dataset, reserve: Reserve) -> None:
    places = [tmp_path / name / "ledger.sqlite" for name in ("a", "b", "c")]
    for number, place in enumerate(places, 1):
        made = Ledger.open(place)
        made.commit(reserve(made, number), number)
    Ledger.open(places[1], former=places[0])
    Ledger.open(path, former=places[1])
    merged = Ledger.open(path, former=places[2])
    assert steps(merged, patients) == (6, 0)
    assert merged.spent(patients, DELTA).reservations == 3


def test_a_link_to_the_same_file_is_the_same_ledger(
    path: Path, former: Path, patients: Dataset, reserve: Reserve
) -> None:
    mine = Ledger.open(path)
    reserve(mine, 10)
    former.parent.mkdir()
    former.symlink_to(path)
    assert steps(Ledger.open(path, former=former), patients) == (10, 1)


def test_a_ledger_that_is_lost_after_the_move_is_not_begun_anew(path: Path, former: Path, reserve: Reserve) -> None:
    reserve(Ledger.open(former))
    Ledger.open(path, former=former)
    path.unlink()
    with pytest.raises(BudgetError, match=r"to which .* has been moved, but there is no such file"):
        Ledger.open(path, former=former)
    assert not path.exists()


def test_an_earlier_ledger_that_was_edited_is_no_reason_to_forget_it(
    path: Path, former: Path, reserve: Reserve
) -> None:
    reserve(Ledger.open(former))
    content = former.read_bytes()
    former.write_bytes(content.replace(b'"steps": 10', b'"steps": 11'))
    with pytest.raises(BudgetError, match="has been edited"):
        Ledger.open(path, former=former)


def test_approval_reaches_data_of_an_earlier_ledger(
    path: Path, former: Path, reserve: Reserve, dataset_of: MakeDataset
) -> None:
    reserve(Ledger.open(path))
    others = dataset_of({"40": ["q"]})
    Ledger.open(former).introduce(others)
    merged = Ledger.open(path, former=former)
    assert merged.is_new(others)
    merged.introduce(others)
    assert merged.approve(others.fingerprint[:12]) == others
    assert not merged.is_new(others)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_kill_in_the_move_loses_nothing(
    path: Path, former: Path, patients: Dataset, reserve: Reserve, moment: int
) -> None:
    reserve(Ledger.open(former), 10)
    command = [sys.executable, "-c", KILLED, str(path), str(former), str(moment)]
    assert subprocess.run(command, check=False, env=dict(os.environ)).returncode == -signal.SIGKILL
    merged = Ledger.open(path, former=former)
    assert steps(merged, patients) == (10, 1)
    with chain.transaction(path, write=False) as found:
        assert [each.kind for each in found.entries].count("adopt") == 1
    with pytest.raises(BudgetError, match="ended"):
        reserve(ledger.Ledger.open(former))
