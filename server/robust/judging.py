"""What becomes of each step: how much it is trusted, how long it may be, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from server.robust import filters
from shared.federation import Robust
from shared.federation.filters import FilterName, fewest

Verdict = Literal["kept", "clipped", "down-weighted", "dropped"]
Judged = tuple[Verdict, str | None]
"""With the numbers that are the reason; None for `kept`."""
SLACK = 1 + 1e-9
"""Lengths that differ by rounding alone are the same."""
HALF = 0.5
"""An institution with less than this fraction of the others' weight is reported."""


@dataclass(frozen=True)
class Judgement:
    """What becomes of K steps."""

    filter: FilterName | Literal["none"]
    """That judged them."""
    trust: np.ndarray
    """[K], from 0 to 1: what each one's say is multiplied by."""
    lengths: np.ndarray
    """[K]: what each is scaled to."""
    judged: Sequence[Judged]


def judge(gram: np.ndarray, names: Sequence[str], robust: Robust) -> Judgement:
    """Judge steps by their inner products.

    Args:
        gram: [K, K].
        names: Of the institutions, in the same order.
        robust: The filter agreed. Steps too few for it, or without the root's among them, are bounded in length
            instead; a single one is kept as it is.
    """
    count = len(names)
    if count == 1:
        return Judgement("none", np.ones(1), filters.norms(gram), [("kept", None)])
    if robust.filter == "fltrust" and robust.root in names:
        return _fltrust(gram, names, names.index(robust.root))
    if robust.filter == "geometric-median":
        return _geometric_median(gram)
    if robust.filter in ("krum", "multi-krum") and count >= fewest(robust.filter, robust.byzantine):
        return _krum(gram, names, robust)
    return _norm_bound(gram)


def _norm_bound(gram: np.ndarray) -> Judgement:
    lengths, bound = filters.norms(gram), filters.median_norm(gram)
    judged = [_clipped(length, bound, "the median") for length in lengths]
    return Judgement("norm-bound", np.ones(len(gram)), np.minimum(lengths, bound), judged)


def _geometric_median(gram: np.ndarray) -> Judgement:
    weights, even = filters.geometric_median(gram), 1 / len(gram)
    judged: list[Judged] = [
        ("down-weighted", f"far from the others, so that its weight is {weight:.3f} instead of {even:.3f}")
        if weight < HALF * even
        else ("kept", None)
        for weight in weights
    ]
    return Judgement("geometric-median", weights / weights.max(), filters.norms(gram), judged)


def _krum(gram: np.ndarray, names: Sequence[str], robust: Robust) -> Judgement:
    scores = filters.krum_scores(gram, robust.byzantine)
    ranked = np.argsort(scores, kind="stable")
    taken = 1 if robust.filter == "krum" else len(names) - robust.byzantine
    trust = np.zeros(len(names))
    trust[ranked[:taken]] = 1.0
    last = ranked[taken - 1]
    reason = f"where the {'lowest' if taken == 1 else 'highest taken'} is {scores[last]:.3g} of {names[last]}"
    judged: list[Judged] = [
        ("kept", None) if kept else ("dropped", f"squared distances to its neighbours of {score:.3g}, {reason}")
        for score, kept in zip(scores, trust, strict=True)
    ]
    return Judgement(robust.filter, trust, filters.norms(gram), judged)


def _fltrust(gram: np.ndarray, names: Sequence[str], root: int) -> Judgement:
    trust, lengths = filters.fltrust(gram, root), filters.norms(gram)
    judged = [
        ("dropped", f"no part of its step goes the way of {names[root]}'s")
        if share == 0
        else ("down-weighted", f"cosine {share:.2f} with the step of {names[root]}")
        if share < HALF
        else _clipped(length, lengths[root], f"{names[root]}'s")
        for share, length in zip(trust, lengths, strict=True)
    ]
    return Judgement("fltrust", trust, np.full(len(names), lengths[root]), judged)


def _clipped(length: float, bound: float, whose: str) -> Judged:
    return ("clipped", f"length {length:.3g}, {whose} is {bound:.3g}") if length > bound * SLACK else ("kept", None)
