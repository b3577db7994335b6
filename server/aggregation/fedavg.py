"""Federated averaging of adapter factors and task heads (FedIT: Zhang et al. 2023, arXiv 2305.05644).

A head is averaged over the institutions that hold its task, weighted by their examples of it. The adapter gives every
task an equal say: institution i weighs w_i = 1/T * sum_t n_it / N_t over the T tasks present, where n_it are its
examples of task t and N_t all institutions'. N_t is known only at the end, so one running sum is kept per task and the
memory needed does not grow with the number of institutions.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from server.aggregation import ClientUpdate
from shared.adapter import task_of
from shared.codec import Arrays
from shared.errors import ReplyError


@dataclass(frozen=True)
class Diagnostics:
    """What went into a round's average."""

    examples: Mapping[str, Mapping[str, int]]
    """Per institution and task."""
    norms: Mapping[str, float]
    """Euclidean norm of each institution's update."""
    weights: Mapping[str, float]
    """Each institution's weight in the adapter; they sum to one."""
    norm: float
    """Euclidean norm of the step that the global state takes."""


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate]) -> tuple[Arrays, Diagnostics]:
    """Add the weighted mean of the updates to the global state.

    Args:
        state: The global state, float32 arrays by name.
        updates: Consumed one at a time; none is kept.

    Returns:
        The new state (arrays that nobody updated are the very same values) and the diagnostics.

    Raises:
        ReplyError: An institution contributed twice.
    """
    adapter: dict[str, Arrays] = {}
    heads: Arrays = {}
    totals: dict[str, int] = {}
    examples: dict[str, Mapping[str, int]] = {}
    norms: dict[str, float] = {}
    for update in updates:
        if update.institution in examples:
            raise ReplyError(
                f"Expected one update from {update.institution}, but a second one came; it is not counted."
            )
        examples[update.institution] = update.examples
        norms[update.institution] = _norm(update.arrays.values())
        for task, count in update.examples.items():
            totals[task] = totals.get(task, 0) + count
        for name, array in update.arrays.items():
            head_of = task_of(name)
            if head_of is not None:
                _add(heads, name, array, update.examples[head_of])
                continue
            for held, count in update.examples.items():
                _add(adapter.setdefault(held, {}), name, array, count)
    new = dict(state)
    for name, total in heads.items():
        new[name] = (state[name] + total / totals[str(task_of(name))]).astype(np.float32)
    for name in next(iter(adapter.values()), {}):
        mean = sum(sums[name] / totals[task] for task, sums in adapter.items()) / len(adapter)
        new[name] = (state[name] + mean).astype(np.float32)
    weights = {
        institution: sum(count / totals[task] for task, count in held.items()) / len(totals)
        for institution, held in examples.items()
    }
    step = (new[name].astype(np.float64) - state[name] for name in new if new[name] is not state[name])
    return new, Diagnostics(examples, norms, weights, _norm(step))


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))


def _add(sums: Arrays, name: str, array: np.ndarray, weight: int) -> None:
    if name not in sums:
        sums[name] = np.zeros(array.shape, np.float64)
    sums[name] += np.float64(weight) * array
