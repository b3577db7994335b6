"""Products B A of low rank that are never formed: decomposing, cutting and adding them up.

With B = Q_b R_b and A^T = Q_a R_a, the singular values of B A are those of the small core R_b R_a^T.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

Product = tuple[np.ndarray, np.ndarray]
"""B [outputs, k] and A [k, inputs]."""
NEGLIGIBLE = 1e-7
"""Singular values below this fraction of the largest are rounding noise of float32 factors."""


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's linear algebra on one thread, while the block or the function lasts that this stands before.

    OpenBLAS's threads wait for each other in a loop. Of factors as small as these, two take longer than one where cores
    are free, and several times as long where they are not.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@one_thread()
def decompose(b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thin singular value decomposition of B A in float64: U [outputs, k'], sizes [k'], V^T [k', inputs].

    k' is min(k, outputs, inputs).
    """
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    q_a, r_a = np.linalg.qr(a.astype(np.float64).T)
    u, sizes, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, sizes, vt @ q_a.T


def stack(products: Sequence[Product]) -> Product:
    """The sum of products as one product, their factors side by side."""
    return np.concatenate([b for b, _ in products], axis=1), np.concatenate([a for _, a in products], axis=0)


def compress(product: Product) -> Product:
    """The same product with as few components as it needs; B carries the sizes, A has orthonormal rows."""
    u, sizes, vt = decompose(*product)
    rank = int((sizes > NEGLIGIBLE * sizes[0]).sum()) if sizes.size and sizes[0] > 0 else 0
    return (u[:, :rank] * sizes[:rank]).astype(np.float32), vt[:rank].astype(np.float32)


def add_up(rounds: Sequence[Mapping[str, Product]]) -> dict[str, Product]:
    """By layer, the sum of the products of several rounds."""
    layers = sorted({layer for products in rounds for layer in products})
    sums = {layer: [products[layer] for products in rounds if layer in products] for layer in layers}
    return {layer: parts[0] if len(parts) == 1 else compress(stack(parts)) for layer, parts in sums.items()}


def truncate(product: Product, rank: int) -> Product:
    """The nearest product with `rank` components (Eckart and Young 1936), both factors of the same size.

    The first r components are the nearest product of rank r, for every r up to `rank`. Where the product has fewer, the
    rows of A go on as orthonormal directions beside zero columns of B, so that they can be trained.
    """
    u, sizes, vt = decompose(*product)
    outputs, inputs, found = u.shape[0], vt.shape[1], min(rank, len(sizes))
    b, a = np.zeros((outputs, rank)), np.zeros((rank, inputs))
    roots = np.sqrt(sizes[:found])
    empty = sizes[:found] <= NEGLIGIBLE * max(sizes[0], np.finfo(np.float64).tiny)
    b[:, :found] = u[:, :found] * np.where(empty, 0.0, roots)
    a[:found] = vt[:found] * np.where(empty, 1.0, roots)[:, None]
    return b.astype(np.float32), a.astype(np.float32)


@cache
def _libraries() -> ThreadpoolController:
    """What this process has loaded that computes in threads, NumPy's BLAS among it."""
    return ThreadpoolController()
