"""Is our trainer as good as the field's? The same model, data, LoRA, batches and seeds by Hugging Face's Trainer.

    python -m simulations.benchmarks.scores.parity --data DIR

Both sides have the same weights to start from (MiniLM-L6, our LoRA factors and head), the same batches in the same
order, learning rate of every step, weight decay, clipping, dropout and precision. They differ in what dropout leaves
out and in the loop: without dropout they end at the same weights (tests). The seconds of both are of the same run, one
side after the other for every seed.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from client.train.batching import training_batches
from client.train.optimizers import learning_rate, warm_up
from client.train.precision import is_bfloat16
from client.train.scoring import score
from client.train.trainer import derive_seed
from shared.adapter import get_state, set_state
from shared.federation import Training
from shared.model.multitask import MultiTaskModel, build_model
from shared.process.console import announce, print_table
from shared.tasks import Example
from simulations.baselines import train_on
from simulations.benchmarks.scores.cells import Cell, experiment_of
from simulations.experiment import open_sites

CELLS = {
    "financial_classification": Cell(1500, 3, 96),
    "legal_classification": Cell(1500, 3, 96),
    "medical_ner": Cell(1500, 3),
    "legal_relation": Cell(800, 3, 160, options={"no_relation": "none"}),
}


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per side.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="One cell; repeat. All if not given.")] = None,
) -> None:
    """Train every cell on both sides with every seed, in turns, and print the means of the test scores."""
    if unknown := sorted(set(only or ()) - CELLS.keys()):
        raise typer.BadParameter(f"expected cells among {list(CELLS)}, not {unknown}", param_hint="--only")
    table = []
    for name in only or CELLS:
        cell = CELLS[name]
        ours, theirs, ratios = [], [], []
        for seed in range(seeds):
            experiment = experiment_of(name, cell, data, seed)
            federation = experiment.federation
            model = build_model(federation)
            initial = get_state(model)
            (site,) = open_sites(experiment, model).values()
            metric = model.tasks[name].metric
            started = time.perf_counter()
            train_on(model, initial, [site], federation)
            ours_done = time.perf_counter()
            ours.append(score(model, name, site.data[name], "test", federation.training.precision)[metric])
            set_state(model, initial)
            site_seed = derive_seed(federation.seed, site.name, 1)
            batches = our_batches(site.data[name]["train"].examples, federation.training, site_seed)
            theirs_started = time.perf_counter()
            by_trainer(model, name, batches, federation.training)
            ratios.append((time.perf_counter() - theirs_started) / (ours_done - started))
            theirs.append(score(model, name, site.data[name], "test", federation.training.precision)[metric])
            announce(
                f"{name}, seed {seed}: ours {ours[-1]:.3f}, Trainer's {theirs[-1]:.3f} in {ratios[-1]:.2f} of the time"
            )
        mine, their = statistics.mean(ours), statistics.mean(theirs)
        spread = f"{min(ours):.3f}-{max(ours):.3f}", f"{min(theirs):.3f}-{max(theirs):.3f}"
        table.append([name, metric, mine, spread[0], their, spread[1], mine - their, statistics.median(ratios)])
    print_table(["cell", "metric", "ours", "range", "Trainer", "range", "difference", "time ratio"], table)


class OurSteps(Trainer):
    """Trainer with our batches in our order, and the learning rate of our steps."""

    def __init__(self, training: Training, **options: Any) -> None:
        super().__init__(**options)
        self.training = training

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches as they are."""
        assert self.train_dataset is not None
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=self.data_collator)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The share of `TrainingArguments.learning_rate` that each step takes."""

        def share(step: int) -> float:
            # The scheduler asks for a step after the last, which has no rate.
            step = min(step, num_training_steps - 1)
            rate = learning_rate(self.training, step / num_training_steps) / self.training.learning_rate
            return rate * warm_up(self.training, step, num_training_steps)

        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return self.lr_scheduler


class OneTask(nn.Module):
    """Our model with the interface that Trainer expects: a batch in, the mean loss out."""

    def __init__(self, model: MultiTaskModel, task: str) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        batch = self.model.collate(examples)
        return {"loss": self.model.losses(batch, self.model(batch))[self.task].mean()}


def our_batches(examples: Sequence[Example], training: Training, seed: int) -> list[list[Example]]:
    """The batches that our trainer makes of the examples with that seed, of all epochs one after another."""
    rng = np.random.default_rng(seed)
    epochs = range(training.epochs_per_round)
    return [batch for _ in epochs for batch in training_batches(examples, training.batch_tokens, rng)]


def by_trainer(model: MultiTaskModel, task: str, batches: Sequence[Sequence[Example]], training: Training) -> None:
    """Train in place by `transformers.Trainer`, a step for every batch."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,  # the batches are of all epochs
            per_device_train_batch_size=1,  # of ours
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            max_grad_norm=training.clip_norm,
            bf16=is_bfloat16(model.device, training.precision),
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )

        def unwrapped(items: list[Sequence[Example]]) -> dict[str, Any]:
            (batch,) = items
            return {"examples": batch}

        OurSteps(
            training,
            model=OneTask(model, task),
            args=arguments,
            train_dataset=batches,
            data_collator=unwrapped,
        ).train()
    model.eval()


if __name__ == "__main__":
    typer.run(main)
