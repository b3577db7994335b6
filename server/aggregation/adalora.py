"""Ranks given to the layers that need them (AdaLoRA: Zhang et al. 2023, arXiv 2303.10512; `adapter.type = "adalora"`).

Institutions measure how much each component of each layer's product matters (`client.train.importance`), and send it
with their update. After averaging, the components that matter least over all layers are pruned: as many as the round's
budget says, which falls from `adapter.rank` per layer to `adapter.target_rank` on average.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from server.aggregation import ClientUpdate, Context, Result, averaging
from shared.adapter import factor_name
from shared.codec import Arrays
from shared.federation import Adapter
from shared.model.allocation import ranks_left

Reported = dict[str, Arrays]
"""By institution, the importance of every component: [rank] by layer."""


def apply(state: Arrays, updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Add the mean update, then prune what the next round's budget does not cover."""
    reported: Reported = {}
    new, steps, diagnostics = averaging.apply(state, noted(updates, reported), context)
    return Result(allocate(new, reported, diagnostics.weights, context), steps, diagnostics)


def noted(updates: Iterable[ClientUpdate], reported: Reported) -> Iterator[ClientUpdate]:
    """The updates unchanged; the importance that came with each is noted in `reported`."""
    for update in updates:
        reported[update.institution] = dict(update.importance)
        yield update


def allocate(
    state: Mapping[str, np.ndarray], reported: Reported, weights: Mapping[str, float], context: Context
) -> Arrays:
    """Prune what the next round's budget does not cover.

    Args:
        state: The global state after a round's averaging.
        reported: The importance that each institution sent.
        weights: In the adapter, of those whose updates were averaged; they sum to one.
        context: Has the budget and the round.

    Returns:
        The new state, in the shapes of the old one; nothing is pruned if nobody found a component to matter, as in a
        first round of a single step, before which B is zero.
    """
    importance = mean_importance(reported, weights)
    if not any(scores.any() for scores in importance.values()):
        return dict(state)
    components = budget(context.adapter, context.round + 1, rounds=context.rounds, layers=len(importance))
    return prune(state, importance, components)


def budget(adapter: Adapter, round: int, *, rounds: int, layers: int) -> int:
    """How many components all layers together have in a round (the paper's cubic schedule, section 3.3).

    Args:
        adapter: Full and target rank; the first rounds are at the one, the last at the other.
        round: From 1.
        rounds: In the whole run.
        layers: That the adapter has.
    """
    full, target = adapter.rank * layers, adapter.target * layers
    last_full, first_pruned = adapter.warmup_rounds, rounds - adapter.final_rounds + 1
    done = (round - last_full) / (first_pruned - last_full)
    return target + int((full - target) * (1 - min(max(done, 0.0), 1.0)) ** 3)


def mean_importance(reported: Reported, weights: Mapping[str, float]) -> Arrays:
    """The importance of every component, [rank] per layer: the mean by the weights, which name whose counts."""
    means: Arrays = {}
    for institution, weight in weights.items():
        for name, shares in reported[institution].items():
            means[name] = means.get(name, np.zeros(shares.shape)) + weight * shares.astype(np.float64)
    return means


def prune(state: Mapping[str, np.ndarray], importance: Mapping[str, np.ndarray], components: int) -> Arrays:
    """Keep the most important components over all layers, and set all others to zero.

    Those that a layer keeps move to its front, in their order. Among equally important ones, the earlier layer by name
    and the earlier component stay.

    Args:
        state: Factors A [rank, inputs] and B [outputs, rank], and whatever else.
        importance: As `mean_importance`; per layer as many numbers as it has components left, or fewer.
        components: How many stay.

    Returns:
        The new state; layers that lose nothing keep the very same arrays.
    """
    new = dict(state)
    ranked = sorted((-score, name, k) for name, scores in importance.items() for k, score in enumerate(scores))
    kept = {(name, k) for _, name, k in ranked[:components]}
    for layer, rank in ranks_left(state).items():
        staying = [k for k in range(rank) if (layer, k) in kept]
        if len(staying) < rank:
            a, b = factor_name(layer, "A"), factor_name(layer, "B")
            new[a], new[b] = np.zeros_like(state[a]), np.zeros_like(state[b])
            new[a][: len(staying)], new[b][:, : len(staying)] = state[a][staying], state[b][:, staying]
    return new
