"""The mean of all updates, element by element: what every linear method does.

Institutions may have different ranks; where `rounds.normalize_steps` says so, each update counts per local step.
"""

from collections.abc import Iterable
from functools import partial

from server.aggregation import ClientUpdate, Context, Result, fedavg, fednova
from server.aggregation.mixed_ranks import padded
from shared.codec import Arrays


def apply(state: Arrays, updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Add the mean update; updates are consumed one at a time, and none is kept."""
    filled = map(partial(padded, state=state), updates)  # holds no update while the next one arrives
    mean = fednova.apply if context.normalize_steps else fedavg.apply
    return mean(state, filled, context)
