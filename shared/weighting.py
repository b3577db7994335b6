"""What an institution's update weighs in a sum, as every participant of a round computes it from all signed counts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from shared.adapter import HEAD, task_of
from shared.errors import ProtocolError, listed
from shared.rows import LAST_LAYER

TOLERANCE = 1e-9
"""By so much, relatively, a share may pass the most that is allowed: it is a float."""
MOST_RECORDS = 10**9
"""No institution holds more records of one task."""


class Counted(Protocol):
    """What an institution's word counts for."""

    @property
    def examples(self) -> Mapping[str, int]:
        """Training records per task that it holds."""

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Per task of which it annotates some labels only, or all of them by name, those labels."""


Outputs = Mapping[str, Sequence[str | None]]
"""By task, the label of every row of its head's last layer; see `shared.tasks.base.Task.outputs`."""
Weighting = Literal["tasks", "examples", "equal"]
Shares = dict[str, dict[str, np.ndarray]]
"""By institution and array: one share, or one per row, shaped to multiply the array."""


def check_counted(members: Mapping[str, Counted], outputs: Outputs) -> None:
    """Raise ProtocolError unless everybody counts records of tasks and labels of the federation."""
    for name, of in members.items():
        if not of.examples or not of.examples.keys() <= outputs.keys() or not of.labels.keys() <= of.examples.keys():
            raise ProtocolError(
                f"Expected {name} to count records of tasks among {listed(sorted(outputs))}, but of others."
            )
        if not all(1 <= count <= MOST_RECORDS for count in of.examples.values()):
            raise ProtocolError(
                f"Expected {name} to count 1 to {MOST_RECORDS} records of a task, but other counts came."
            )
        if any(set(labels) - set(outputs[task]) for task, labels in of.labels.items()):
            raise ProtocolError(f"Expected labels of the federation's, but {name} annotates others.")


def sum_shares(
    members: Mapping[str, Counted],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    outputs: Outputs,
    weighting: Weighting,
    most: float,
) -> Shares:
    """What everybody multiplies its update by before it is masked.

    The adapter and the rows of heads are weighed as plain averaging weighs them (`server.aggregation`), counts that are
    above their share counting for less. Where that leaves somebody more than `most` of a part, it is cut again; and
    where too few hold a part for that (the head of a task that one institution holds), every share of it is zero: its
    sum would reveal one institution's update, so it is not updated.

    Args:
        members: Who takes part, checked.
        shapes: Of the arrays that are added up.
        outputs: Of all tasks of the federation.
        weighting: As `rounds.weighting`.
        most: As `rounds.max_share`.
    """
    names = sorted(members)
    by_task = {
        task: capped(np.array([_count(members[name], task, weighting) for name in names], np.float64), most)
        for task in outputs
    }
    parts: dict[str | None, np.ndarray] = {task: _within(shares, most)[:, None] for task, shares in by_task.items()}
    adapter = np.sum(list(by_task.values()), axis=0)
    if weighting == "examples":
        adapter = np.array([sum(members[name].examples.values()) for name in names], np.float64)
    parts[None] = _within(adapter, most)[:, None]  # as the others [institutions, 1]
    rows: dict[str, np.ndarray] = {}  # [institutions, rows]
    for task, labels in outputs.items():
        own = [members[name].labels.get(task, labels) for name in names]
        columns = [by_task[task] * [label is None or label in annotated for annotated in own] for label in labels]
        for parameter in LAST_LAYER if labels else ():
            rows[f"{HEAD}{task}/{parameter}"] = np.stack([_within(column, most) for column in columns], axis=1)
    return {
        name: {
            array: rows.get(array, parts[task_of(array)])[index].reshape(-1, *(1,) * (len(shape) - 1))
            for array, shape in shapes.items()
        }
        for index, name in enumerate(names)
    }


def check_shares(shares: Shares, survivors: Collection[str], *, most: float) -> None:
    """Raise ProtocolError if one of those whose updates are in a sum would be more than `most` of a part of it."""
    for array in next(iter(shares.values())):
        weights = np.stack([shares[name][array].ravel() for name in sorted(survivors)])
        heaviest, whole = weights.max(axis=0), weights.sum(axis=0)
        if (heaviest > most * (1 + TOLERANCE) * whole).any():
            part = "the adapter" if task_of(array) is None else f"the head of {task_of(array)}"
            raise ProtocolError(
                f"Expected nobody to weigh more than {most:g} (rounds.max_share) in {part}, but of "
                f"{listed(sorted(survivors))} one would weigh "
                f"{(heaviest / np.where(whole > 0, whole, 1.0)).max():.2f}; no share is given."
            )


def capped(weights: np.ndarray, most: float) -> np.ndarray:
    """Shares in proportion to the weights, but none above `most`: what is cut off goes to the others.

    Args:
        weights: Not negative [n].
        most: Above 0, at most 1; shares are equal where so few weigh anything that they must pass it.

    Returns:
        Shares [n] that add up to 1; zeros if nothing weighs anything.
    """
    holders = int(np.count_nonzero(weights))
    if holders * most <= 1.0:
        return (weights > 0).astype(np.float64) / max(1, int(holders))
    heavy = np.zeros(len(weights), bool)
    while True:
        left = 1.0 - most * np.count_nonzero(heavy)
        shares = np.where(heavy, most, weights * (left / weights[~heavy].sum()))
        above = shares > most * (1 + TOLERANCE)
        if not above.any():
            return shares
        heavy |= above


def _within(weights: np.ndarray, most: float) -> np.ndarray:
    """Shares none of which is above `most`; zeros where that cannot be."""
    shares = capped(weights, most)
    return shares if shares.max(initial=0.0) <= most * (1 + TOLERANCE) else np.zeros_like(shares)


def _count(member: Counted, task: str, weighting: Weighting) -> int:
    count = member.examples.get(task, 0)
    return min(1, count) if weighting == "equal" else count
