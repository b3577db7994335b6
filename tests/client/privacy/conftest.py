"""A ledger in a folder, and small data sets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.identity import hash_texts
from client.privacy.accounting import Mechanism
from client.privacy.dataset import Dataset, describe_dataset
from client.privacy.ledger import Ledger, Reservation

Reserve = Callable[..., Reservation]


@pytest.fixture
def patients() -> Dataset:
    """Two owners with three records."""
    return make_dataset({"17": ["a", "b"], "18": ["c"]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger lies."""
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def reserve(patients: Dataset) -> Reserve:
    """Reserves steps without a limit, or with the given one."""

    def reserve(ledger: Ledger, steps: int = 10, *, dataset: Dataset = patients, **changed: object) -> Reservation:
        asked = {"delta": 1e-5, "max_epsilon": None, "federation": "f" * 64, "run": "7", "round": 1}
        return ledger.reserve(dataset, Mechanism(1.0, 0.1, steps), **(asked | changed))  # type: ignore[arg-type]

    return reserve


@pytest.fixture
def dataset_of() -> Callable[..., Dataset]:
    """Makes a data set from the texts of each owner."""
    return make_dataset


def make_dataset(texts: dict[str, list[str]], owner_column: str | None = "patient_id") -> Dataset:
    records = {owner: [hash_texts([text]) for text in held] for owner, held in texts.items()}
    return describe_dataset(records, owner_column)
