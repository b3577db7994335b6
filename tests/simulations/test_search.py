"""The search for task weights: what is tried, what decides, and that test records stay unread."""

import itertools
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from collegium.__main__ import app
from shared.errors import ConfigError
from shared.federation import Federation
from simulations.search import GRID, candidates, search_task_weights, with_weights

TASKS = ["clauses", "entities", "notes_qa"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_grid_has_every_ratio_once_and_equal_weights_first(count: int) -> None:
    tasks = [f"t{n}" for n in range(count)]
    grid = [tuple(weights.values()) for weights in candidates(tasks, "grid", 200, 0)]
    assert grid[0] == (1.0,) * count
    every = {
        tuple(round(value / (sum(row) / count), 4) for value in row) for row in itertools.product(GRID, repeat=count)
    }
    assert len(grid) == len(set(grid)) == len(every)
    assert set(grid) == every


def test_random_weights_are_seeded_with_a_mean_of_one() -> None:
    found = candidates(TASKS, "random", 50, 13)
    assert len(found) == 50
    assert found[0] == dict.fromkeys(TASKS, 1.0)
    assert found == candidates(TASKS, "random", 50, 13) != candidates(TASKS, "random", 50, 14)
    for weights in found:
        assert sum(weights.values()) == pytest.approx(3.0, abs=1e-3)
        assert max(weights.values()) <= 16.01 * min(weights.values())
    assert max(max(weights.values()) / min(weights.values()) for weights in found) > 6


@pytest.mark.parametrize(
    ("tasks", "said"),
    [(["one"], "at least two tasks"), (TASKS, "at least 19 trials for the grid over 3 tasks, but 18")],
)
def test_what_cannot_be_searched_is_refused(tasks: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        candidates(tasks, "grid", 18, 0)


def test_weights_are_part_of_the_agreement(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation()
    assert with_weights(federation, dict.fromkeys(TASKS, 1.0)).digest == federation.digest
    assert with_weights(federation, {"clauses": 2.0, "entities": 0.5, "notes_qa": 0.5}).digest != federation.digest


@pytest.fixture
def experiment(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]) -> Path:
    """An experiment file whose test records cannot be read."""
    values: dict[str, Any] = tiny_federation(rounds={"count": 1}).model_dump(mode="json", exclude_none=True)
    del values["tasks"]["notes_qa"]
    institutions: dict[str, dict[str, dict[str, str]]] = {}
    for name in ("hospital", "law_firm"):
        for task in ("clauses", "entities"):
            write_records(tmp_path / name / f"{task}.jsonl", task)
            broken = tmp_path / name / f"{task}.test.jsonl"
            broken.write_text("not a record\n")
            paths = {"train": f"{name}/{task}.jsonl", "test": f"{name}/{task}.test.jsonl"}
            institutions.setdefault(name, {})[task] = paths
    path = tmp_path / "experiment.toml"
    path.write_text(tomli_w.dumps({"federation": values, "institutions": institutions}), encoding="utf-8")
    return path


def test_the_best_validation_score_wins_and_weights_change_what_is_learnt(experiment: Path, tmp_path: Path) -> None:
    told: list[str] = []
    trials = search_task_weights(
        experiment, method="grid", trials=5, data=None, limit=None, workdir=tmp_path / "work", announce=told.append
    )
    assert [trial.score for trial in trials] == sorted((trial.score for trial in trials), reverse=True)
    assert len({tuple(trial.weights.values()) for trial in trials}) == 5
    assert sum("validation score" in line for line in told) == 5
    states = {path.read_bytes() for path in (tmp_path / "work").glob("trial-*/checkpoints/*/round-00001-*")}
    assert len(states) == 5


def test_the_command_prints_weights_that_a_federation_file_takes(experiment: Path, tmp_path: Path) -> None:
    command = ["simulate", str(experiment), "--search", "task-weights", "--trials", "2", "--workdir"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "a"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["trials"]) == 2
    snippet = tomllib.loads(found["toml"])
    assert {task: table["weight"] for task, table in snippet["tasks"].items()} == found["best"]
    plain = CliRunner().invoke(app, [*command, str(tmp_path / "b")])
    assert plain.exit_code == 0
    assert found["toml"].strip() in plain.stdout
    assert "validation score" in plain.stdout
