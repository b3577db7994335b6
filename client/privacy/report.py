"""`collegium client ledger`: what each data set has spent and has left, for the institution's own eyes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client import receipts
from client.institution import load_institution
from client.privacy.chain import Head
from client.privacy.dataset import Dataset
from client.privacy.ledger import FILE, Ledger, Spent
from shared.console import print_table


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
    known = [Head(*head) for head in receipts.heads(state)] if verify else []
    file = state / FILE
    checked = len(known) if verify else None
    if not file.exists() and not known:
        return Report(file, None, checked, policy.max_epsilon, [])
    ledger = Ledger.open(file, known=known)
    datasets = [(dataset, ledger.spent(dataset, policy.delta)) for dataset in ledger.datasets()]
    return Report(file, ledger.head, checked, policy.max_epsilon, datasets)


def report_as_json(report: Report) -> Mapping[str, Any]:
    """As plain data; an epsilon without bound is null."""
    return {
        "ledger": str(report.path),
        "head": asdict(report.head) if report.head else None,
        "known_heads": report.known,
        "max_epsilon": report.max_epsilon,
        "datasets": [
            {
                "fingerprint": dataset.fingerprint,
                "owner_column": dataset.owner_column,
                "owners": dataset.owners,
                **{name: _finite(value) for name, value in asdict(spent).items()},
                "left": _finite(_left(report, spent)),
            }
            for dataset, spent in report.datasets
        ],
    }


def print_report(report: Report) -> None:
    """Print a row per data set, and what was verified."""
    if report.head is None:
        print(f"There is no ledger at {report.path}: no training with differential privacy has begun here.")
        return
    rows = [
        (
            dataset.fingerprint[:12],
            dataset.owner_column or "(each record)",
            dataset.owners,
            spent.reservations,
            spent.open,
            spent.steps,
            f"{spent.delta:g}",
            spent.epsilon,
            spent.rdp_epsilon,
            report.max_epsilon,
            _left(report, spent),
        )
        for dataset, spent in report.datasets
    ]
    columns = (
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
    print_table(columns, rows, title="Spent, by data set")
    print("A data set's figures count the entries of every data set that shares an owner or a record with it.")
    against = "" if report.known is None else f", and the {report.known} heads that the receipts name are in it"
    print(f"{report.path} is whole{against}; its last entry is {report.head.sequence}, {report.head.sha256}.")


def _left(report: Report, spent: Spent) -> float | None:
    return None if report.max_epsilon is None else max(0.0, report.max_epsilon - spent.epsilon)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
