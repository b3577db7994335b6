"""Membership inference: how well a score separates the records that were trained on from others like them.

Yeom et al. 2018 (arXiv 1709.01604) take the loss as the score. The area under the curve is the average case; what an
attack finds at very few false alarms is what counts for the few records at most risk (Carlini et al. 2022, arXiv
2112.03570).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata

FALSE_POSITIVE_RATES = (0.01, 0.001)
"""Where the attack's true positive rate is read off."""
Scores = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """What share of members is found if at most some share of the others is taken for members."""

    false_positive_rate: float
    true_positive_rate: float
    low: float
    """Of the confidence interval (Clopper and Pearson), the threshold taken as given."""
    high: float
    resolved: bool
    """Whether there are enough others for one of them to be that share; else no false alarm at all is allowed."""


@dataclass(frozen=True)
class Membership:
    """How well the scores separate members from others."""

    auc: float
    """Chance that a member scores above another record; 0.5 is blind."""
    low: float
    """Of the confidence interval (DeLong et al. 1988)."""
    high: float
    rates: tuple[Rate, ...]


def measure_membership(members: Scores, others: Scores, confidence: float = 0.95) -> Membership:
    """Measure an attack that takes the records with the highest scores for members.

    Args:
        members: Scores of records that were trained on.
        others: Scores of records of the same kind that were not.
        confidence: Of the intervals.

    Raises:
        ValueError: There are fewer than two of either.
    """
    if min(len(members), len(others)) < 2:
        raise ValueError(f"expected at least two members and two others, not {len(members)} and {len(others)}")
    inside, outside = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    auc, deviation = _delong(inside, outside)
    reach = float(norm.ppf((1 + confidence) / 2)) * deviation
    rates = tuple(_rate(inside, outside, rate, confidence) for rate in FALSE_POSITIVE_RATES)
    return Membership(auc, max(0.0, auc - reach), min(1.0, auc + reach), rates)


def _delong(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[float, float]:
    """The area, and its standard deviation by the midranks of Sun and Xu 2014."""
    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[:m] - rankdata(inside)) / n  # per member, the share of others below it
    below = 1 - (ranks[m:] - rankdata(outside)) / m  # per other record, the share of members above it
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))


def _rate(inside: NDArray[np.float64], outside: NDArray[np.float64], allowed: float, confidence: float) -> Rate:
    alarms = int(allowed * len(outside))
    threshold = np.sort(outside)[::-1][alarms]
    found = int((inside > threshold).sum())
    interval = binomtest(found, len(inside)).proportion_ci(confidence)
    return Rate(allowed, found / len(inside), float(interval.low), float(interval.high), alarms > 0)
