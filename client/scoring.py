"""Scores of a model on the records of one task."""

from collections.abc import Mapping

from client import trainer
from client.data.loading import TaskData
from shared.model import MultiTaskModel
from shared.protocol import Split


def score(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], split: Split, precision: str = "auto"
) -> dict[str, float]:
    """All metrics of one task's records of a split under the model's present state.

    What `Task.tunable` names is tuned on the validation records first, and stands among the metrics.
    """
    told, tuned = model.tasks[task], tune(model, task, splits, precision)
    predictions = trainer.predict(model, told.calibrated(tuned), splits[split].examples, precision=precision)
    return told.score(splits[split].records, predictions) | tuned


def tune(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], precision: str = "auto"
) -> dict[str, float]:
    """What `Task.tunable` names, as it suits the validation records; nothing where there are none."""
    told = model.tasks[task]
    if not told.tunable or "validation" not in splits:
        return {}
    held = splits["validation"]
    return told.calibrate(held.records, held.examples, trainer.infer(model, held.examples, precision=precision))
