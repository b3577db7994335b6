"""What does a step of DP-SGD cost beside a plain one? The same records, interleaved, in one process; memory in two.

    python -m simulations.benchmarks.private_step --data DIR

Both sides pass the same records of legal_classification through the model. The plain side cuts them into the
micro-batches of the trainer; the private side sorts owners by length, takes each one's gradient, clips and adds noise.
The noise of one step is timed by itself as well.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from client.privacy.dpsgd import per_example_gradients, private_optimizer, private_step
from client.privacy.owners import Private
from client.privacy.randomness import Stream
from client.train.gradients import accumulate
from client.train.optimizers import build_optimizer
from shared.federation import Privacy, Training
from shared.model.multitask import MultiTaskModel, build_model
from shared.process.console import print_table
from shared.tasks import Example
from simulations.benchmarks.scores.cells import Cell, experiment_of
from simulations.experiment import open_sites

TASK = "legal_classification"


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    records: Annotated[int, typer.Option(min=1, help="Records in a step.")] = 256,
    blocks: Annotated[int, typer.Option(min=1, help="Steps of each side.")] = 7,
    method: Annotated[str, typer.Option(help="rounds.method of both sides.")] = "fedsvd",
    only: Annotated[str | None, typer.Option(help="Take one side's steps and print the process's peak memory.")] = None,
) -> None:
    """Time both sides in turns; then measure each one's peak memory in a process of its own."""
    plain, private, noise = sides(data, records, method)
    if only:
        for _ in range(3):
            (plain if only == "plain" else private)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    plain(), private(), noise()  # the first of each is slower
    seconds: dict[str, list[float]] = {"plain": [], "private": [], "its noise": []}
    for _ in range(blocks):
        for name, step in zip(seconds, (plain, private, noise), strict=True):
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    ratios = [b / a for a, b in zip(seconds["plain"], seconds["private"], strict=True)]
    table = [[name, statistics.median(values), min(values), max(values)] for name, values in seconds.items()]
    table.append(["ratio", statistics.median(ratios), min(ratios), max(ratios)])
    again = [sys.executable, "-m", "simulations.benchmarks.private_step", "--data", str(data), "--method", method]
    again += ["--records", str(records), "--only"]
    for name in ("plain", "private"):
        told = subprocess.run([*again, name], capture_output=True, text=True, check=True).stdout
        table.append([f"{name}: peak memory, GiB", *[int(told) / 2**20] * 3])
    print_table(["CPU seconds of a step", "median", "least", "most"], table)


def sides(data: Path, records: int, method: str) -> tuple[Callable[[], None], Callable[[], None], Callable[[], object]]:
    """A plain step, a private one on the same records, and the noise of a private one."""
    experiment = experiment_of(TASK, Cell(records, 1, 96), data, 13)
    values = experiment.federation.model_dump(mode="json", exclude_none=True)
    values["rounds"] |= {"method": method}
    values["training"] |= {"head_dropout": 0.0}  # as under [privacy]
    experiment = experiment.model_copy(update={"federation": type(experiment.federation).model_validate(values)})
    training = experiment.federation.training
    model = build_model(experiment.federation)
    (site,) = open_sites(experiment, model).values()
    examples = site.examples("train")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    rng = np.random.default_rng(0)

    def plain() -> None:
        optimizer = build_optimizer(parameters, training)
        accumulate(model, examples, training, {}, rng)
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    stream, size = Stream(), sum(parameter.numel() for parameter in parameters)
    return plain, private_side(model, examples, parameters, training), lambda: stream.noise(size)


def private_side(
    model: MultiTaskModel, examples: list[Example], parameters: list[torch.nn.Parameter], training: Training
) -> Callable[[], None]:
    """A private step in which every owner was drawn."""
    settings = Private(
        Privacy(noise_multiplier=1.0, sampling_rate=1.0), 1.0, {(e.task, e.record): str(e.record) for e in examples}
    )

    def private() -> None:
        noisy = private_optimizer(build_optimizer(parameters, training), settings)
        with per_example_gradients(model):
            private_step(model, examples, training, settings, noisy)

    return private


if __name__ == "__main__":
    typer.run(main)
