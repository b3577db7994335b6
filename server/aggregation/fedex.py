"""Exact averaging of products (FedEx-LoRA: Singhal et al. 2025, arXiv 2410.09432).

Averaging A and B each by itself leaves out of the mean product

    sum_i w_i B_i A_i - mean(B) mean(A) = sum_i w_i (B_i - mean(B)) (A_i - mean(A)),

a product of at most (K - 1) r components for K institutions (their equation 8). It is added to the frozen weights, so
that the model is exactly W0 + alpha / r * sum_i w_i B_i A_i.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from server.aggregation import ClientUpdate, Context, Result, fedavg
from shared.adapter import factor_name, factor_of, layer_of
from shared.model.lowrank import Product, compress, stack


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Average, and add to the frozen weights what is left out.

    Args:
        state: The global state.
        updates: All are held at once.
        context: As `fedavg.apply` has it.
    """
    everybody, scale = list(updates), context.adapter.scale
    new, _, diagnostics = fedavg.apply(state, everybody, context)
    steps: dict[str, Product] = {}
    for a in [name for name in state if factor_of(name) == "A"]:
        layer, b = layer_of(a), factor_name(layer_of(a), "B")
        weights = [diagnostics.weights[update.institution] for update in everybody]
        mean = {name: sum(w * u.arrays[name] for w, u in zip(weights, everybody, strict=True)) for name in (a, b)}
        parts = [
            (scale * w * (u.arrays[b] - mean[b]), u.arrays[a] - mean[a])
            for w, u in zip(weights, everybody, strict=True)
        ]
        step = compress(stack(parts))
        if step[1].size:
            steps[layer] = step
    return Result(new, steps, diagnostics)
