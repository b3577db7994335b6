"""Examples that an institution trains on in a CPU second: our trainer beside Hugging Face's Trainer with peft.

All sides train the same backbone from its own weights with LoRA of rank 8 on the same layers, on the same records, for
an epoch a turn, with steps of as many records on average, AdamW, and a learning rate of 1e-3 that rises over the first
steps of an epoch, in which AdamW has no moments yet, alike on all sides. In the end each side has had as many epochs as
there were turns, and is tested: a ratio counts only beside scores that are alike. *As documented* is `get_peft_model`
of `AutoModelForSequenceClassification` under the defaults of `TrainingArguments`: random batches padded to their
longest row, float32, dropout. *Tuned* is the same with `bf16`, batches grouped by length, no dropout and plain
attention, whose backward pass is the faster one on a CPU. Reading, encoding and building the model are not timed.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from client.train import trainer
from client.train.batching import training_batches
from client.train.optimizers import warm_up
from client.train.precision import is_bfloat16
from client.train.scoring import score
from shared.adapter import set_state
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Goal, Table, cpu_seconds, in_turns
from simulations.benchmarks.training.scene import TASK, Scene, encoded, open_scene, peft_model

RECORDS, SMALL = 400, 16
TRAINING = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0, "batch_tokens": 1024}
OURS, DOCUMENTED, TUNED = "our trainer", "Trainer + peft, as documented", "Trainer + peft, tuned"
GOALS = {DOCUMENTED: Goal(kind="at least", value=5), TUNED: Goal(kind="at least", value=1.8)}


class Side(Protocol):
    """One way to train."""

    def epoch(self, seed: int) -> float:
        """Train on every record once, and go on from there in the next epoch; its CPU seconds."""

    def scores(self) -> Mapping[str, float]:
        """Of the test records, as the model is now."""


def findings(asked: Asked) -> Findings:
    """An epoch of each side in every turn, and the scores after the last."""
    scene = open_scene(asked, SMALL if asked.small else RECORDS, training=TRAINING)
    records = len(scene.examples)
    native = is_bfloat16(scene.model.device, "auto")
    tuned = Trainers(scene, Tuning(bf16=native, by_length=True, dropout=False, attention="eager"))
    sides: dict[str, Side] = {OURS: Ours(scene), DOCUMENTED: Trainers(scene, Tuning()), TUNED: tuned}
    seeds = {name: iter(range(asked.turns)) for name in sides}

    def speed(name: str) -> float:
        return records / sides[name].epoch(next(seeds[name]))

    figures = in_turns({name: partial(speed, name) for name in sides}, asked.turns)
    unit = "examples per CPU second"
    comparisons = [
        Comparison(subject=OURS, against=name, unit=unit, ours=figures[OURS], theirs=figures[name], goal=goal)
        for name, goal in GOALS.items()
    ]
    scores = {name: side.scores() for name, side in sides.items()}
    rows: list[list[Cell]] = [[name, found["macro_f1"], found["accuracy"]] for name, found in scores.items()]
    title = f"Scores of {len(scene.data['test'].records)} test records after {asked.turns} epochs of {records} records"
    return Findings(
        comparisons=comparisons, tables=[Table(title=title, columns=["", "macro F1", "accuracy"], rows=rows)]
    )


class Ours:
    """The trainer of an institution."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        set_state(scene.model, scene.initial)

    def epoch(self, seed: int) -> float:
        """As `Side`."""
        model, training = self._scene.model, self._scene.federation.training
        return cpu_seconds(lambda: trainer.train(model, self._scene.examples, training, seed=seed))

    def scores(self) -> Mapping[str, float]:
        """As `Side`."""
        return score(self._scene.model, TASK, self._scene.site.data[TASK], "test")


@dataclass(frozen=True)
class Tuning:
    """How Hugging Face's side is set; as documented where nothing is said."""

    bf16: bool = False
    by_length: bool = False
    dropout: bool = True
    attention: str = "sdpa"


class Trainers:
    """Hugging Face's Trainer, with peft."""

    def __init__(self, scene: Scene, tuning: Tuning) -> None:
        self._scene, self._tuning = scene, tuning
        self._model = peft_model(scene, dropout=tuning.dropout, attention=tuning.attention)
        self._train, self._test = (encoded(scene, split) for split in ("train", "test"))

    def epoch(self, seed: int) -> float:
        """As `Side`."""
        return cpu_seconds(self._trainer(seed, by_length=self._tuning.by_length).train)

    def scores(self) -> Mapping[str, float]:
        """As `Side`."""
        # Grouped by length, answers would come in that order.
        logits = np.asarray(self._trainer(0, by_length=False).predict(self._test).predictions)  # type: ignore[arg-type]
        found = [self._scene.labels[row.argmax()] for row in logits]
        return self._scene.model.tasks[TASK].score(self._scene.data["test"].records, found)

    def _trainer(self, seed: int, *, by_length: bool) -> Trainer:
        training, examples = self._scene.federation.training, self._scene.examples
        steps = len(training_batches(examples, training.batch_tokens, np.random.default_rng(seed)))
        with tempfile.TemporaryDirectory() as folder:  # nothing is saved to it
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=round(len(examples) / steps),
                bf16=self._tuning.bf16,
                train_sampling_strategy="group_by_length" if by_length else "random",
                seed=seed,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )
        tokenizer = self._scene.model.tokenizer
        # Trainer's own optimizer, with our first steps: with other ones the scores would not be alike.
        optimizer = torch.optim.AdamW(
            (weight for weight in self._model.parameters() if weight.requires_grad),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up(training, step, steps))
        made = Trainer(
            model=self._model,
            args=arguments,
            optimizers=(optimizer, rising),
            train_dataset=self._train,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        made.remove_callback(PrinterCallback)  # it prints on stdout
        return made
