"""Exposure: by how many bits training made a planted secret easier to guess (Carlini et al. 2019, arXiv 1802.08232)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def exposure(loss: float, alternatives: Sequence[float] | NDArray[np.float64]) -> float:
    """log2 of the number of candidates, less log2 of the secret's rank among them by loss.

    A secret that was never seen has 1.4 bits on average; one that the model likes best has log2(alternatives + 1). Half
    of the alternatives with the very same loss count as better.

    Args:
        loss: Of the secret.
        alternatives: Losses of random secrets of the same form.
    """
    others = np.asarray(alternatives)
    rank = 1 + float((others < loss).sum()) + float((others == loss).sum()) / 2
    return math.log2(len(others) + 1) - math.log2(rank)
