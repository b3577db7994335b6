"""Which rows of a head an institution may move: those of the labels that it annotates.

Institutions may annotate different labels of one task. The last layer of a head has one output row per label, and a row
is averaged over the institutions that annotate its label alone (DESIGN of heads: `shared.tasks.base.Task.outputs`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.adapter import HEAD, task_of

LAST_LAYER = ("linear.weight", "linear.bias")
"""Parameters of a head with one row per output."""


def row_masks(
    outputs: Mapping[str, Sequence[str | None]], labels: Mapping[str, Mapping[str, int]]
) -> dict[str, np.ndarray]:
    """The rows that are an institution's, for the arrays of which not all are.

    Args:
        outputs: Per task that it holds, the label of each output row; None where every holder has the row.
        labels: Per task, the labels that it annotates; all of them where a task is left out.

    Returns:
        By array name, booleans [rows].
    """
    masks: dict[str, np.ndarray] = {}
    for task, rows in outputs.items():
        mask = np.array([row is None or row in labels[task] for row in rows]) if task in labels else np.ones(0, bool)
        if not mask.all():
            masks |= {f"{HEAD}{task}/{parameter}": mask for parameter in LAST_LAYER}
    return masks


def moved_rows(
    shapes: Mapping[str, tuple[int, ...]],
    examples: Mapping[str, Mapping[str, int]],
    *,
    outputs: Mapping[str, Sequence[str | None]],
    labels: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> dict[str, np.ndarray]:
    """What the institutions of a round may have moved.

    Args:
        shapes: Of the arrays that institutions send in the round.
        examples: Per institution that took part, its tasks.
        outputs: Per task, as `row_masks`.
        labels: Per institution, as `row_masks`.

    Returns:
        By array that somebody holds, which of its rows are somebody's: booleans that broadcast to the array.
    """
    masks = {
        name: row_masks({task: outputs[task] for task in counts}, labels.get(name, {}))
        for name, counts in examples.items()
    }
    moved: dict[str, np.ndarray] = {}
    for array, shape in shapes.items():
        task = task_of(array)
        for name, counts in examples.items():
            if task is None or task in counts:
                rows = masks[name].get(array, np.ones(1, bool)).reshape(-1, *(1,) * (len(shape) - 1))
                moved[array] = moved.get(array, np.zeros_like(rows)) | rows
    return moved
