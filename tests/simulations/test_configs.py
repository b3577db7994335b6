"""The experiment files that come with the project are valid."""

from pathlib import Path

import pytest

import simulations
from simulations.experiment import load_experiment

CONFIGS = sorted((Path(simulations.__file__).parent / "configs").glob("*.toml"))


def test_there_are_configs() -> None:
    assert {"demo", "real", "pretrain"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_an_experiment_whose_tasks_are_all_held(path: Path) -> None:
    experiment = load_experiment(path)
    held = {task for tasks in experiment.institutions.values() for task in tasks}
    assert held == set(experiment.federation.tasks)


def test_pretraining_weighs_its_terms() -> None:
    (path,) = (path for path in CONFIGS if path.stem == "pretrain")
    tasks = load_experiment(path).federation.tasks
    weights = {task.type: task.weight for task in tasks.values()}
    assert weights["fill-mask"] == 1.0
    assert weights["next-sentence-prediction"] == 0.5
