"""Which layers of a BERT are left out, by what its heads lose without them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

from client.optimize.given import Given, batches_of, loss_of
from shared.errors import ConfigError
from shared.inference.encoder import Backbone, LightEncoder
from shared.inference.model import ReleasedModel

MOST = 200
"""Examples of a task that are read for each choice."""


def keep(layers: int, count: int, loss: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """The layers that stay, ascending.

    One after the other that layer goes without which the loss is the least (Peer et al. 2022, "Greedy-layer pruning",
    arXiv 2105.14839).

    Args:
        layers: How many there are.
        count: How many stay.
        loss: Of a model that has only some layers.

    Raises:
        ConfigError: There are fewer.
    """
    if not 1 <= count <= layers:
        raise ConfigError(f"Expected --layers from 1 to {layers}, which this BERT has, not {count}.")
    kept = list(range(layers))
    while len(kept) > count:
        kept = min((kept[:place] + kept[place + 1 :] for place in range(len(kept))), key=loss)
    return tuple(kept)


def keep_by_loss(model: ReleasedModel, backbone: Backbone, count: int, given: Given) -> tuple[int, ...]:
    """As `keep`, by the heads' losses on labelled records; `backbone` is the model's, whose adapter is in it."""
    batches = {task: batches_of(model, own.examples[:MOST]) for task, own in given.items()}
    return keep(
        len(backbone.layers), count, lambda kept: loss_of(replace(model, encode=without(backbone, kept)), batches)
    )


def without(backbone: Backbone, kept: Sequence[int]) -> LightEncoder:
    """An encoder of only some layers."""
    fewer = copy.copy(backbone)
    fewer.layers = [backbone.layers[number] for number in kept]
    return LightEncoder(fewer, {})
