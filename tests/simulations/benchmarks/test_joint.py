"""What the benchmark of joint training compares."""

import pytest
import typer

from simulations.benchmarks import joint
from simulations.demo import CONFIG
from simulations.experiment import load_experiment
from simulations.samples import SAMPLES


def test_a_task_is_left_to_its_holders() -> None:
    experiment = load_experiment(CONFIG, data=SAMPLES)
    alone = joint.only_tasks(experiment, ["clauses"])
    assert list(alone.federation.tasks) == ["clauses"]
    assert {name: list(held) for name, held in alone.institutions.items()} == {
        "bank": ["clauses"],
        "law_firm": ["clauses"],
    }
    assert (set(alone.federation.rounds.institutions), alone.federation.rounds.quorum) == ({"bank", "law_firm"}, 2)
    assert {"sentiment", "clauses"} <= set(experiment.federation.tasks)


def test_a_task_that_there_is_not_cannot_be_left_out() -> None:
    with pytest.raises(typer.BadParameter, match="'clause'"):
        joint.main(CONFIG, data=SAMPLES, without=["clause"])
