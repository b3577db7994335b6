"""Federated averaging of adapter factors and task heads (FedIT: Zhang et al. 2023, arXiv 2305.05644).

A head is averaged over the institutions that hold its task, weighted by their examples of it; where they annotate
different labels, row by row over those that annotate the row's label. The adapter gives every task an equal say:
institution i weighs w_i = 1/T * sum_t n_it / N_t over the T tasks present, where n_it are its examples of task t and
N_t all institutions'. N_t is known only at the end, so one running sum is kept per task and the memory needed does not
grow with the number of institutions. Weights by `examples` are w_i = n_i / N instead (McMahan et al. 2017), under which
a large task drowns a small one. Under `equal` every n_it is 1.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from server.aggregation import ClientUpdate
from shared.adapter import task_of
from shared.codec import Arrays
from shared.errors import ReplyError
from shared.federation import Weighting


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


def apply(
    state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], *, weighting: Weighting = "tasks"
) -> tuple[Arrays, Diagnostics]:
    """Add the weighted mean of the updates to the global state.

    Args:
        state: The global state, float32 arrays by name.
        updates: Consumed one at a time; none is kept.
        weighting: What an institution weighs: an equal say for every `tasks`, by `examples`, or `equal` holders.

    Returns:
        The new state (arrays that nobody updated are the very same values) and the diagnostics.

    Raises:
        ReplyError: An institution contributed twice.
    """
    adapter: dict[str, Arrays] = {}
    heads: Arrays = {}
    weighed: Arrays = {}
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
        counts = counts_for(update.examples, weighting)
        for task, count in counts.items():
            totals[task] = totals.get(task, 0) + count
        for name, array in update.arrays.items():
            head_of = task_of(name)
            if head_of is not None:
                weight = row_weights(counts[head_of], array, update.rows.get(name))
                _add(heads, name, array, weight)
                _add(weighed, name, np.ones(weight.shape), weight)
                continue
            for held, count in counts.items():
                _add(adapter.setdefault(held, {}), name, array, count)
    new = dict(state)
    for name, total in heads.items():
        # A row that nobody may move keeps its value: its total is zero, whatever it is divided by.
        new[name] = (state[name] + total / np.maximum(weighed[name], 1.0)).astype(np.float32)
    shares = _shares(totals, weighting)
    for name in next(iter(adapter.values()), {}):
        mean = sum(sums[name] / shares[task] for task, sums in adapter.items())
        new[name] = (state[name] + mean).astype(np.float32)
    weights = adapter_weights(examples, weighting)
    return new, Diagnostics(examples, norms, weights, step_norm(new, state))


def counts_for(examples: Mapping[str, int], weighting: Weighting) -> Mapping[str, int]:
    """What an institution's examples per task count for."""
    return dict.fromkeys(examples, 1) if weighting == "equal" else examples


def adapter_weights(examples: Mapping[str, Mapping[str, int]], weighting: Weighting) -> dict[str, float]:
    """Each institution's weight in the adapter, by its examples per task; they sum to one."""
    counted = {institution: counts_for(held, weighting) for institution, held in examples.items()}
    totals: dict[str, int] = {}
    for held in counted.values():
        for task, count in held.items():
            totals[task] = totals.get(task, 0) + count
    shares = _shares(totals, weighting)
    return {name: sum(count / shares[task] for task, count in held.items()) for name, held in counted.items()}


def row_weights(count: float, array: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """The weight of every row, shaped to multiply the array: zero where a row is not the institution's to move."""
    if rows is None:
        return np.full((1,) * array.ndim, count, np.float64)
    return (count * rows.astype(np.float64)).reshape(-1, *(1,) * (array.ndim - 1))


def step_norm(new: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> float:
    """Euclidean norm of the step between two states."""
    return _norm(new[name].astype(np.float64) - state[name] for name in new if new[name] is not state[name])


def _shares(totals: Mapping[str, int], weighting: Weighting) -> dict[str, int]:
    """What a task's running sum is divided by."""
    return {task: sum(totals.values()) if weighting == "examples" else n * len(totals) for task, n in totals.items()}


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))


def _add(sums: Arrays, name: str, array: np.ndarray, weight: int | np.ndarray) -> None:
    product = np.asarray(weight, np.float64) * array
    if name in sums:
        sums[name] = sums[name] + product
    else:
        sums[name] = product
