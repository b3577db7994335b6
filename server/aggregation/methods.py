"""One round's updates become the new state, by the federation's method (`shared.methods`)."""

from collections.abc import Iterable, Mapping

import numpy as np

from server.aggregation import ClientUpdate, adalora, fedavg, fedex, flexlora, flora
from server.aggregation.mixed_ranks import padded
from shared.adapter import BASE, pack_steps
from shared.codec import Arrays
from shared.federation import Federation
from shared.lora import scale_of


def aggregate(
    state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], *, federation: Federation, round: int
) -> tuple[Arrays, fedavg.Diagnostics]:
    """Move the global state by one round's updates.

    Methods that are linear take them one at a time; the others hold all of them.

    Args:
        state: The global state before the round.
        updates: Checked.
        federation: Names method and weighting.
        round: The round's number.

    Returns:
        The new state, with this round's steps of the frozen weights if the method folds (`shared.adapter.pack_steps`);
        the diagnostics.
    """
    state = {name: array for name, array in state.items() if not name.startswith(BASE)}
    weighting, scale, name = federation.rounds.weighting, scale_of(federation.adapter), federation.method_name
    if not federation.method.linear:
        updates = list(updates)
        if not updates:
            return fedavg.apply(state, (), weighting=weighting)
    if federation.adapter.type == "adalora":
        told: adalora.Told = {}
        filled = (padded(update, state) for update in adalora.noted(updates, told))
        new, diagnostics = fedavg.apply(state, filled, weighting=weighting)
        return adalora.allocate(new, told, diagnostics.weights, federation=federation, round=round), diagnostics
    if name == "flexlora":
        return flexlora.apply(state, updates, weighting=weighting)
    if name == "fedex":
        new, steps, diagnostics = fedex.apply(state, updates, weighting=weighting, scale=scale)
        return new | pack_steps(steps), diagnostics
    if name == "flora":
        seed = federation.seed + round
        new, steps, diagnostics = flora.apply(state, updates, weighting=weighting, scale=scale, seed=seed)
        return new | pack_steps(steps), diagnostics
    filled = (padded(update, state) for update in updates)
    return fedavg.apply(state, filled, weighting=weighting)
