"""Does an institution's process stay the size it has? The demonstration's hospital, round after round.

    python -m simulations.benchmarks.memory --rounds 50

A process of its own answers the requests of every round (a round of training, validation) as a site's executor does,
and notes what memory it takes: after the training, which is about the most, and after giving back what is not used.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import print_json
from shared.process.memory import give_back, keep_few_kernels, resident

MEGABYTE = 1e6
SITE = "hospital"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    institution: Annotated[str, typer.Option(help="Of the demonstration.")] = SITE,
    here: Annotated[bool, typer.Option(help="Measure this process, a line of JSON for each round.")] = False,
) -> None:
    """Print resident megabytes by round, as JSON."""
    if here:
        for found in in_this_process(rounds, institution):
            print(json.dumps(found), flush=True)
    else:
        print_json(measure(rounds, institution))


def measure(rounds: int = 50, institution: str = SITE) -> dict[str, list[float]]:
    """Resident megabytes of a process that trains the demonstration's model at one institution, on one thread.

    Args:
        rounds: How many, each as the demonstration's.
        institution: One of the demonstration's.

    Returns:
        By moment, from the first round on: `trained` (after the round's training and scoring), `given back` (when
        what is not used has been handed back); and `CPU seconds` of each round.
    """
    again = [sys.executable, "-m", "simulations.benchmarks.memory", "--here", "--rounds", str(rounds)]
    out = subprocess.run([*again, "--institution", institution], capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {key: [each[key] for each in found] for key in ("trained", "given back", "CPU seconds")}


def in_this_process(rounds: int, institution: str) -> Iterator[dict[str, float]]:
    """What `measure` returns, round by round, of the process at hand."""
    keep_few_kernels()
    import time

    import torch

    from client.train import trainer
    from client.train.scoring import score
    from shared.model.multitask import build_model
    from simulations.demo import CONFIG
    from simulations.experiment import load_experiment, open_sites
    from simulations.samples import SAMPLES

    torch.set_num_threads(1)
    experiment = load_experiment(Path(CONFIG), data=SAMPLES)
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
        trained = resident()
        give_back()
        spent = time.process_time() - started
        yield {"trained": trained / MEGABYTE, "given back": resident() / MEGABYTE, "CPU seconds": spent}


if __name__ == "__main__":
    typer.run(main)
