"""One round's updates become the new model: the aggregators, by names that `shared.federation.methods` explains."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from server.aggregation import (
    ClientUpdate,
    Context,
    Cut,
    Result,
    adalora,
    averaging,
    context_of,
    fedavg,
    fedex,
    fedsvd,
    flexlora,
    flora,
)
from server.aggregation.shares import capped_updates
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.methods import METHODS

Apply = Callable[[Arrays, Iterable[ClientUpdate], Context], Result]
"""The model before the round, checked updates and what is agreed, to the model after it."""


@dataclass(frozen=True)
class Aggregator:
    """How the coordinator makes one model of a round's updates."""

    apply: Apply
    after: Callable[[Arrays], Arrays] = lambda model: model
    """What becomes of the model after the round's step, a server optimizer's included."""


AGGREGATORS: Mapping[str, Aggregator] = {
    "fedavg": Aggregator(averaging.apply),
    "ffa": Aggregator(averaging.apply),
    "rolora": Aggregator(averaging.apply),
    "fedex": Aggregator(fedex.apply),
    "flora": Aggregator(flora.apply),
    "flexlora": Aggregator(flexlora.apply),
    "fedsa": Aggregator(averaging.apply),
    "fedsvd": Aggregator(averaging.apply, after=fedsvd.refactor),
    "fedrot": Aggregator(averaging.apply),
    "fed-sb": Aggregator(averaging.apply),
    "heads": Aggregator(averaging.apply),
    "adalora": Aggregator(adalora.apply),
}
"""By `rounds.method`, and by `adapter.type` where that prunes."""
assert METHODS.keys() <= AGGREGATORS.keys()


def aggregator_of(federation: Federation) -> Aggregator:
    """How a federation's coordinator aggregates."""
    return AGGREGATORS[federation.adapter.type if federation.adapter.prunes else federation.method_name]


def aggregate(state: Arrays, updates: Iterable[ClientUpdate], *, federation: Federation, round: int) -> Result:
    """Move the model by one round's updates; nobody's count for more than `rounds.max_share`.

    Methods that are linear take them one at a time; the others hold all of them.

    Args:
        state: The model before the round.
        updates: Checked.
        federation: Names method and weighting.
        round: The round's number.
    """
    context, cuts = context_of(federation, round), list[Cut]()
    within: Iterable[ClientUpdate] = capped_updates(
        updates, weighting=context.weighting, max_share=context.max_share, cuts=cuts
    )
    apply = aggregator_of(federation).apply
    if not federation.method.linear:
        within = list(within)
        apply = apply if within else fedavg.apply
    result = apply(state, within, context)
    return result._replace(diagnostics=replace(result.diagnostics, cuts=cuts))
