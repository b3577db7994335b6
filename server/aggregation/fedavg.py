"""Federated averaging of adapter factors and task heads (FedIT: Zhang et al. 2023, arXiv 2305.05644).

A head is averaged over the institutions that hold its task, weighted by their examples of it; where they annotate
different labels, row by row over those that annotate the row's label. The adapter gives every task an equal say:
institution i weighs w_i = 1/T * sum_t n_it / N_t over the T tasks present, where n_it are its examples of task t and
N_t all institutions'. Weights by `examples` are w_i = n_i / N instead (McMahan et al. 2017), under which a large task
drowns a small one. Under `equal` every n_it is 1. Counts that are above their share count for less
(`server.aggregation.shares`). Where updates come with a filter's `trust`, that is what n_it is
multiplied by in a head, and all that an institution weighs in the adapter, whatever tasks it holds.

N_t is known only at the end, so each task needs a running sum of its own, except that tasks whose examples have had the
same ratio at every institution so far share one (`_Group`). The memory needed does not grow with the number of
institutions: one update, and twice its size for every such sum. Sums are float32, in stages: with K institutions they
are within (33 + K / 32) * 2^-24 of the exact ones, relative to the sum of magnitudes, and in practice within its square
root; updates themselves come with a precision of 2^-11. `simulations/benchmarks/aggregation.py` measures seconds and
bytes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from server.aggregation import ClientUpdate, Context, Diagnostics, Result
from shared.adapter import task_of
from shared.codec import Arrays
from shared.errors import ReplyError
from shared.federation import Weighting

STAGE = 32
"""Updates that are added up before they join the sum."""
BLOCK = 32 * 1024
"""Numbers that are added up at once: as many as stay in a core's own cache."""
Says = Mapping[str, float]
"""What an institution's word counts for in the adapter, by task."""
PLAIN = Context()
NOBODY: Mapping[str | None, float] = MappingProxyType({})


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], context: Context = PLAIN) -> Result:
    """Add the weighted mean of the updates to the global state.

    Args:
        state: The global state, float32 arrays by name.
        updates: Consumed one at a time; none is kept.
        context: Says what an institution weighs.

    Raises:
        ReplyError: An institution contributed twice.
    """
    weighting = context.weighting
    sums = _Sums(state, weighting)
    examples: dict[str, Mapping[str, int]] = {}
    says: dict[str, Says] = {}
    norms: dict[str, float] = {}
    for update in updates:
        if update.institution in examples:
            raise ReplyError(
                f"Expected one update from {update.institution}, but a second one came; it is not counted."
            )
        examples[update.institution] = update.examples
        says[update.institution] = _says(update, weighting)
        norms[update.institution] = sums.add(update)
        del update  # or it would still be there while the next one arrives
    new = dict(state)
    for name, step in sums.means(_totals(says)):
        new[name] = (state[name] + step).astype(np.float32)
    return Result(new, {}, Diagnostics(examples, norms, _weights(says), step_norm(new, state)))


def counts_for(
    examples: Mapping[str, int], weighting: Weighting, counts: Mapping[str | None, float] = NOBODY
) -> Mapping[str, float]:
    """What an institution's examples per task count for; `counts` if less."""
    if weighting == "equal":
        return dict.fromkeys(examples, 1)
    return {task: counts.get(task, reported) for task, reported in examples.items()}


def adapter_weights(examples: Mapping[str, Mapping[str, int]], weighting: Weighting) -> dict[str, float]:
    """Each institution's weight in the adapter, by its examples per task; they sum to one."""
    return _weights({name: _says(ClientUpdate(name, counts, {}), weighting) for name, counts in examples.items()})


def row_weights(count: float, array: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """The weight of every row, shaped to multiply the array: zero where a row is not the institution's to move."""
    if rows is None:
        return np.full((1,) * array.ndim, count, np.float64)
    return _column(count * rows.astype(np.float64), array)


def step_norm(new: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> float:
    """Euclidean norm of the step between two states."""
    return _norm(new[name].astype(np.float64) - state[name] for name in new if new[name] is not state[name])


class _Running:
    """A flat float32 sum of arrays that lie one behind the other.

    What has come lately is added up apart from the rest, so that numbers are seldom added to one much larger than they
    are, and rounded away.
    """

    def __init__(self, size: int) -> None:
        self._whole, self._lately, self._waiting = np.zeros(size, np.float32), np.zeros(size, np.float32), 0

    def add(self, flat: np.ndarray, weight: float, start: int) -> None:
        """Add an array of an update, flat and float32, times a weight, from its place on."""
        self._lately[start : start + flat.size] += flat if weight == 1 else flat * np.float32(weight)

    def added(self) -> None:
        """All arrays of an update have been added."""
        self._waiting += 1
        if self._waiting == STAGE:
            self._whole += self._lately
            self._lately[:] = 0
            self._waiting = 0

    def total(self) -> np.ndarray:
        """The sum, itself and not a copy; nothing can be added afterwards."""
        if self._lately.size:
            self._whole += self._lately
            self._lately = np.empty(0, np.float32)  # its memory is wanted for the new state
        return self._whole


@dataclass
class _Group:
    """Tasks whose examples have had the same ratio at every institution so far: one running sum serves them all."""

    counts: dict[str, float]
    """That ratio: the examples at the first institution that had them."""
    sum: _Running
    """Of the adapter; times `counts` of a task, it is the task's sum over institutions of n_it * update_i."""


class _Sums:
    """What has been added up so far: flat sums, the arrays of the adapter or of a head one behind the other."""

    def __init__(self, state: Mapping[str, np.ndarray], weighting: Weighting) -> None:
        self._state = state
        self._weighting = weighting
        self._parts: dict[str | None, list[str]] = {None: []}
        """The arrays of every head, and of the adapter, which is None."""
        for name in state:
            self._parts.setdefault(task_of(name), []).append(name)
        self._sent: dict[str | None, list[str]] = {}
        self._groups: list[_Group] = []
        self._heads: dict[str, _Running] = {}
        self._weighed: Arrays = {}

    def add(self, update: ClientUpdate) -> float:
        """Add one institution's update; its Euclidean norm, without the rows that are not its own to move."""
        squares = 0.0
        if arrays := self._take(None, update):
            says = _says(update, self._weighting)
            squares += _add(arrays, _weigh(self._groups, says, _size(arrays)))
        for task, examples in counts_for(update.examples, self._weighting, update.counts).items():
            count = examples * update.trust.get(task, 1.0)
            if arrays := self._take(task, update):
                if task not in self._heads:
                    self._heads[task] = _Running(_size(arrays))
                squares += _add(arrays, [(self._heads[task], count)])
                for name, array in zip(self._sent[task], arrays, strict=True):
                    rows = row_weights(count, array, update.rows.get(name))
                    self._weighed[name] = self._weighed[name] + rows if name in self._weighed else rows
        return math.sqrt(squares)

    def means(self, totals: Mapping[str, float]) -> Iterator[tuple[str, np.ndarray]]:
        """Every array's step, given what all institutions' examples add up to. Uses up the sums."""
        for task, running in self._heads.items():
            for name, sum_ in self._cut(running.total(), task):
                # A row that nobody may move keeps its value: its total is zero, whatever it is divided by.
                yield name, sum_ / np.where(self._weighed[name] > 0, self._weighed[name], 1.0)
        if self._groups:
            yield from self._cut(_mean(self._groups, totals), None)

    def _take(self, part: str | None, update: ClientUpdate) -> list[np.ndarray]:
        """The update's arrays of the adapter or a head as float32, zero in rows that are not the institution's."""
        if names := [name for name in self._parts.get(part, ()) if name in update.arrays]:
            self._sent[part] = names
        arrays = [update.arrays[name].astype(np.float32, copy=False) for name in names]
        return [
            array * _column(update.rows[name], array) if name in update.rows else array
            for name, array in zip(names, arrays, strict=True)
        ]

    def _cut(self, total: np.ndarray, part: str | None) -> Iterator[tuple[str, np.ndarray]]:
        start = 0
        for name in self._sent[part]:
            size, shape = self._state[name].size, self._state[name].shape
            yield name, total[start : start + size].reshape(shape)
            start += size


def _weigh(groups: list[_Group], counts: Says, size: int) -> list[tuple[_Running, float]]:
    """The sums that an institution's update goes into, and its weight in each; groups that it tells apart are split."""
    for group in [group for group in groups if len(group.counts) > 1]:
        apart: dict[Fraction, dict[str, float]] = {}
        for task, first in group.counts.items():
            apart.setdefault(Fraction(counts.get(task, 0)) / Fraction(first), {})[task] = first
        group.counts, *others = apart.values()
        groups += [_Group(other, deepcopy(group.sum)) for other in others]
    if new := {task: count for task, count in counts.items() if all(task not in group.counts for group in groups)}:
        groups.append(_Group(new, _Running(size)))
    leads = [(group.sum, *next(iter(group.counts.items()))) for group in groups]
    return [(running, counts[task] / first) for running, task, first in leads if task in counts]


def _mean(groups: Sequence[_Group], totals: Mapping[str, float]) -> np.ndarray:
    """The adapter's step: the mean over tasks of each one's weighted mean. Uses up the groups' sums."""
    for group in groups:
        whole = group.sum.total()
        whole *= sum(count / (totals[task] * len(totals)) for task, count in group.counts.items())
    first, *others = (group.sum.total() for group in groups)
    for other in others:
        first += other
    return first


def _says(update: ClientUpdate, weighting: Weighting) -> Says:
    """What an institution's word counts for in the adapter: task by task, or as if all were one."""
    if None in update.trust:
        return {"": update.trust[None]} if update.trust[None] > 0 else {}
    if weighting == "examples":
        return {"": update.counts.get(None, sum(update.examples.values()))}
    return counts_for(update.examples, weighting, update.counts)


def _weights(says: Mapping[str, Says]) -> dict[str, float]:
    """What `_says` of every institution, as weights that sum to one."""
    totals = _totals(says)
    return {
        name: float(sum(count / (totals[task] * len(totals)) for task, count in own.items()))
        for name, own in says.items()
    }


def _totals(says: Mapping[str, Says]) -> dict[str, float]:
    """Over all institutions, what `_says`."""
    totals: dict[str, float] = {}
    for own in says.values():
        for task, count in own.items():
            totals[task] = totals.get(task, 0) + count
    return totals


def _add(arrays: Sequence[np.ndarray], sums: Sequence[tuple[_Running, float]]) -> float:
    """Add float32 arrays, times each sum's weight, to the sums; their squared Euclidean norm."""
    squares, start = 0.0, 0
    for flat in _blocks(arrays):
        squares += float(flat.dot(flat))
        for running, weight in sums:
            running.add(flat, weight, start)
        start += flat.size
    for running, _ in sums:
        running.added()
    return squares


def _blocks(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The arrays one behind the other, flat; small ones joined, as calling NumPy costs as much as a thousand sums."""
    blocks: list[list[np.ndarray]] = []
    size = BLOCK
    for flat in (array.reshape(-1) for array in arrays):
        size += flat.size
        if size > BLOCK:
            blocks.append([])
            size = flat.size
        blocks[-1].append(flat)
    return (block[0] if len(block) == 1 else np.concatenate(block) for block in blocks)


def _size(arrays: Sequence[np.ndarray]) -> int:
    return sum(array.size for array in arrays)


def _column(rows: np.ndarray, array: np.ndarray) -> np.ndarray:
    """One value per row, shaped to multiply the array."""
    return rows.reshape(-1, *(1,) * (array.ndim - 1))


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))
