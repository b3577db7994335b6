"""The coordinator's side of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378); `client.train.drift` is the other.

Algorithm 1 moves c by |S| / N times the mean change of the variates c_i of those who took part, so that c is the mean
of all c_i. Here the sum of all c_i is kept instead, beside how many institutions have ever told one - row by row where
they annotate different labels - and c is their quotient. So it is the mean of the c_i always: whoever joins late, and
whichever heads an institution holds. Both stand in the checkpoint; nobody's single c_i is kept.
"""

from collections.abc import Collection, Mapping

import numpy as np

from server.aggregation import ClientUpdate
from server.aggregation.fedavg import row_weights
from shared.adapter import is_sent, task_of
from shared.codec import Arrays
from shared.federation.methods import Method

SUM, COUNT = "scaffold/sum/", "scaffold/count/"
Taken = Mapping[int, Collection[str]]
"""By round, the tasks of an institution whose update was taken in it."""


def memory(state: Mapping[str, np.ndarray]) -> Arrays:
    """What a checkpoint remembers of control variates."""
    return {name: array for name, array in state.items() if name.startswith((SUM, COUNT))}


def mean(kept: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """The variate c of the arrays named in `shapes`, float32; zero where nobody has told a c_i yet."""
    return {
        name: (kept[SUM + name] / np.maximum(kept[COUNT + name], 1)).astype(np.float32)
        if SUM + name in kept
        else np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }


def add(kept: Arrays, update: ClientUpdate, counted: Collection[str]) -> None:
    """Add the change of an institution's variates to their sum.

    Args:
        kept: What the coordinator remembers; changed in place.
        update: With `control`, the change of c_i by array.
        counted: Arrays of which the institution has told a variate before.
    """
    for name, change in update.control.items():
        rows = row_weights(1.0, change, update.rows.get(name)).astype(np.float32)
        kept[SUM + name] = kept.get(SUM + name, np.zeros_like(change)) + rows * change
        if name not in counted:
            before = kept.get(COUNT + name, np.zeros((len(change), *(1,) * (change.ndim - 1)), np.float32))
            kept[COUNT + name] = before + rows


def told_before(names: Collection[str], taken: Taken, method: Method) -> set[str]:
    """The arrays of which an institution has told a variate in the rounds in which its update was taken."""
    return {
        name
        for name in names
        if any(
            is_sent(name, method, round) and (task_of(name) is None or task_of(name) in tasks)
            for round, tasks in taken.items()
        )
    }
