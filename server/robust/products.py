"""Lengths of and angles between the steps that institutions propose, without forming any of them.

An institution that received B [outputs, r] and A [r, inputs] of a layer and sends dB and dA proposes the step

    P = (B + dB)(A + dA) - B A = (dB A + B dA) + dB dA

of the layer's product. Scaled to (t dB, t dA), it proposes P(t) = t U + t^2 V with U = dB A + B dA and V = dB dA; where
one factor is sent, V is zero. Everything that a filter asks for is a sum of inner products of such terms, and for
products of low rank <L R, L' R'> = sum((L^T L') o (R R'^T)), where o is the elementwise product: nothing as large as a
product is formed, and nothing is subtracted that nearly cancels.

Where a method averages A and B each by itself, a pair whose product is harmless may still do harm there: (B M, M^-1 A)
has the product B A for any M. So under such a method (dB, dA) itself is part of the step, as further coordinates,
scaled so that they count about as much as the product: by the ratio of the median squared lengths.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from server.aggregation import ClientUpdate
from server.aggregation.mixed_ranks import narrow, padded
from shared.adapter import factor_name, factor_of, layer_of, task_of
from shared.federation.methods import Factor, Method
from shared.model.lowrank import one_thread

FACTORS: tuple[Factor, ...] = get_args(Factor)
Term = tuple[int, np.ndarray, np.ndarray]
"""A degree d, L and R, of the product t^d L R."""
ROWS = 512
"""Components whose inner products with all others are held at a time."""


@dataclass(frozen=True)
class Steps:
    """The steps of K institutions, by their inner products."""

    grams: np.ndarray
    """[K, 2, K, 2], float64: inner products of the terms of degree 1 and 2, summed over layers."""

    @property
    def gram(self) -> np.ndarray:
        """[K, K]: inner products of the steps."""
        return np.asarray(self.grams.sum(axis=(1, 3)))

    def beside_mean(self, scales: np.ndarray, trust: np.ndarray) -> np.ndarray:
        """[K + 1, K + 1]: inner products of the steps and, last, of the mean of P_i(scales[i]) weighted by trust."""
        count = len(scales)
        shares = trust / trust.sum() if trust.any() else trust
        mean = np.stack([shares * scales, shares * scales**2], axis=1).reshape(1, -1)
        rows = np.concatenate([np.repeat(np.eye(count), 2, axis=1), mean])
        return np.asarray(rows @ self.grams.reshape(2 * count, 2 * count) @ rows.T)

    def scale_to(self, lengths: np.ndarray) -> np.ndarray:
        """For each institution the smallest t > 0 with ||P(t)|| = lengths[i], [K].

        1 where that is the length already, and for a step that is zero. With u = 1 / t it is the largest root of
        l^2 u^4 - ||U||^2 u^2 - 2 <U, V> u - ||V||^2.
        """
        squares = self.gram.diagonal()
        return np.array(
            [
                1.0 if square <= 0 or length == math.sqrt(square) else _scale(self.grams[i, :, i], float(length))
                for i, (length, square) in enumerate(zip(lengths, squares, strict=True))
            ]
        )


@one_thread()
def adapter_steps(state: Mapping[str, np.ndarray], updates: Sequence[ClientUpdate], *, method: Method) -> Steps:
    """What institutions propose for the adapter.

    Args:
        state: The global state that they received.
        updates: Of one round; ranks may differ.
        method: Says whether factors are averaged each by itself, and whether B is known here at all: where it stays at
            home, the step is that of A.
    """
    names = [name for name in updates[0].arrays if task_of(name) is None]
    grams = np.zeros((len(updates), 2) * 2)
    for layer in sorted({layer_of(name) for name in names}):
        grams += _inner([_terms(layer, state, update, method) for update in updates])
    if method.linear and len({factor_of(name) for name in names}) > 1:
        factors = _gram([[padded(update, state).arrays[name] for name in names] for update in updates])
        own = np.median(grams.sum(axis=(1, 3)).diagonal()), np.median(factors.diagonal())
        grams[:, 0, :, 0] += factors * (own[0] / own[1] if min(own) > 0 else 1.0)
    return Steps(grams)


@one_thread()
def head_steps(arrays: Sequence[Sequence[np.ndarray]]) -> Steps:
    """What institutions propose for a head: by institution, its arrays."""
    grams = np.zeros((len(arrays), 2) * 2)
    grams[:, 0, :, 0] = _gram(arrays)
    return Steps(grams)


def _terms(layer: str, state: Mapping[str, np.ndarray], update: ClientUpdate, method: Method) -> list[Term]:
    """The terms of one institution's step of a layer's product."""
    name = {factor: factor_name(layer, factor) for factor in FACTORS}
    sent = {
        factor: update.arrays[name[factor]].astype(np.float64) for factor in FACTORS if name[factor] in update.arrays
    }
    if "B" in method.keeps:
        return [(1, np.eye(len(state[name["A"]]), len(sent["A"])), sent["A"])]
    received = narrow({name[factor]: state[name[factor]].astype(np.float64) for factor in ("A", "B")}, update.rank)
    a, b = received[name["A"]], received[name["B"]]
    if "R" in sent:
        return [(1, b @ sent["R"], a)]
    terms: list[Term] = [(1, sent["B"], a)] if "B" in sent else []
    if "A" in sent:
        terms.append((1, b, sent["A"]))
        if "B" in sent:
            terms.append((2, sent["B"], sent["A"]))
    return terms


def _inner(terms: Sequence[Sequence[Term]]) -> np.ndarray:
    """[K, 2, K, 2]: for every two institutions and degrees, the inner product of their terms of that degree."""
    lefts = np.concatenate([left for own in terms for _, left, _ in own], axis=1)
    rights = np.concatenate([right for own in terms for _, _, right in own], axis=0)
    whose = np.array([2 * i + degree - 1 for i, own in enumerate(terms) for degree, _, _ in own])
    widths = np.array([len(right) for own in terms for _, _, right in own])
    starts, grams = np.cumsum(widths) - widths, np.zeros((2 * len(terms), 2 * len(terms)))
    for first in range(0, len(rights), ROWS):  # not all at once, which would be (K r)^2 numbers
        rows = slice(first, first + ROWS)
        block = (lefts[:, rows].T @ lefts) * (rights[rows] @ rights.T)
        summed = np.add.reduceat(block, starts, axis=1)
        np.add.at(grams, (np.repeat(whose, widths)[rows, None], whose[None]), summed)
    return grams.reshape(len(terms), 2, len(terms), 2)


def _gram(arrays: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """[K, K]: inner products of what K institutions have, each several arrays of the same shapes."""
    gram = np.zeros((len(arrays), len(arrays)))
    for same in zip(*arrays, strict=True):
        rows = np.stack([array.reshape(-1).astype(np.float64) for array in same])
        gram += rows @ rows.T
    return gram


def _scale(own: np.ndarray, length: float) -> float:
    if length <= 0:
        return 0.0
    linear, mixed, square = own[0, 0], own[0, 1], own[1, 1]
    roots = np.roots([1.0, 0.0, -linear / length**2, -2 * mixed / length**2, -square / length**2])
    return 1.0 / max(float(root.real) for root in roots if abs(root.imag) <= 1e-9 * abs(root))
