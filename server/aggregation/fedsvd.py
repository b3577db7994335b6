"""Turning A to the principal directions of the adapter's product after a round (FedSVD: Lee et al. 2025, 2505.12805).

Institutions train B beside a frozen A. After their B are averaged, which is exact, the product B A is factored anew, so
that A keeps orthonormal rows and the columns of B are ordered by what they contribute. It needs no record, so it costs
no privacy.
"""

from collections.abc import Mapping

import numpy as np

from shared.codec import Arrays

A, B = ".lora_A.", ".lora_B."


def refactor(state: Mapping[str, np.ndarray]) -> Arrays:
    """The same products B A, with A = V^T and B = U S of their thin singular value decomposition.

    The product is never formed: with A^T = Q_A R_A and B = Q_B R_B, only the rank x rank core R_B R_A^T is decomposed.
    A pair whose product is zero stays as it is.

    Args:
        state: The global state; A is [rank, inputs], B is [outputs, rank].

    Returns:
        The new state; all but the pairs are the very same arrays.
    """
    new = dict(state)
    for name in state:
        if A not in name or not state[name.replace(A, B)].any():
            continue
        q_a, r_a = np.linalg.qr(state[name].astype(np.float64).T)
        q_b, r_b = np.linalg.qr(state[name.replace(A, B)].astype(np.float64))
        u, sizes, vt = np.linalg.svd(r_b @ r_a.T)
        new[name] = (vt @ q_a.T).astype(np.float32)
        new[name.replace(A, B)] = (q_b @ (u * sizes)).astype(np.float32)
    return new
