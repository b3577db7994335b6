"""`collegium client ledger`: what each data set has spent and has left, for the institution's own eyes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from client.hashchain import Head
from client.institution import Institution, load_institution
from client.leaving import receipts
from client.privacy.account import has_ledger, ledger_file, open_ledger
from client.privacy.book import Use
from client.privacy.dataset import Dataset
from client.privacy.ledger import FILE, SHOWN, Ledger, Spent
from shared.errors import BudgetError
from shared.federation import load_federation
from shared.process.console import print_table

COLUMNS = (
    "data set",
    "owner",
    "owners",
    "entries",
    "open",
    "steps",
    "delta",
    "epsilon",
    "by RDP",
    "allowed",
    "left",
)


@dataclass(frozen=True)
class Report:
    """The ledger as it stands."""

    path: Path
    head: Head | None
    """None where there is no ledger, since nothing has been trained with differential privacy."""
    known: int | None
    """How many heads that the receipts name it was held against; None if that was not asked."""
    max_epsilon: float | None
    datasets: list[tuple[Dataset, Spent]]
    scored: tuple[tuple[Use, Dataset, Spent], ...] = ()
    """Of records whose private scores were reported: their split, and what that has cost their owners."""
    evaluation_epsilon: float | None = None
    """The policy's, for them."""
    waiting: frozenset[str] = frozenset()
    """Fingerprints of those that are new, and may be trained on only once they are approved."""


def examine_ledger(path: Path, *, verify: bool) -> Report:
    """Read the institution's ledger and its whole chain; a missing one is not made.

    Args:
        path: `institution.toml`.
        verify: Hold it against the heads in the receipts too, so that an older copy or a deleted ledger shows.

    Raises:
        ConfigError: `institution.toml` is wrong.
        BudgetError: The ledger is unreadable, edited, or is not the one that the receipts name.
        StoreError: The receipts cannot be read.
    """
    institution = load_institution(path)
    state, policy = institution.runtime.state, institution.policy
    known = receipts.heads(state) if verify else []
    file = ledger_file(institution)
    checked = len(known) if verify else None
    if not has_ledger(institution) and not known:
        return Report(file, None, checked, policy.max_epsilon, [])
    ledger = Ledger.open(file, known=known, former=state / FILE)
    delta = _delta(institution, policy.max_epsilon)
    datasets = [(dataset, ledger.spent(dataset, delta)) for dataset in ledger.datasets()]
    new = frozenset(dataset.fingerprint for dataset, _ in datasets if ledger.is_new(dataset))
    waiting = new if policy.asks_for_new_data else frozenset()
    scored = tuple(
        (use, dataset, ledger.spent(dataset, _delta(institution, policy.evaluation_epsilon), use))
        for use in get_args(Use)
        if use != "training"
        for dataset in ledger.datasets(use)
    )
    return Report(file, ledger.head, checked, policy.max_epsilon, datasets, scored, policy.evaluation_epsilon, waiting)


def approve_dataset(path: Path, name: str) -> Dataset:
    """Let a data set that is new to the institution's ledger be trained on, under a budget that starts from zero.

    Args:
        path: `institution.toml`.
        name: How the data set's fingerprint begins.

    Raises:
        ConfigError: `institution.toml` is wrong.
        BudgetError: There is no ledger, it cannot be read or written, or no such data set waits.
        StoreError: The receipts cannot be read.
    """
    institution = load_institution(path)
    if not has_ledger(institution):
        file = ledger_file(institution)
        raise BudgetError(f"Expected a privacy ledger at {file}, but there is none: nothing waits to be approved.")
    return open_ledger(institution).approve(name)


def report_as_json(report: Report) -> Mapping[str, Any]:
    """As plain data; an epsilon without bound is null."""
    return {
        "ledger": str(report.path),
        "head": report.head._asdict() if report.head else None,
        "known_heads": report.known,
        "max_epsilon": report.max_epsilon,
        "datasets": [
            {"waiting": dataset.fingerprint in report.waiting, **_as_json(dataset, spent, report.max_epsilon)}
            for dataset, spent in report.datasets
        ],
        "evaluation_epsilon": report.evaluation_epsilon,
        "scored": [
            {"split": split, **_as_json(dataset, spent, report.evaluation_epsilon)}
            for split, dataset, spent in report.scored
        ],
    }


def _as_json(dataset: Dataset, spent: Spent, allowed: float | None) -> Mapping[str, Any]:
    return {
        "fingerprint": dataset.fingerprint,
        "owner_column": dataset.owner_column,
        "owners": dataset.owners,
        **{name: _finite(value) for name, value in asdict(spent).items()},
        "left": _finite(_left(allowed, spent)),
    }


def print_report(report: Report) -> None:
    """Print a row per data set, and what was verified."""
    if report.head is None:
        print(f"There is no ledger at {report.path}: no training with differential privacy has begun here.")
        return
    rows = [_row(dataset, spent, report.max_epsilon) for dataset, spent in report.datasets]
    print_table(COLUMNS, rows, title="Spent, by data set")
    if report.scored:
        rows = [(split, *_row(dataset, spent, report.evaluation_epsilon)) for split, dataset, spent in report.scored]
        print_table(("scores of", *COLUMNS), rows, title="Spent on private scores")
    print("A data set's figures count the entries of every data set that shares an owner or a record with it.")
    against = "" if report.known is None else f", and the {report.known} heads that the receipts name are in it"
    for waiting in sorted(report.waiting):
        print(
            f"{waiting[:SHOWN]} shares nothing with the others, and waits: if its owners are others indeed, let it "
            f"begin a budget of its own by --approve {waiting[:SHOWN]}"
        )
    print(f"{report.path} is whole{against}; its last entry is {report.head.sequence}, {report.head.sha256}.")


def _row(dataset: Dataset, spent: Spent, allowed: float | None) -> tuple[Any, ...]:
    return (
        dataset.fingerprint[:SHOWN],
        dataset.owner_column or "(each record)",
        dataset.owners,
        spent.reservations,
        spent.open,
        spent.steps,
        f"{spent.delta:g}",
        spent.epsilon,
        spent.rdp_epsilon,
        allowed,
        _left(allowed, spent),
    )


def _delta(institution: Institution, allowed: float | None) -> float:
    """That of a budget: the policy's where it has one, else the federation's."""
    if allowed is None and institution.federation.exists():
        privacy = load_federation(institution.federation).privacy
        return privacy.delta if privacy else institution.policy.delta
    return institution.policy.delta


def _left(allowed: float | None, spent: Spent) -> float | None:
    return None if allowed is None else max(0.0, allowed - spent.epsilon)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
