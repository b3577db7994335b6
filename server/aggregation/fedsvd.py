"""Turning A to the principal directions of the adapter's product after a round (FedSVD: Lee et al. 2025, 2505.12805).

Institutions train B beside a frozen A. After their B are averaged, which is exact, the product B A is factored again,
so that A keeps orthonormal rows and the columns of B are ordered by what they contribute. It needs no record, so it
costs no privacy.
"""

from collections.abc import Mapping

import numpy as np

from shared.adapter import factor_name, factor_of, layer_of
from shared.codec import Arrays
from shared.model.lowrank import decompose


def refactor(state: Mapping[str, np.ndarray]) -> Arrays:
    """The same products B A, with A = V^T and B = U S of their thin singular value decomposition.

    A pair whose product is zero stays as it is.

    Args:
        state: The global state; A is [rank, inputs], B is [outputs, rank].

    Returns:
        The new state; all but the pairs are the very same arrays.
    """
    new = dict(state)
    for a in [name for name in state if factor_of(name) == "A"]:
        b = factor_name(layer_of(a), "B")
        if state[b].any():
            u, sizes, vt = decompose(state[b], state[a])
            new[a], new[b] = vt.astype(np.float32), (u * sizes).astype(np.float32)
    return new
