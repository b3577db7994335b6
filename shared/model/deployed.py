"""The adapter that a state amounts to, as plain peft can load it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shared.adapter import factor_name, factor_of, layer_of
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.lowrank import Product, compress, stack

MOST_RANK = 64
"""Components of a layer of an adapter that has taken in what was added to the frozen weights, if nobody says else."""


@dataclass(frozen=True)
class Deployed:
    """Adapter and heads that plain peft can load."""

    arrays: Arrays
    ranks: dict[str, int]
    """By layer, the rank of an adapter that has the scale in its factors already; empty if it is the federation's."""
    error: float
    """What the limit of the rank cuts off: the largest over layers, as a part of the product's Frobenius norm."""


def deployed(
    state: Mapping[str, np.ndarray],
    steps: Mapping[str, Product],
    federation: Federation,
    most: int = MOST_RANK,
) -> Deployed:
    """Adapter and heads without what peft does not know: moved frozen weights, a core, a rank of a site's own.

    What rounds have added to the frozen weights goes into the adapter, which needs a higher rank for it; no more
    components are kept than the sum needs, nor than `most`. A core R goes into B.

    Args:
        state: To release: adapter, and any heads.
        steps: By layer, what has been added to the frozen weights up to that state.
        federation: The agreement.
        most: Most components of a layer, where they are not the federation's own; the largest are kept (Eckart and
            Young 1936).
    """
    new = {name: array for name, array in state.items() if factor_of(name) != "R"}
    pairs = {layer_of(name): (factor_name(layer_of(name), "B"), name) for name in new if factor_of(name) == "A"}
    for layer, (b, _) in pairs.items():
        if (core := factor_name(layer, "R")) in state:
            new[b] = new[b] @ state[core]
    plain = all(len(new[a]) == federation.adapter.rank for _, a in pairs.values())
    if plain and not federation.method.folds:
        return Deployed(new, {}, 0.0)
    ranks: dict[str, int] = {}
    error = 0.0
    for layer, (b, a) in pairs.items():
        parts: list[Product] = [(federation.adapter.scale * new[b], new[a])]
        whole = compress(stack([*parts, steps[layer]] if layer in steps else parts))
        if not whole[1].size:
            new[b], new[a] = np.zeros_like(new[b][:, :1]), np.zeros_like(new[a][:1])
        else:
            new[b], new[a] = whole[0][:, :most], whole[1][:most]
            sizes = np.linalg.norm(whole[0].astype(np.float64), axis=0)  # of the components, the largest first
            error = max(error, float(np.linalg.norm(sizes[most:]) / np.linalg.norm(sizes)))
        ranks[layer] = len(new[a])
    return Deployed(new, ranks, error)
