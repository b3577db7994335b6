"""Rotating an adapter's factors towards those received (FedRot-LoRA, arXiv 2602.23638).

B A is the same for (B R, R^T A) with any rotation R, so that institutions may drift apart in R alone, and averaging
factors then averages different bases. Before an institution answers it turns its factors as near as it can to what
everybody began the round with, by A in odd rounds and by B in even ones (orthogonal Procrustes).
"""

from collections.abc import Mapping

import numpy as np

from shared.adapter import factor_name, factor_of, layer_of
from shared.codec import Arrays

SOFTNESS = 0.5
"""Between no rotation (0) and the nearest one (1), as the paper's experiments with 0.4 to 0.6."""


def align(
    trained: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray], *, round: int, softness: float = SOFTNESS
) -> Arrays:
    """The trained state with every pair of factors rotated; products stay what they are.

    Args:
        trained: A [rank, inputs] and B [outputs, rank] of every layer, and heads, which stay.
        received: What the round began with.
        round: Decides which factor is compared; a factor that was zero is compared with nothing.
        softness: Share of the way from no rotation to the nearest one.
    """
    turned = dict(trained)
    for a in [name for name in trained if factor_of(name) == "A"]:
        b = factor_name(layer_of(a), "B")
        own, other = (trained[a], received[a]) if round % 2 else (trained[b].T, received[b].T)
        if other.any() and own.any():
            r = rotation(own.astype(np.float64), other.astype(np.float64), softness)
            turned[a] = (r.T @ trained[a]).astype(np.float32)
            turned[b] = (trained[b] @ r).astype(np.float32)
    return turned


def rotation(own: np.ndarray, other: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """R [rank, rank] with R^T own near other, both [rank, n]: a rotation without reflection."""
    nearest = _nearest(own @ other.T)
    return _nearest((1 - softness) * np.eye(len(own)) + softness * nearest)


def _nearest(matrix: np.ndarray) -> np.ndarray:
    """The rotation nearest to a square matrix."""
    u, _, vt = np.linalg.svd(matrix)
    signs = np.ones(len(matrix))
    signs[-1] = np.sign(np.linalg.det(u @ vt)) or 1.0
    nearest: np.ndarray = (u * signs) @ vt
    return nearest
