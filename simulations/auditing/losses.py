"""The loss of every record under a model's present state: what all scores are made of."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.train.batching import evaluation_batches
from client.train.precision import autocast
from shared.model.multitask import MultiTaskModel
from shared.tasks import Example

BATCH_TOKENS = 8192


@torch.inference_mode()
def example_losses(model: MultiTaskModel, examples: Sequence[Example], precision: str = "float32") -> list[float]:
    """The loss of each labelled example, without dropout.

    Args:
        model: In the state to ask.
        examples: Of one task.
        precision: As in `Training.precision`.
    """
    model.eval()
    found: dict[int, float] = {}
    for batch in evaluation_batches(examples, BATCH_TOKENS):
        collated = model.collate(batch).to(model.device)
        with autocast(model.device, precision):
            logits = model(collated)
        (losses,) = model.losses(collated, logits).values()
        found |= {id(example): value for example, value in zip(batch, losses.tolist(), strict=True)}
    return [found[id(example)] for example in examples]


def record_losses(
    model: MultiTaskModel, examples: Sequence[Example], precision: str = "float32"
) -> NDArray[np.float64]:
    """The loss of each labelled record of one task, the mean over its windows: [records]; arguments as above."""
    records = np.array([example.record for example in examples])
    return np.bincount(records, weights=example_losses(model, examples, precision)) / np.bincount(records)
