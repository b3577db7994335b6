"""Differential privacy, secure aggregation and a policy together, in real daemons over TLS."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.keys import read_public_key
from client.leaving import receipts
from client.privacy.ledger import FILE, Ledger
from server.running import last_spending, open_store
from server.store import replies, scores, spending
from shared.federation import Federation
from simulations import demo
from simulations.experiment import Experiment

HELD = {"hospital": ("clauses", "notes_qa"), "law_firm": ("clauses",), "bank": ("clauses",)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_private_run_of_real_daemons_is_charged_signed_and_seen_as_sums_alone(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> None:
    federation = tiny_federation(
        institutions=HELD,
        privacy={"epsilon": 4.0, "sampling_rate": 0.5},
        training={"weight_decay": 0.0},
        rounds={"weighting": "equal", "quorum": 3, "method": "fedsvd"},
        secure_aggregation={"threshold": 3},
    )
    data = {
        name: {task: {"train": str(write_records(tmp_path / f"{name}-{task}.jsonl", task))} for task in tasks}
        for name, tasks in HELD.items()
    }
    experiment = Experiment.model_validate({"federation": federation, "institutions": data})
    home, run = demo.deploy(experiment, tmp_path / "work", lambda line: None)
    with open_store(home.root) as store:
        assert store.run(run)["status"] == "completed"
        trained = [row for row in store.rows(replies, run) if row["kind"] == "train"]
        assert [row["status"] for row in trained] == ["ok"] * 6
        assert store.rows(scores, run)
        spent = store.rows(spending, run)
        remembered = {name: store.last_ledger(name) for name in HELD}
    assert [(row["institution"], row["round"]) for row in last_spending(spent)] == [(name, 2) for name in sorted(HELD)]
    assert 3.9 < max(row["epsilon"] for row in spent) <= 4.0
    for name in HELD:
        _check_site(tmp_path / "work" / name, remembered[name])


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
