"""A small federation for real deployments in which processes die."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client.institution import Data
from shared.federation import Federation
from simulations.experiment import Experiment


@pytest.fixture
def experiment(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Experiment:
    """Two institutions, six rounds of a few seconds."""
    held = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",)}
    institutions = {
        name: {task: Data(train=write_records(tmp_path / "data" / f"{name}.{task}.jsonl", task)) for task in tasks}
        for name, tasks in held.items()
    }
    federation = tiny_federation(rounds={"count": 6, "quorum": 2}, training={"epochs_per_round": 20})
    return Experiment(federation=federation, institutions=institutions)
