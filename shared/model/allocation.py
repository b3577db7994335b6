"""Layers of different ranks (`adapter.type = "adalora"`): what they have left travels, what was pruned does not.

The first components of a layer are those that it has left. Of every other one the row of A and the column of B are
zero, and then so are their gradients: it stays zero under any optimizer and weight decay, and the state itself shows
what was pruned. A state has the federation's shapes; on the wire only what is left has rows and columns.
"""

from collections.abc import Mapping

import numpy as np

from shared.adapter import factor_name, factor_of, layer_of
from shared.codec import Arrays, Shapes
from shared.errors import ProtocolError, shown
from shared.state import Update

Ranks = Mapping[str, int]
"""By layer, the number of its components."""


def ranks_of(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The ranks that arrays have by their shape."""
    return {
        layer_of(name): array.shape[0] if array.ndim else 0 for name, array in arrays.items() if factor_of(name) == "A"
    }


def ranks_left(state: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The ranks of a state's layers without the components that were pruned."""
    return {
        layer_of(name): int(np.flatnonzero(array.any(axis=1)).max(initial=-1)) + 1
        for name, array in state.items()
        if factor_of(name) == "A"
    }


def cut(arrays: Mapping[str, np.ndarray], ranks: Ranks) -> Arrays:
    """The first components of every layer; all other arrays as they are."""
    return {
        name: array[tuple(slice(size) for size in _cut(name, array.shape, ranks))] for name, array in arrays.items()
    }


def cut_importance(importance: Mapping[str, np.ndarray], ranks: Ranks) -> Arrays:
    """By layer, the importance of its first components."""
    return {layer: scores[: ranks[layer]] for layer, scores in importance.items()}


def update_shapes(shapes: Shapes, ranks: Ranks) -> Update[tuple[int, ...]]:
    """What an update consists of: arrays of these shapes, cut, and the importance of every component.

    Args:
        shapes: Of the arrays that an institution sends, at full rank.
        ranks: Of the layers as the institution received them.
    """
    cut_shapes = {name: _cut(name, shape, ranks) for name, shape in shapes.items()}
    return Update(cut_shapes, importance={layer: (rank,) for layer, rank in ranks.items()})


def fill(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Arrays with zero components in the place of those that were pruned, so that they have these shapes again.

    Raises:
        ProtocolError: The factors of a layer have different ranks, or a rank above that of `shapes`.
    """
    for layer, rank in ranks_of(arrays).items():
        a, b = (factor_name(layer, factor) for factor in ("A", "B"))
        most = shapes[a][0] if a in shapes else 0
        if b not in arrays or arrays[b].shape[1:] != (rank,) or rank > most:
            raise ProtocolError(
                f"Expected both factors of {shown(layer)} with one rank of at most {most}, but others came."
            )
    return {name: _fill(array, shapes.get(name)) for name, array in arrays.items()}


def describe(ranks: Ranks) -> str:
    """The ranks of all layers in a few words."""
    return f"ranks {min(ranks.values())}-{max(ranks.values())}, mean {sum(ranks.values()) / len(ranks):.1f}"


def _cut(name: str, shape: tuple[int, ...], ranks: Ranks) -> tuple[int, ...]:
    factor = factor_of(name)
    if factor is None:
        return shape
    rank = ranks[layer_of(name)]
    return (rank, *shape[1:]) if factor == "A" else (*shape[:-1], rank)


def _fill(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The array itself where it cannot be filled: whoever checks its shape says so."""
    if shape is None or array.ndim != len(shape) or any(o > w for o, w in zip(array.shape, shape, strict=True)):
        return array
    return np.pad(array, [(0, whole - own) for own, whole in zip(array.shape, shape, strict=True)])
