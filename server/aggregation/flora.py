"""Adding every institution's product to the frozen weights (FLoRA: Wang et al. 2024, arXiv 2409.05976).

The stacked factors [B_1 .. B_K] and [w_1 A_1; ..; w_K A_K] have the product sum_i w_i B_i A_i (their equation 5; a
weight stands on one of the two factors only). It goes into the frozen weights as it is, whatever the institutions'
ranks, and the next round begins with a new A and B = 0. Starting again costs accuracy: papers that compare find it
behind averaging.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from server.aggregation import ClientUpdate, Context, Result, fedavg
from server.aggregation.mixed_ranks import narrow, padded
from shared.adapter import factor_name, factor_of, layer_of
from shared.model.lowrank import Product, compress, stack


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Stack the products, and start the factors again.

    Args:
        state: The global state.
        updates: All are held at once; ranks may differ.
        context: As `fedavg.apply` has it, which averages the heads. Seed and round decide the new A, drawn as peft
            draws it: evenly within 1 / sqrt(inputs).
    """
    everybody, scale = list(updates), context.adapter.scale
    new, _, diagnostics = fedavg.apply(state, (padded(update, state) for update in everybody), context)
    steps: dict[str, Product] = {}
    rng = np.random.default_rng(context.seed + context.round)
    for a in sorted(name for name in state if factor_of(name) == "A"):
        layer, b = layer_of(a), factor_name(layer_of(a), "B")
        parts = []
        for update in everybody:
            weight, received = scale * diagnostics.weights[update.institution], narrow(state, update.rank)
            parts.append((weight * (received[b] + update.arrays[b]), received[a] + update.arrays[a]))
        step = compress(stack(parts))
        if step[1].size:
            steps[layer] = step
        bound = state[a].shape[1] ** -0.5
        new[a] = rng.uniform(-bound, bound, state[a].shape).astype(np.float32)
        new[b] = np.zeros_like(state[b])
    return Result(new, steps, diagnostics)
