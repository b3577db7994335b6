"""Run an experiment file: the federation, in one or several processes, then its baselines."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from flwr.serverapp import Grid

from client.train.hooks import Progress
from server.store import Store
from shared.adapter import get_state
from shared.model.multitask import build_model
from shared.process.memory import keep_few_kernels
from simulations.baselines import centralised, local_only
from simulations.engine import run_on
from simulations.engine.cluster import check_cluster, open_cluster
from simulations.engine.group import GROUP, GroupGrid
from simulations.engine.workers import default_workers, forkable, open_grid
from simulations.experiment import load_experiment, open_sites
from simulations.results import Row, rows_of

Backend = Literal["processes", "ray"]
"""Processes of this machine that share model and records; or Flower's Simulation Runtime, here or on a cluster."""


def run_experiment(
    path: Path,
    *,
    data: Path | None,
    limit: int | None,
    workdir: Path,
    announce: Callable[[str], None],
    workers: int | None = 1,
    backend: Backend = "processes",
    group: int | None = None,
) -> list[Row]:
    """Simulate the federation of an experiment file and train its baselines.

    Args:
        path: The experiment file.
        data: Folder that its data paths start from; its own folder if None.
        limit: At most this many records per task and split; as in the file if None.
        workdir: Folder for the store and the checkpoints.
        announce: Told of every stage.
        workers: Processes that the institutions work in; as many as the machine has cores and memory for if None, or
            as Ray has processors for. On a GPU there is one.
        backend: What starts them.
        group: Institutions whose rows pass through the model together; if None, `GROUP` on a GPU and else 1.

    Returns:
        One row per institution and task.

    Raises:
        ConfigError: The experiment is wrong, or cannot run on this backend.
        ProcessError: One of the processes has ended.
    """
    keep_few_kernels()
    experiment = load_experiment(path, data=data, limit=limit, workdir=workdir, announce=announce)
    federation = experiment.federation
    announce(f"Loading the backbone {federation.backbone.name} and the records of {len(experiment.institutions)} sites")
    if backend == "ray":
        check_cluster(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() and backend != "ray" else "cpu")
    group = group or (GROUP if device.type == "cuda" else 1)
    alone = device.type == "cuda" or group > 1  # a group is of one process, and a GPU survives no fork
    count = 1 if alone or backend == "ray" else workers or default_workers(len(experiment.institutions))
    with Store.open(f"sqlite:///{workdir / 'collegium.db'}", checkpoints=workdir / "checkpoints") as store:
        with forkable(count):
            model = build_model(federation).to(device)
            initial = get_state(model)
            sites = open_sites(experiment, model)
            opened: AbstractContextManager[Grid]
            if backend == "ray":
                opened = open_cluster(experiment, workdir, workers)
            else:
                opened = nullcontext(GroupGrid(sites, group)) if group > 1 else open_grid(sites, count)
            with opened as grid:
                run_id = run_on(grid, federation, initial, store, announce)
        central = each = None
        if "centralised" in experiment.baselines:
            announce("Baseline: all records pooled")
            central = centralised(model, initial, sites, federation, [quarters(announce)])
        if "local_only" in experiment.baselines:
            announce("Baseline: each institution alone")
            each = local_only(model, initial, sites, federation, announce)
        return rows_of(store, run_id, centralised=central, local_only=each)


def quarters(announce: Callable[[str], None]) -> Progress:
    """Training progress in four announcements."""
    said = 0

    def tell(done: int, steps: int) -> None:
        nonlocal said
        if done * 4 // steps > said:
            said = done * 4 // steps
            announce(f"centralised: step {done} of {steps}")

    return Progress(tell)
