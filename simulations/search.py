"""Searching the tasks' weights of an experiment by its validation score; test records are never read.

Every trial is the whole federation with the same seed, so that trials differ by their weights alone. What counts is how
weights compare with each other, so they are scaled to a mean of 1. The first trial has all weights equal.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w

from client.site import Site
from server.store import Store
from server.store import rounds as rounds_table
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import ConfigError, joined
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.process.console import print_table
from shared.tasks import build_task
from simulations.engine import run_on
from simulations.engine.workers import default_workers, forkable, open_grid
from simulations.experiment import Experiment, load_experiment, open_sites

Method = Literal["grid", "random"]
GRID = (0.5, 1.0, 2.0)
"""The values that a grid gives each task before scaling."""
SPREAD = 4.0
"""Random weights are log-uniform between 1 / SPREAD and SPREAD before scaling."""


@dataclass(frozen=True)
class Trial:
    """One set of weights and what it gave."""

    weights: dict[str, float]
    score: float
    """The federated validation score of the best round: mean over tasks of their own metrics."""
    best_round: int


def search_task_weights(
    path: Path,
    *,
    method: Method,
    trials: int,
    data: Path | None,
    limit: int | None,
    workdir: Path,
    announce: Callable[[str], None],
    workers: int | None = 1,
) -> list[Trial]:
    """Try weights for the tasks of an experiment file.

    Args:
        path: The experiment file.
        method: `grid` tries every combination of GRID that differs after scaling, `random` draws.
        trials: Most trials.
        data: Folder that its data paths start from; its own folder if None.
        limit: At most this many records per task and split; as in the file if None.
        workdir: Folder for the stores and checkpoints of the trials.
        announce: Told of every trial.
        workers: As `simulate.run_experiment`.

    Returns:
        The trials, best first.

    Raises:
        ConfigError: There is nothing to weigh, the grid has more points than `trials`, or no validation records.
    """
    experiment = _without_test(load_experiment(path, data=data, limit=limit, workdir=workdir, announce=announce))
    federation = experiment.federation
    chosen = candidates(list(federation.tasks), method, trials, federation.seed)
    announce(f"Loading the backbone {federation.backbone.name} and the records of {len(experiment.institutions)} sites")
    count = workers or default_workers(len(experiment.institutions))
    found = []
    with forkable(count):
        model = build_model(federation)
        initial = get_state(model)
        sites = open_sites(experiment, model)
        for number, weights in enumerate(chosen, start=1):
            folder = workdir / f"trial-{number}"
            found.append(_trial(with_weights(federation, weights), model, initial, sites, folder, count))
            announce(f"Trial {number} of {len(chosen)}: validation score {found[-1].score:.4f} with {_shown(weights)}")
    return sorted(found, key=lambda trial: -trial.score)


def candidates(tasks: Sequence[str], method: Method, trials: int, seed: int) -> list[dict[str, float]]:
    """The weights to try, equal ones first, each set with a mean of 1.

    Raises:
        ConfigError: There are fewer than two tasks, or the grid has more than `trials` points.
    """
    if len(tasks) < 2:
        raise ConfigError(f"Expected at least two tasks to weigh, but the experiment has {len(tasks)}; add a task.")
    if method == "random":
        rng = np.random.default_rng(seed)
        drawn = SPREAD ** rng.uniform(-1, 1, size=(trials - 1, len(tasks)))
        return [_scaled(tasks, row) for row in [(1.0,) * len(tasks), *drawn.tolist()]]
    points = len(GRID) ** len(tasks) - (len(GRID) - 1) ** len(tasks)
    if points > trials:
        raise ConfigError(
            f"Expected at least {points} trials for the grid over {len(tasks)} tasks, but {trials} came; "
            "raise --trials, or search with --method random."
        )
    # Of rows that are multiples of each other, and scale alike, only the one that holds the largest value.
    rows = [row for row in itertools.product(GRID, repeat=len(tasks)) if max(row) == max(GRID)]
    return [_scaled(tasks, row) for row in sorted(rows, key=lambda row: float(np.var(np.log(row))))]


def with_weights(federation: Federation, weights: Mapping[str, float]) -> Federation:
    """The same agreement with other weights of its tasks."""
    tasks = {name: spec.model_copy(update={"weight": weights[name]}) for name, spec in federation.tasks.items()}
    return federation.model_copy(update={"tasks": tasks})


def print_trials(trials: list[Trial]) -> None:
    """Print the table of trials, and the best weights as what to write in the federation file."""
    tasks = list(trials[0].weights)
    rows = [[trial.score, trial.best_round, *(trial.weights[task] for task in tasks)] for trial in trials]
    print_table(["validation score", "best round", *tasks], rows)
    print(f"\nThe best weights, for federation.toml:\n\n{as_toml(trials[0])}")


def as_toml(trial: Trial) -> str:
    """The trial's weights as they stand in a federation file."""
    return tomli_w.dumps({"tasks": {task: {"weight": weight} for task, weight in trial.weights.items()}})


def as_json(trials: list[Trial]) -> dict[str, Any]:
    """The trials, best first, and the best weights."""
    return {"best": trials[0].weights, "toml": as_toml(trials[0]), "trials": [asdict(trial) for trial in trials]}


def _trial(
    federation: Federation,
    model: MultiTaskModel,
    initial: Arrays,
    sites: Mapping[str, Site],
    folder: Path,
    workers: int,
) -> Trial:
    model.tasks |= {name: build_task(name, spec) for name, spec in federation.tasks.items()}
    weighted = {
        name: replace(site, federation=federation, memory=replace(site.memory, balances={}))
        for name, site in sites.items()
    }
    folder.mkdir(parents=True)
    with Store.open(f"sqlite:///{folder / 'collegium.db'}", checkpoints=folder / "checkpoints") as store:
        with open_grid(weighted, workers) as grid:
            run_id = run_on(grid, federation, initial, store)
        best = store.best_round(run_id)
        scores = {row["round"]: row["score"] for row in store.rows(rounds_table, run_id)}
    score = None if best is None else scores.get(best)
    if best is None or score is None:
        raise ConfigError("Expected validation records to search by, but no institution has any; give it more records.")
    weights = {name: spec.weight for name, spec in federation.tasks.items()}
    return Trial(weights, score, best)


def _without_test(experiment: Experiment) -> Experiment:
    institutions = {
        name: {task: source.model_copy(update={"test": None}) for task, source in tasks.items()}
        for name, tasks in experiment.institutions.items()
    }
    return experiment.model_copy(update={"institutions": institutions})


def _scaled(tasks: Sequence[str], row: Sequence[float]) -> dict[str, float]:
    mean = sum(row) / len(row)
    return {task: round(value / mean, 4) for task, value in zip(tasks, row, strict=True)}


def _shown(weights: Mapping[str, float]) -> str:
    return joined(f"{task} {weight:.2f}" for task, weight in weights.items())
