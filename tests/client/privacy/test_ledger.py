"""The ledger: budgets across rounds, runs, restarts and data sets, and that no way round it stays unnoticed."""

import os
import resource
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.hashchain import Head
from client.privacy import chain
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for, rdp_epsilon
from client.privacy.dataset import Dataset
from client.privacy.ledger import Ledger, Reservation
from shared.errors import BudgetError

DELTA = 1e-5
Reserve = Callable[..., Reservation]
MakeDataset = Callable[..., Dataset]


def used(ledger: Ledger, dataset: Dataset) -> tuple[int, int, int]:
    spent = ledger.spent(dataset, DELTA)
    return spent.reservations, spent.open, spent.steps


def test_reserved_steps_count_until_they_are_settled(path: Path, patients: Dataset, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    assert used(ledger, patients) == (0, 0, 0)
    first = reserve(ledger, 10)
    assert used(ledger, patients) == (1, 1, 10)
    ledger.commit(first, 4)
    assert used(ledger, patients) == (1, 0, 4)
    reserve(ledger, 20)
    again = Ledger.open(path, known=[ledger.head])
    assert used(again, patients) == (2, 1, 24), "a reservation that died counts in full"
    spent = again.spent(patients, DELTA)
    assert spent.epsilon == epsilon([Mechanism(1.0, 0.1, 24)], DELTA)
    assert spent.rdp_epsilon == rdp_epsilon([Mechanism(1.0, 0.1, 24)], DELTA)
    assert again.datasets() == [patients]


def test_a_planned_run_fits_its_budget_to_the_last_step(path: Path, patients: Dataset, reserve: Reserve) -> None:
    rounds, steps = 4, 25
    noise = noise_multiplier_for(2.0, DELTA, 0.05, rounds * steps)
    mechanism = Mechanism(noise, 0.05, steps)
    asked = {"delta": DELTA, "max_epsilon": 2.0, "federation": "f", "run": None}
    for number in range(rounds):
        ledger = Ledger.open(path)  # a restart before every round
        ledger.commit(ledger.reserve(patients, mechanism, round=number, **asked), steps)  # type: ignore[arg-type]
    assert ledger.spent(patients, DELTA).epsilon == epsilon([Mechanism(noise, 0.05, rounds * steps)], DELTA) <= 2.0
    before = ledger.head
    with pytest.raises(BudgetError, match=r"epsilon 2 at delta 1e-05 .*2\.000 is spent, and 5 more steps .* it 2\.0"):
        ledger.reserve(patients, replace(mechanism, steps=5), round=5, **asked)  # type: ignore[arg-type]
    assert Ledger.open(path).head == before, "what was refused leaves no entry"


def test_what_is_given_back_can_be_spent(path: Path, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    allowed = rdp_epsilon([Mechanism(1.0, 0.1, 10)], DELTA)
    first = reserve(ledger, 10, max_epsilon=allowed)
    with pytest.raises(BudgetError, match=r"policy\.max_epsilon"):
        reserve(ledger, 10, max_epsilon=allowed, federation="g" * 64, run="8")
    ledger.commit(first, 0)
    reserve(ledger, 10, max_epsilon=allowed)


def test_every_delta_is_counted_at_the_one_that_is_asked(path: Path, patients: Dataset, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    ledger.commit(reserve(ledger, 10, delta=1e-3), 10)
    assert ledger.spent(patients, 1e-6).epsilon == epsilon([Mechanism(1.0, 0.1, 10)], 1e-6)


@pytest.mark.parametrize(
    ("texts", "owner_column", "counts"),
    [
        ({"17": ["a", "b"], "18": ["c"], "19": ["d"]}, "patient_id", True),  # one more owner
        ({"17": ["a", "b"]}, "patient_id", True),  # one fewer
        ({"17": ["x"]}, "patient_id", True),  # the same owner, other text
        ({"17": ["x"]}, "person", True),  # under another column
        ({"0": ["c"], "1": ["y"]}, None, True),  # the same record, without owners
        ({"30": ["c"]}, "patient_id", True),  # the same record of another owner
        ({"30": ["x"], "31": ["y"]}, "patient_id", False),
        ({"0": ["17"]}, None, False),
    ],
)
def test_data_sets_that_share_an_owner_or_a_record_share_a_budget(
    path: Path,
    patients: Dataset,
    reserve: Reserve,
    dataset_of: MakeDataset,
    texts: object,
    owner_column: object,
    counts: bool,
) -> None:
    ledger = Ledger.open(path)
    other = dataset_of(texts, owner_column)
    ledger.commit(reserve(ledger, 7), 7)
    assert used(ledger, other) == ((1, 0, 7) if counts else (0, 0, 0))
    ledger.commit(reserve(ledger, 3, dataset=other), 3)
    assert used(ledger, patients) == ((2, 0, 10) if counts else (1, 0, 7))


def test_what_was_not_reserved_cannot_be_settled(path: Path, patients: Dataset, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    reservation = reserve(ledger, 10)
    for steps in (11, -1):
        with pytest.raises(BudgetError, match=f"at most the 10 steps .* but {steps} were taken"):
            ledger.commit(reservation, steps)
    with pytest.raises(BudgetError, match=r"entry 1 .* but it is none"):
        ledger.commit(replace(reservation, sequence=1), 5)
    ledger.commit(reservation, 6)
    with pytest.raises(BudgetError, match=r"entry 2 .* but it is settled"):
        ledger.commit(reservation, 5)
    assert used(ledger, patients) == (1, 0, 6)


def test_an_older_copy_shows_by_a_head_remembered_elsewhere(path: Path, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    old, older_head = path.with_name("copy"), ledger.head
    shutil.copy(path, old)
    reserve(ledger)
    remembered = ledger.head
    Ledger.open(path, known=[older_head, remembered])
    shutil.copy(old, path)
    Ledger.open(path, known=[older_head])
    with pytest.raises(BudgetError, match=r"with entry 3, .*ends at 2: an older copy"):
        Ledger.open(path, known=[remembered, older_head])
    with pytest.raises(BudgetError, match="an older copy"):
        reserve(ledger)  # the running daemon remembers by itself
    restarted = Ledger.open(path)
    reserve(restarted)
    with pytest.raises(BudgetError, match="an older copy that was written on"):
        restarted.check([remembered])  # the coordinator's head comes with the next request
    restarted.check([older_head])


def test_a_deleted_ledger_shows_by_a_head_remembered_elsewhere(path: Path, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    path.unlink()
    with pytest.raises(BudgetError, match=r"with entry 2, but there is no such file"):
        Ledger.open(path, known=[ledger.head])
    assert not path.exists()
    with pytest.raises(BudgetError, match="could not be written"):
        reserve(ledger)
    fresh = Ledger.open(path)
    with pytest.raises(BudgetError, match="another ledger"):
        fresh.check([Head(0, "0" * 64)])
    with pytest.raises(BudgetError, match="older copy"):
        fresh.check([ledger.head])
    with pytest.raises(BudgetError, match="older copy"):
        reserve(ledger)


def test_a_ledger_of_which_only_the_journal_is_left_is_not_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("ledger.sqlite-journal").write_bytes(b"something")
    with pytest.raises(BudgetError, match="there is only its journal"):
        Ledger.open(path)


def test_a_full_disk_refuses_and_loses_nothing(path: Path, patients: Dataset, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    first = reserve(ledger)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(BudgetError, match="could not be written"):
            reserve(ledger)
        with pytest.raises(BudgetError, match="could not be written"):
            ledger.commit(first, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert used(ledger, patients) == (1, 1, 10)
    ledger.commit(first, 3)
    assert used(Ledger.open(path, known=[ledger.head]), patients) == (1, 0, 3)


def test_a_folder_that_cannot_be_written_refuses_and_loses_nothing(
    path: Path, patients: Dataset, reserve: Reserve
) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    blocked = path.with_name("ledger.sqlite-journal")
    blocked.mkdir()
    with pytest.raises(BudgetError, match="could not be"):
        reserve(ledger)
    blocked.rmdir()
    assert used(ledger, patients) == (1, 1, 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any file")
def test_a_read_only_ledger_can_be_read(path: Path, patients: Dataset, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    path.chmod(0o400)
    with pytest.raises(BudgetError, match=r"could not be written .*readonly"):
        reserve(ledger)
    assert used(Ledger.open(path), patients) == (1, 1, 10)


@pytest.mark.parametrize("content", [b"", b"no ledger at all, but some text"])
def test_a_file_that_is_no_ledger_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BudgetError, match="privacy ledger"):
        Ledger.open(path)
    assert path.read_bytes() == content


def test_a_later_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "FORMAT", chain.FORMAT + 1)
    Ledger.open(path)
    monkeypatch.undo()
    with pytest.raises(BudgetError, match=f"in format {chain.FORMAT} or earlier, but it is in {chain.FORMAT + 1}"):
        Ledger.open(path)


def test_only_the_owner_of_the_process_may_read_it(path: Path) -> None:
    Ledger.open(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_settings_that_make_it_last(path: Path) -> None:
    Ledger.open(path)
    with chain.transaction(path, write=False) as found:
        settings = [
            found._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "fullfsync")
        ]
    assert settings == ["delete", 3, 1]
    assert sorted(each.name for each in path.parent.iterdir()) == ["ledger.sqlite"]


def test_a_ledger_made_by_another_process_meanwhile_is_not_replaced(path: Path, reserve: Reserve) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    chain.create(path)
    ledger.check([ledger.head])


def test_a_writer_that_does_not_end_is_waited_for_and_then_named(
    path: Path, reserve: Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(path)
    monkeypatch.setattr(chain, "_WAIT_SECONDS", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BudgetError, match="locked"):
        reserve(ledger)
    other.close()
    reserve(ledger)


def test_new_data_are_recorded_and_wait_for_the_operator(
    path: Path, patients: Dataset, reserve: Reserve, dataset_of: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger.open(path)
    assert not ledger.introduce(patients), "the first of a ledger has nothing to evade"
    reserve(ledger, ask=True)
    reserve(ledger, dataset=dataset_of({"17": ["x"], "99": ["y"]}), ask=True)
    other, overlapping = dataset_of({"30": ["x2"]}), dataset_of({"30": ["y2"], "31": ["z2"]})
    assert not caplog.messages
    for dataset in (other, overlapping):  # that one waits does not make known another one like it
        for _ in range(2):
            with pytest.raises(BudgetError, match=r"no owner and no record .*policy\.new_data = \"ask\".* --approve"):
                reserve(ledger, dataset=dataset, ask=True)
        assert ledger.is_new(dataset)
        assert used(ledger, dataset) == (0, 0, 0)
    assert [
        dataset.fingerprint[:12] in line for dataset, line in zip((other, overlapping), caplog.messages, strict=True)
    ]
    assert ledger.datasets()[2:] == [other, overlapping]
    assert ledger.approve(other.fingerprint[:12]) == other
    assert not ledger.is_new(other)
    assert not ledger.is_new(overlapping), "it now goes on from what the approved one has"
    reserve(ledger, 5, dataset=other, ask=True)
    reserve(ledger, 5, dataset=overlapping, ask=True)
    assert used(ledger, other) == (2, 2, 10)
    assert used(ledger, patients)[2] == 20


def test_without_the_question_new_data_are_announced_only(
    path: Path, reserve: Reserve, dataset_of: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    new = dataset_of({"30": ["x"]})
    reserve(ledger, dataset=new)
    assert f"the data set {new.fingerprint[:12]} of 1 owners shares no owner and no record" in caplog.text
    assert not ledger.is_new(new)


def test_only_what_waits_can_be_approved(
    path: Path, patients: Dataset, reserve: Reserve, dataset_of: MakeDataset
) -> None:
    ledger = Ledger.open(path)
    reserve(ledger)
    before = ledger.head
    for name, said in (("", "begins 0"), ("no such", "begins 0"), (patients.fingerprint, "may be trained on")):
        with pytest.raises(BudgetError, match=said):
            ledger.approve(name)
    assert Ledger.open(path).head == before
    with chain.transaction(path, write=True) as found:
        found.append("approve", {"dataset": 77})
    with pytest.raises(BudgetError, match=r"right entry .* entry 77 .* but it is none"):
        Ledger.open(path)


def test_what_an_older_version_recorded_counts_for_every_data_set(
    path: Path, patients: Dataset, reserve: Reserve, dataset_of: MakeDataset
) -> None:
    """Its marks were of raw fields: nobody can tell any more whether the same owners stand in a data set of today."""
    Ledger.open(path)
    old = dataset_of({"17": ["old"]})
    body = {"fingerprint": old.fingerprint, "owner_column": None, "owners": 1, "marks": sorted(old.marks)}
    with chain.transaction(path, write=True) as found:
        found.append("dataset", body)
        spent = {"dataset": 1, "noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 9}
        found.append("reserve", spent)
    ledger = Ledger.open(path)
    assert used(ledger, dataset_of({"30": ["x"]})) == used(ledger, patients) == (1, 1, 9)
    assert not ledger.introduce(patients), "it inherits everything, so there is nothing to ask"
    assert not ledger.introduce(old), "what has the same hashes today is another data set"
    reserve(ledger, 5)
    (legacy, *_) = ledger.datasets()
    assert legacy.legacy
    assert used(ledger, legacy) == (2, 2, 14)
    assert used(ledger, dataset_of({"30": ["x"]})) == (1, 1, 9)
