"""How much privacy is certainly lost, from how well someone guesses which canaries were trained on.

One run suffices (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846): many canaries, each in or out of the training
data by a fair coin of its own. Under (epsilon, delta)-DP nobody guesses these coins better than theorem 3 there allows,
so guesses that are better refute that epsilon.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect
from scipy.stats import binom

CHOICES = ((0.5, 0.5), (0.2, 0.2), (0.4, 0.0), (0.15, 0.0))
"""Shares of the canaries that are guessed in, by the highest scores, and out, by the lowest.

Which of them proves most depends on the scores, so all are tried, each at a share of the error (Bonferroni): the bound
holds although the best is taken. Guesses of "in" alone suit training that samples its records, since a canary that was
in and never drawn looks as if it was out.
"""
_LARGEST = 200.0


@dataclass(frozen=True)
class Guesses:
    """One choice of how many canaries to guess, and what it proves."""

    k_plus: int
    """Canaries with the highest scores, guessed in."""
    k_minus: int
    """Canaries with the lowest scores, guessed out."""
    correct: int
    epsilon: float
    """The lower bound that these guesses alone prove, at this choice's share of the error."""


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon, at the confidence asked for in all."""

    epsilon: float
    ceiling: float
    """What would have been proved with every guess correct: no bug shows unless the epsilon claimed is below."""
    guesses: tuple[Guesses, ...]


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that so many correct guesses refute (Steinke et al. 2023, theorem 3); 0.0 if none.

    With q = e^eps / (1 + e^eps) and beta = P[Bin(guesses, q) >= correct], so many are right with at most
    probability beta + 2 canaries delta max_{1 <= i <= correct} (P[Bin(guesses, q) >= correct - i] - beta) / i.

    Args:
        canaries: Fair coins tossed.
        guesses: Coins guessed; their number must not depend on the answers. The others are abstained from.
        correct: Guesses that were right.
        delta: Of (epsilon, delta).
        confidence: Probability that the bound holds.

    Raises:
        ValueError: The numbers are not those of an audit.
    """
    if not (0 <= correct <= guesses <= canaries and 0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError(
            f"expected correct <= guesses <= canaries, delta in [0, 1) and confidence in (0, 1), not {correct}, "
            f"{guesses}, {canaries}, {delta}, {confidence}"
        )

    def excess(epsilon: float) -> float:
        return _probability(canaries, guesses, correct, delta, epsilon) - (1 - confidence)

    if correct == 0 or excess(0.0) > 0:
        return 0.0
    return float(bisect(excess, 0.0, _LARGEST, xtol=1e-5))


def bound_from_scores(
    scores: Sequence[float] | NDArray[np.float64],
    included: Sequence[bool] | NDArray[np.bool_],
    delta: float,
    confidence: float = 0.95,
) -> Bound:
    """The best lower bound on epsilon over CHOICES.

    Args:
        scores: Of every canary; higher means rather in. Ties are broken by position, never by the answer.
        included: Which canaries were in.
        delta: Of (epsilon, delta).
        confidence: Probability that the bound holds.
    """
    found = _guess(np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=np.bool_), delta, confidence)
    total = len(scores)
    every = [
        epsilon_lower_bound(total, each.k_plus + each.k_minus, each.k_plus + each.k_minus, delta, _share(confidence))
        for each in found
    ]
    return Bound(max(each.epsilon for each in found), max(every), found)


def _guess(
    scores: NDArray[np.float64], included: NDArray[np.bool_], delta: float, confidence: float
) -> tuple[Guesses, ...]:
    order, total = np.argsort(scores, kind="stable"), len(scores)
    found = []
    for plus, minus in CHOICES:
        k_plus, k_minus = int(plus * total), int(minus * total)
        correct = int(included[order[total - k_plus :]].sum() + (~included[order[:k_minus]]).sum())
        epsilon = epsilon_lower_bound(total, k_plus + k_minus, correct, delta, _share(confidence))
        found.append(Guesses(k_plus, k_minus, correct, epsilon))
    return tuple(found)


def _share(confidence: float) -> float:
    return 1 - (1 - confidence) / len(CHOICES)


def _probability(canaries: int, guesses: int, correct: int, delta: float, epsilon: float) -> float:
    """The most that (epsilon, delta)-DP allows for the probability of at least so many correct guesses."""
    q = 1 / (1 + np.exp(-epsilon))
    beta = binom.sf(correct - 1, guesses, q)
    i = np.arange(1, correct + 1)
    alpha = ((binom.sf(correct - i - 1, guesses, q) - beta) / i).max(initial=0.0)
    return float(min(1.0, beta + 2 * canaries * delta * alpha))
