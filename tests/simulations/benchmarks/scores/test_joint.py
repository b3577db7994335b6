"""What the benchmark of joint training compares."""

import json
from pathlib import Path

import pytest
import typer

from shared.errors import ConfigError
from simulations.benchmarks.scores import joint
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


def test_lines_of_toml_change_the_agreement() -> None:
    experiment = load_experiment(CONFIG, data=SAMPLES)
    other = joint.changed(experiment, ["rounds.count = 9", 'rounds.method="fedsa"', "personal.fine_tune_epochs=2"])
    assert (other.federation.rounds.count, other.federation.method_name, other.federation.fine_tunes) == (9, "fedsa", 2)
    assert other.federation.rounds.quorum == experiment.federation.rounds.quorum
    assert other.institutions == experiment.institutions


@pytest.mark.parametrize("lines", [["rounds.count"], ["rounds = 4"], ["rounds.count = 1", "rounds.count = 2"]])
def test_what_is_not_a_line_of_a_table_is_refused(lines: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match=r"training\.batch_tokens=512"):
        joint.changed(load_experiment(CONFIG, data=SAMPLES), lines)


def test_a_task_that_there_is_not_cannot_be_left_out() -> None:
    with pytest.raises(typer.BadParameter, match="'clause'"):
        joint.main(CONFIG, Path("none.jsonl"), data=SAMPLES, without=["clause"])


def test_rows_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    experiment, out = load_experiment(CONFIG, data=SAMPLES), tmp_path / "joint.jsonl"
    longer = joint.changed(experiment, ["rounds.count=9"])
    names = [joint.fingerprint(each, experiment.institutions) for each in (experiment, longer)]
    out.write_text(json.dumps({"row": "together", "scores": [], "settings": names[0], "seconds": 1}) + "\n")
    joint.check_same(out, {"together": names[0], "clauses alone": "another"})
    with pytest.raises(ConfigError, match="'together' is not; name another"):
        joint.check_same(out, {"together": names[1]})
    joint.check_same(tmp_path / "none.jsonl", {"together": names[1]})


def test_both_scores_stand_side_by_side() -> None:
    done = [
        {"row": "together", "scores": [["bank", "ner", "f1", 0.5], ["bank", "mood", "f1", 0.75]], "seconds": 1},
        {"row": "ner alone", "scores": [["bank", "ner", "f1", 0.25]], "seconds": 1},
        {"row": "qa alone", "scores": [["clinic", "qa", "f1", 0.125]], "seconds": 1},
    ]
    assert joint.beside(done) == [
        ["bank", "ner", "f1", 0.5, 0.25, 0.25],
        ["bank", "mood", "f1", 0.75, None, None],
        ["clinic", "qa", "f1", None, 0.125, None],
    ]
