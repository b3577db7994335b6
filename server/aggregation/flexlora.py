"""The mean product, cut to a rank (FlexLoRA: Bai et al. 2024, arXiv 2402.11505).

Institutions may have different ranks. sum_i w_i B_i A_i is decomposed, without being formed, and its first components
become the new factors: an institution of rank r gets the first r of them, the nearest product of that rank.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from server.aggregation import ClientUpdate, Context, Result, fedavg
from server.aggregation.mixed_ranks import narrow, padded
from shared.adapter import factor_name, factor_of, layer_of
from shared.model.lowrank import stack, truncate


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Average products, and cut the mean to the state's rank.

    Args:
        state: The global state, of the highest rank.
        updates: All are held at once; of rank r they have A [r, inputs] and B [outputs, r].
        context: As `fedavg.apply` has it, which averages the heads.
    """
    everybody = list(updates)
    new, _, diagnostics = fedavg.apply(state, (padded(update, state) for update in everybody), context)
    for a in [name for name in state if factor_of(name) == "A"]:
        b = factor_name(layer_of(a), "B")
        parts = []
        for update in everybody:
            received = narrow({a: state[a], b: state[b]}, update.rank)
            weight = diagnostics.weights[update.institution]
            parts.append((weight * (received[b] + update.arrays[b]), received[a] + update.arrays[a]))
        new[b], new[a] = truncate(stack(parts), state[a].shape[0])
    return Result(new, {}, diagnostics)
