"""An institution's process that trains the demonstration's records round after round: 50 rounds on one thread.

The process is one of its own. It trains and scores as a site does, and notes what main memory it takes: after each
round, which is about the most, and once what is not used has been given back, as a site's executor does after every
request.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from shared.process.memory import give_back, keep_few_kernels, resident
from simulations.benchmarks.measured import Asked, Curves, Findings

MEGABYTE = 1e6
ROUNDS, FEW = 50, 5
INSTITUTION, SMALL = "hospital", "law_firm"
"""The demonstration's largest, and one whose records are trained sooner."""
LIMIT = 60
"""Records of each task in a small run."""


def findings(asked: Asked) -> Findings:
    """Resident megabytes by round."""
    found = by_round(FEW, SMALL, LIMIT) if asked.small else by_round(ROUNDS)
    curves = {name: found[name] for name in ("after a round", "given back")}
    return Findings(curves=Curves(along="round", unit="MB", values=curves))


def by_round(rounds: int, institution: str = INSTITUTION, limit: int | None = None) -> dict[str, list[float]]:
    """What a process takes that trains the demonstration's model at one institution.

    Args:
        rounds: How many, each as the demonstration's.
        institution: One of the demonstration's.
        limit: At most so many records of each task.

    Returns:
        From the first round on, resident megabytes `after a round` and once memory was `given back`, and its
        `CPU seconds`.
    """
    again = [sys.executable, "-m", "simulations.benchmarks.memory", str(rounds), institution, str(limit or 0)]
    out = subprocess.run(again, capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {key: [each[key] for each in found] for key in found[0]}


def main(rounds: int, institution: str, limit: int) -> None:
    """Measure this process, and print a line of JSON for each round."""
    for found in _rounds(rounds, institution, limit or None):
        print(json.dumps(found), flush=True)


def _rounds(rounds: int, institution: str, limit: int | None) -> Iterator[dict[str, float]]:
    keep_few_kernels()
    import torch

    from client.train import trainer
    from client.train.scoring import score
    from shared.model.multitask import build_model
    from simulations.demo import CONFIG
    from simulations.experiment import load_experiment, open_sites
    from simulations.samples import SAMPLES

    torch.set_num_threads(1)
    experiment = load_experiment(Path(CONFIG), data=SAMPLES, limit=limit)
    alone = {institution: experiment.institutions[institution]}
    model = build_model(experiment.federation)
    (site,) = open_sites(experiment.model_copy(update={"institutions": alone}), model).values()
    for round in range(1, rounds + 1):
        started = time.process_time()
        seed = trainer.derive_seed(experiment.federation.seed, institution, round)
        stage = trainer.Stage(round, rounds)
        trainer.train(model, site.examples("train"), experiment.federation.training, seed=seed, stage=stage)
        for task, splits in site.data.items():
            score(model, task, splits, "test")
        after = resident()
        give_back()
        seconds = time.process_time() - started
        yield {"after a round": after / MEGABYTE, "given back": resident() / MEGABYTE, "CPU seconds": seconds}


if __name__ == "__main__":
    typer.run(main)
