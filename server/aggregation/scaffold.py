"""The coordinator's side of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378); `client.train.drift` is the other.

Algorithm 1 moves c by |S| / N times the mean change of the variates c_i of those who took part, so that c is the mean
of all c_i. Here the sum of all c_i is kept instead, beside how many institutions have ever sent one - row by row where
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
from shared.state import Variates

Taken = Mapping[int, Collection[str]]
"""By round, the tasks of an institution whose update was taken in it."""


def mean(variates: Variates, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """The variate c of the arrays named in `shapes`, float32; zero where nobody has sent a c_i yet."""
    return {
        name: (variates.sums[name] / np.maximum(variates.counts[name], 1)).astype(np.float32)
        if name in variates.sums
        else np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }


def add(variates: Variates, update: ClientUpdate, counted: Collection[str]) -> Variates:
    """The variates with the change of an institution's added to their sum.

    Args:
        variates: So far.
        update: With `control`, the change of c_i by array.
        counted: Arrays for which the institution has sent a variate before.
    """
    sums, counts = dict(variates.sums), dict(variates.counts)
    for name, change in update.control.items():
        rows = row_weights(1.0, change, update.rows.get(name)).astype(np.float32)
        sums[name] = sums.get(name, np.zeros_like(change)) + rows * change
        if name not in counted:
            before = counts.get(name, np.zeros((len(change), *(1,) * (change.ndim - 1)), np.float32))
            counts[name] = before + rows
    return Variates(sums, counts)


def told_before(names: Collection[str], taken: Taken, method: Method) -> set[str]:
    """The arrays for which an institution has sent a variate in the rounds in which its update was taken."""
    return {
        name
        for name in names
        if any(
            is_sent(name, method, round) and (task_of(name) is None or task_of(name) in tasks)
            for round, tasks in taken.items()
        )
    }
