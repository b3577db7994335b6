"""Which rows of a head an institution may move: those of the labels that it annotates.

Institutions may annotate different labels of one task. The last layer of a head has one output row per label, and a row
is averaged over the institutions that annotate its label alone (DESIGN of heads: `shared.tasks.base.Task.outputs`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.adapter import HEAD

LAST_LAYER = ("linear.weight", "linear.bias")
"""Parameters of a head with one row per output."""


def row_masks(
    outputs: Mapping[str, Sequence[str | None]], labels: Mapping[str, Mapping[str, int]]
) -> dict[str, np.ndarray]:
    """The rows that are an institution's, for the arrays of which not all are.

    Args:
        outputs: Per task that it holds, the label of each output row; None where a row is everybody's.
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
