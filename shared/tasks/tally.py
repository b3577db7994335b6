"""Scores as a function of sums: what each record adds to them, so that nothing but the sums need be known.

Private scores (`client.privacy.evaluation`) are made so, from sums with noise in them. A tally's scores of the exact
sums are `Task.score`'s. What a plain record adds (one label, one right or wrong entity) has a Euclidean norm of at most
1: a false and a missed one, which come together, are counted as sqrt(1/2) each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
WRONG = math.sqrt(0.5)
"""What a false and a missed one count."""
DEVIATIONS = 2.0
"""A label occurs where its count is above so many standard deviations of the noise in it."""


class Tally(Protocol):
    """What a task's scores are made of."""

    def count(self, record: Mapping[str, Any], prediction: Any) -> Sums:
        """What a record adds to the sums: [numbers], none of them negative; it depends on no other record."""
        ...

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """Some of the metrics of `Task.score`, its own one among them, each within its range whatever the sums are.

        Args:
            sums: [numbers], over records; with noise in them they may be negative.
            deviation: Standard deviation of the noise in each.
        """
        ...


@dataclass(frozen=True)
class LabelTally:
    """Of records that bear one label each."""

    labels: tuple[str, ...]
    over: tuple[str, ...]
    """The labels that F1 is over."""
    metrics: tuple[str, ...] = ("macro_f1", "accuracy", "mcc")
    """Among macro_f1, micro_f1, accuracy and mcc."""

    def count(self, record: Mapping[str, Any], prediction: Any) -> Sums:
        """Right, false and missed of every label: [3 * labels]."""
        counts = np.zeros((3, len(self.labels)))
        truth, found = self.labels.index(record["label"]), self.labels.index(prediction)
        if truth == found:
            counts[0, truth] = 1.0
        else:
            counts[1, found] = counts[2, truth] = WRONG
        return counts.ravel()

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """Macro-F1 over those of `over` that occur, micro-F1 over them; accuracy and MCC over all labels."""
        right, false, missed = unscaled(sums)
        total = right.sum() + missed.sum()
        kept = [self.labels.index(label) for label in self.over]
        every = {
            "macro_f1": macro_f1(right[kept], false[kept], missed[kept], deviation),
            "micro_f1": f1(right[kept].sum(), false[kept].sum(), missed[kept].sum()),
            "accuracy": ratio(right.sum(), total),
            "mcc": _mcc(right.sum(), total, right + false, right + missed),
        }
        return {name: every[name] for name in self.metrics}


@dataclass(frozen=True)
class LabelsTally:
    """Of records that bear any number of labels."""

    labels: tuple[str, ...]

    def count(self, record: Mapping[str, Any], prediction: Any) -> Sums:
        """Right, false, missed of every label, if the set is right, and if wrong: [3 * labels + 2], times WRONG."""
        truth, found = (
            np.array([label in labels for label in self.labels]) for labels in (record["labels"], prediction)
        )
        same = bool((truth == found).all())
        return WRONG * np.concatenate([truth & found, found & ~truth, truth & ~found, [same, not same]])

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """Macro-F1 over the labels that occur, micro-F1, exact match."""
        counts = np.maximum(sums, 0.0)
        right, false, missed = counts[:-2].reshape(3, -1)
        return {
            "macro_f1": macro_f1(right, false, missed, deviation),
            "micro_f1": f1(right.sum(), false.sum(), missed.sum()),
            "exact_match": ratio(counts[-2], counts[-2:].sum()),
        }


@dataclass(frozen=True)
class FoundTally:
    """Of things that are found in a record, such as entities."""

    things: Callable[[Mapping[str, Any], Any], tuple[set[Any], set[Any]]]
    """Those that are in a record, and those that a prediction finds."""

    def count(self, record: Mapping[str, Any], prediction: Any) -> Sums:
        """Right, false and missed: [3]."""
        truth, found = self.things(record, prediction)
        return np.array([len(truth & found), WRONG * len(found - truth), WRONG * len(truth - found)])

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """F1, precision and recall."""
        right, false, missed = unscaled(sums)[:, 0]
        return {
            "f1": f1(right, false, missed),
            "precision": ratio(right, right + false),
            "recall": ratio(right, right + missed),
        }


@dataclass(frozen=True)
class MeanTally:
    """Of records, or parts of records, each with a value from 0 to 1, whose mean is the metric."""

    metric: str
    values: Callable[[Mapping[str, Any], Any], Sequence[float]]

    def count(self, record: Mapping[str, Any], prediction: Any) -> Sums:
        """The values and what they lack of 1: [2]."""
        values = np.asarray(self.values(record, prediction), dtype=np.float64)
        return np.array([values.sum(), (1 - values).sum()])

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """The mean."""
        reached, lacked = np.maximum(sums, 0.0)
        return {self.metric: ratio(reached, reached + lacked)}


def unscaled(sums: Sums) -> Sums:
    """Right, false and missed, [3, labels] and none negative, of sums in which the latter two count WRONG."""
    counts: Sums = np.maximum(sums.reshape(3, -1), 0.0) / np.array([[1.0], [WRONG], [WRONG]])
    return counts


def ratio(part: float, whole: float) -> float:
    """Part by whole, at most 1; 0 where there is nothing."""
    return min(1.0, float(part / whole)) if whole > 0 else 0.0


def f1(right: float, false: float, missed: float) -> float:
    """Harmonic mean of precision and recall; 0 where there is nothing to find and nothing found."""
    return ratio(2 * right, 2 * right + false + missed)


def macro_f1(right: Sums, false: Sums, missed: Sums, deviation: float) -> float:
    """The mean of F1 over labels that occur; 0 where none does."""
    noise = deviation * math.sqrt(1 + 2 / WRONG**2)  # at most, of a label's three counts together
    occurring = right + false + missed > DEVIATIONS * noise
    values = [f1(*counts) for counts in zip(right[occurring], false[occurring], missed[occurring], strict=True)]
    return float(np.mean(values)) if values else 0.0


def _mcc(right: float, total: float, found: Sums, true: Sums) -> float:
    """Matthews' correlation for any number of labels (Gorodkin 2004); 0 where one side is constant."""
    spread = (total**2 - found @ found) * (total**2 - true @ true)
    return float(np.clip((right * total - found @ true) / math.sqrt(spread), -1.0, 1.0)) if spread > 0 else 0.0
