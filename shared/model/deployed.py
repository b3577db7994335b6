"""The adapter that a state amounts to, as plain peft can load it."""

from collections.abc import Mapping

import numpy as np

from shared.adapter import factor_name, factor_of, layer_of
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.lowrank import Product, compress, stack


def deployed(
    state: Mapping[str, np.ndarray], steps: Mapping[str, Product], federation: Federation
) -> tuple[Arrays, dict[str, int]]:
    """Adapter and heads without what peft does not know: moved frozen weights, a core, a rank of a site's own.

    What rounds have added to the frozen weights goes into the adapter, which needs a higher rank for it; no more
    components are kept than the sum needs. A core R goes into B.

    Args:
        state: To release: adapter, and any heads.
        steps: By layer, what has been added to the frozen weights up to that state.
        federation: The agreement.

    Returns:
        Adapter and heads; by layer, the rank of an adapter that has the scale in its factors already, empty if it is
        the federation's plain one.
    """
    new = {name: array for name, array in state.items() if factor_of(name) != "R"}
    pairs = {layer_of(name): (factor_name(layer_of(name), "B"), name) for name in new if factor_of(name) == "A"}
    for layer, (b, _) in pairs.items():
        if (core := factor_name(layer, "R")) in state:
            new[b] = new[b] @ state[core]
    plain = all(len(new[a]) == federation.adapter.rank for _, a in pairs.values())
    if plain and not federation.method.folds:
        return new, {}
    ranks: dict[str, int] = {}
    for layer, (b, a) in pairs.items():
        parts: list[Product] = [(federation.adapter.scale * new[b], new[a])]
        whole = compress(stack([*parts, steps[layer]] if layer in steps else parts))
        new[b], new[a] = whole if whole[1].size else (np.zeros_like(new[b][:, :1]), np.zeros_like(new[a][:1]))
        ranks[layer] = len(new[a])
    return new, ranks
