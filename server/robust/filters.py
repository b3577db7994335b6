"""Robust filters of K steps, by nothing but the Gram matrix [K, K] of their inner products (float64)."""

import numpy as np

ITERATIONS = 1000
TOLERANCE = 1e-10
"""Of the weights between two iterations."""
NEAREST = 1e-6
"""Distances below this fraction of the median length count as this much, so that none divides by zero."""


def norms(gram: np.ndarray) -> np.ndarray:
    """Lengths of the steps, [K]."""
    return np.asarray(np.sqrt(np.maximum(gram.diagonal(), 0.0)))


def distances(gram: np.ndarray) -> np.ndarray:
    """Squared distances between the steps, [K, K]."""
    own = gram.diagonal()
    return np.asarray(np.maximum(own[:, None] + own[None] - 2 * gram, 0.0))


def median_norm(gram: np.ndarray) -> float:
    """The median length; of an even number of steps the lower middle one, which one of two cannot move up."""
    return float(np.quantile(norms(gram), 0.5, method="lower"))


def geometric_median(gram: np.ndarray) -> np.ndarray:
    """The weights, [K] and summing to one, whose mean has the least sum of distances to all steps.

    Smoothed Weiszfeld iterations (RFA: Pillutla et al. 2022, arXiv 1912.13445, algorithm 2): every step weighs the
    inverse of its distance to the mean of the iteration before.
    """
    weights = np.full(len(gram), 1.0 / len(gram))
    nearest = NEAREST * (median_norm(gram) or float(norms(gram).max()))
    for _ in range(ITERATIONS):
        mean = gram @ weights
        apart = np.sqrt(np.maximum(gram.diagonal() - 2 * mean + weights @ mean, 0.0))
        if not (apart > nearest).any():
            break
        closer = 1.0 / np.maximum(apart, nearest)
        closer /= closer.sum()
        done = np.abs(closer - weights).max() < TOLERANCE
        weights = closer
        if done:
            break
    return weights


def krum_scores(gram: np.ndarray, byzantine: int) -> np.ndarray:
    """Per step, the sum of squared distances to its K - byzantine - 2 nearest others (Blanchard et al. 2017), [K]."""
    apart = distances(gram)
    np.fill_diagonal(apart, np.inf)
    return np.asarray(np.sort(apart, axis=1)[:, : len(gram) - byzantine - 2].sum(axis=1))


def fltrust(gram: np.ndarray, root: int) -> np.ndarray:
    """Trust in every step, [K]: its cosine with the root's, and none where that is negative (Cao et al. 2021).

    A root that does not move trusts everybody: whatever they propose is then scaled to its length, which is zero.
    """
    lengths = norms(gram)
    if lengths[root] == 0:
        return np.ones(len(gram))
    return np.asarray(np.clip(gram[root] / np.where(lengths > 0, lengths * lengths[root], np.inf), 0.0, 1.0))
