"""Robust means of every number by itself.

Where a round sends a single factor of the adapter, its numbers are coordinates of the product up to a linear map that
all institutions share; a head's are coordinates anyway.
"""

from collections.abc import Sequence

import numpy as np

from server.aggregation import ClientUpdate
from server.robust.judging import Judged
from shared.codec import Arrays
from shared.federation import Robust


def median(values: np.ndarray) -> np.ndarray:
    """Element by element over the first axis (Yin et al. 2018, definition 1)."""
    return np.asarray(np.median(values, axis=0))


def trimmed_mean(values: np.ndarray, byzantine: int) -> np.ndarray:
    """The mean over the first axis without the highest and lowest `byzantine` (Yin et al. 2018, definition 2).

    Fewer are left out where none would be left.
    """
    out = min(byzantine, (len(values) - 1) // 2)
    return np.asarray(np.sort(values, axis=0)[out : len(values) - out].mean(axis=0))


def combine(own: Sequence[ClientUpdate], robust: Robust) -> Arrays:
    """The array that replaces every institution's; each row of a head over those who may move it."""
    return {name: _combine(name, own, robust).astype(np.float32) for name in own[0].arrays}


def outermost(own: Sequence[ClientUpdate]) -> list[Judged]:
    """Who is the highest or lowest in most numbers, and so hardly counted.

    By chance it is 2 of K; more than half way from there to all of them is an outlier.
    """
    count, differing = np.zeros(len(own), np.int64), 0
    for name in own[0].arrays:
        values = np.stack([update.arrays[name].reshape(-1) for update in own])
        values = values[:, values.min(axis=0) < values.max(axis=0)]
        differing += values.shape[1]
        for ends in (values.argmin(axis=0), values.argmax(axis=0)):
            count += np.bincount(ends, minlength=len(own))
    chance = min(1.0, 2 / len(own))
    shares = count / max(differing, 1)
    return [
        ("down-weighted", f"the highest or lowest in {share:.0%} of the numbers, where {chance:.0%} is chance")
        if share > (1 + chance) / 2
        else ("kept", None)
        for share in shares
    ]


def _combine(name: str, own: Sequence[ClientUpdate], robust: Robust) -> np.ndarray:
    values = np.stack([update.arrays[name].astype(np.float64) for update in own])
    if all(name not in update.rows for update in own):
        return _mean(values, robust)
    whole = np.ones(values.shape[1], bool)
    movable = np.stack([update.rows.get(name, whole) for update in own])
    combined = np.zeros(values.shape[1:])
    for row in np.flatnonzero(movable.any(axis=0)):
        combined[row] = _mean(values[movable[:, row], row], robust)
    return combined


def _mean(values: np.ndarray, robust: Robust) -> np.ndarray:
    return median(values) if robust.filter == "median" else trimmed_mean(values, robust.byzantine)
