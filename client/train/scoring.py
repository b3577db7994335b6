"""Scores of a model on the records of one task."""

from collections.abc import Mapping

import numpy as np

from client.data.loading import TaskData
from client.privacy.evaluation import NoisySums
from client.train import trainer
from shared.fields import Split
from shared.model.multitask import MultiTaskModel


def score(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], split: Split, precision: str = "auto"
) -> dict[str, float]:
    """All metrics of one task's records of a split under the model's present state.

    What `Task.tunable` names is tuned on the validation records first, and stands among the metrics.
    """
    task_type, tuned = model.tasks[task], tune(model, task, splits, precision)
    predictions = trainer.predict(model, task_type.calibrated(tuned), splits[split].examples, precision=precision)
    return task_type.score(splits[split].records, predictions) | tuned


def private_scores(
    model: MultiTaskModel, by_task: Mapping[str, TaskData], sums: NoisySums, precision: str = "auto"
) -> dict[str, dict[str, float]]:
    """Scores of several tasks' records under the model's present state, made of sums with noise in them.

    Every example passes through the model alone: rounding in a batch depends on who else is in it, and where two labels
    are all but even, a planted state would make one record's presence decide the others'. Nothing is tuned.

    Args:
        model: The model; its tasks all have a tally.
        by_task: The records of a split.
        sums: Whose they are, and the noise.
        precision: As in `Training.precision`.
    """
    counts, tallies = {}, {}
    for name, data in by_task.items():
        task = model.tasks[name]
        assert task.tally
        found = task.predict(data.examples, trainer.infer(model, data.examples, batch_tokens=1, precision=precision))
        counts[name] = np.stack([task.tally.count(record, found[i]) for i, record in enumerate(data.records)])
        tallies[name] = task.tally
    noisy = sums.of(counts)
    return {name: tally.scores(noisy[name], sums.deviation) for name, tally in tallies.items()}


def tune(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], precision: str = "auto"
) -> dict[str, float]:
    """What `Task.tunable` names, as it suits the validation records; nothing where there are none."""
    task_type = model.tasks[task]
    if not task_type.tunable or "validation" not in splits:
        return {}
    validation = splits["validation"]
    return task_type.calibrate(
        validation.records, validation.examples, trainer.infer(model, validation.examples, precision=precision)
    )
