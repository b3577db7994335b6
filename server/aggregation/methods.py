"""One round's updates become the new state, by the federation's method (`shared.federation.methods`)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from server.aggregation import ClientUpdate, Result, adalora, fedavg, fedex, fednova, flexlora, flora
from server.aggregation.mixed_ranks import padded
from server.aggregation.shares import Cut, capped_updates
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.lora import scale_of


def aggregate(
    state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], *, federation: Federation, round: int
) -> Result:
    """Move the global state by one round's updates; nobody's count for more than `rounds.max_share`.

    Methods that are linear take them one at a time; the others hold all of them.

    Args:
        state: The model before the round.
        updates: Checked.
        federation: Names method and weighting.
        round: The round's number.

    Returns:
        The new model, this round's steps of the frozen weights if the method folds, and the diagnostics.
    """
    agreed, cuts = federation.rounds, list[Cut]()
    within = capped_updates(updates, weighting=agreed.weighting, max_share=agreed.max_share, cuts=cuts)
    result = _aggregate(state, within, federation, round)
    return result._replace(diagnostics=replace(result.diagnostics, cuts=cuts))


def _aggregate(
    state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], federation: Federation, round: int
) -> Result:
    """As the federation's method does it."""
    weighting, scale, name = federation.rounds.weighting, scale_of(federation.adapter), federation.method_name
    if not federation.method.linear:
        updates = list(updates)
        if not updates:
            return _plain(fedavg.apply(state, (), weighting=weighting))
    if federation.adapter.type == "adalora":
        told: adalora.Told = {}
        new, steps, diagnostics = _average(state, adalora.noted(updates, told), federation)
        left = adalora.allocate(new, told, diagnostics.weights, federation=federation, round=round)
        return Result(left, steps, diagnostics)
    if name == "flexlora":
        return _plain(flexlora.apply(state, updates, weighting=weighting))
    if name == "fedex":
        return Result(*fedex.apply(state, updates, weighting=weighting, scale=scale))
    if name == "flora":
        seed = federation.seed + round
        return Result(*flora.apply(state, updates, weighting=weighting, scale=scale, seed=seed))
    return _average(state, updates, federation)


def _average(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], federation: Federation) -> Result:
    """Add the mean update, element by element."""
    weighting = federation.rounds.weighting
    filled = map(partial(padded, state=state), updates)  # holds no update while the next one arrives
    if federation.rounds.normalize_steps:
        training = federation.training
        momentum = training.momentum if training.optimizer == "sgd" else 0.0
        share = federation.rounds.max_share
        return _plain(fednova.apply(state, filled, weighting=weighting, momentum=momentum, max_share=share))
    return _plain(fedavg.apply(state, filled, weighting=weighting))


def _plain(of: tuple[Arrays, fedavg.Diagnostics]) -> Result:
    return Result(of[0], {}, of[1])
