"""Differential privacy, secure aggregation and a policy together, in real daemons over TLS."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from client.keys import read_public_key
from client.leaving import receipts
from client.privacy.ledger import FILE, Ledger
from server.opening import open_store
from server.runs.status import last_spending
from server.store import replies, scores, spending
from simulations.attacks import Outcome
from simulations.attacks.files import TASKS, read_everything

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the attack has the federation deployed."""
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module", autouse=True)
def outcome(folder: Path) -> Outcome:
    """What another user of the machine could read of it."""
    return read_everything(folder)


def test_nothing_of_a_deployment_is_open(outcome: Outcome) -> None:
    assert outcome.attempts > 40
    assert outcome.succeeded == 0, outcome.note


def test_a_private_run_of_real_daemons_is_charged_signed_and_seen_as_sums_alone(folder: Path) -> None:
    with open_store(folder / "work" / "coordinator") as store:
        completed = store.run()
        assert completed["status"] == "completed"
        run = completed["run"]
        trained = [row for row in store.rows(replies, run) if row["kind"] == "train"]
        assert [row["status"] for row in trained] == ["ok"] * 6
        assert store.rows(scores, run)
        spent = store.rows(spending, run)
        remembered = {name: store.last_ledgers().get(name) for name in TASKS}
    assert [(row["institution"], row["round"]) for row in last_spending(spent)] == [(name, 2) for name in sorted(TASKS)]
    assert 3.9 < max(row["epsilon"] for row in spent) <= 4.0
    for name in TASKS:
        _check_site(folder / "work" / name, remembered[name])


def _check_site(folder: Path, remembered: str | None) -> None:
    state = folder / tomllib.loads((folder / "institution.toml").read_text()).get("runtime", {}).get("state", "state")
    ledger = Ledger.open(state / FILE, known=receipts.heads(state))
    assert str(ledger.head) == remembered
    (dataset,) = ledger.datasets()
    figures = ledger.spent(dataset, 1e-5)
    assert (figures.open, figures.reservations) == (0, 2)
    left: list[dict[str, Any]] = receipts.verify(state, [read_public_key(folder / "node.pub")])
    kinds = [receipt["kind"] for receipt in left]
    assert kinds.count("trained") == kinds.count("masked") == kinds.count("unmask") == 2
    assert "train" not in kinds, "an update left without a mask"
    assert all(json.loads(receipt["body"])["examples"] for receipt in left if receipt["kind"] == "trained")
