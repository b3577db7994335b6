"""Institutions of different ranks: the first components of every factor pair are theirs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from server.aggregation import ClientUpdate
from shared.adapter import factor_of
from shared.codec import Arrays


def narrow(state: Mapping[str, np.ndarray], rank: int | None) -> Arrays:
    """A state's arrays as an institution of that rank has them; None is the state's own rank."""
    return {name: _narrow(name, array, rank) for name, array in state.items()}


def narrow_shapes(shapes: Mapping[str, tuple[int, ...]], rank: int | None) -> dict[str, tuple[int, ...]]:
    """The shapes of a state's arrays as an institution of that rank has them."""
    return {name: _narrow(name, np.broadcast_to(np.float32(0), shape), rank).shape for name, shape in shapes.items()}


def padded(update: ClientUpdate, state: Mapping[str, np.ndarray]) -> ClientUpdate:
    """The update in the state's shapes, zero where the institution's rank does not reach."""
    if all(array.shape == state[name].shape for name, array in update.arrays.items()):
        return update
    arrays = {
        name: array
        if array.shape == state[name].shape
        else np.pad(array, [(0, whole - own) for whole, own in zip(state[name].shape, array.shape, strict=True)])
        for name, array in update.arrays.items()
    }
    return replace(update, arrays=arrays)


def _narrow(name: str, array: np.ndarray, rank: int | None) -> np.ndarray:
    factor = factor_of(name)
    if rank is None or factor is None:
        return array
    return array[:rank] if factor == "A" else array[:, :rank]
