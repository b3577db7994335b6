"""What is remembered of a model and what travels of it: typed in memory, named arrays where it is written.

A checkpoint and a message are flat collections of named arrays. Those of the model have names of their own
(`shared.adapter`); whatever stands beside them goes under a prefix, and prefixes exist in this module only:

    control/NAME           with an update: by how much a control variate has changed; before it: the mean
    importance/LAYER       with an update: how much each component of a layer matters
    base/LAYER.B  .A       in a checkpoint, and in a blob of its own: a round's step of the frozen weights
    base/LAYER.W           in a checkpoint: the step itself, where its two factors would take more room
    optimizer/m/NAME  v/   in a checkpoint: moments of the server optimizer
    scaffold/sum/NAME      in a checkpoint: the sum of all institutions' control variates
    scaffold/count/NAME    in a checkpoint: how many have sent one, row by row
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from shared.codec import Arrays
from shared.errors import ProtocolError, shown
from shared.model.lowrank import Product

T = TypeVar("T")
"""Arrays, or their shapes."""
CONTROL = "control/"
IMPORTANCE = "importance/"
BASE = "base/"
FIRST, SECOND = "optimizer/m/", "optimizer/v/"
SUM, COUNT = "scaffold/sum/", "scaffold/count/"
Steps = Mapping[str, Product]
"""By layer, what is added to its frozen weights, as a product of low rank."""


@dataclass(frozen=True)
class Broadcast(Generic[T]):
    """What an institution is sent before a round."""

    model: Mapping[str, T]
    control: Mapping[str, T] = field(default_factory=dict)
    """Everybody's control variates (SCAFFOLD), by the array that they are of."""


@dataclass(frozen=True)
class Update(Generic[T]):
    """What an institution sends after a round."""

    model: Mapping[str, T]
    """New minus received."""
    control: Mapping[str, T] = field(default_factory=dict)
    """By how much its control variates have changed (SCAFFOLD), by the array that they are of."""
    importance: Mapping[str, T] = field(default_factory=dict)
    """By layer, how much each component matters (AdaLoRA): [rank]."""


@dataclass(frozen=True)
class Moments:
    """What a server optimizer remembers of every array; `second` is empty where it has none."""

    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Variates:
    """All institutions' control variates, added up (SCAFFOLD)."""

    sums: Arrays = field(default_factory=dict)
    counts: Arrays = field(default_factory=dict)
    """By how many institutions have sent one: [rows, 1, ..]."""


@dataclass(frozen=True)
class State:
    """What the coordinator knows after a round; a checkpoint holds all of it."""

    model: Arrays
    """The adapter and all heads, float32."""
    moments: Moments = Moments()
    variates: Variates = Variates()
    steps: Steps = field(default_factory=dict)
    """By which this round moves the frozen weights."""


def pack_state(state: State) -> Arrays:
    """A state as the named arrays of a checkpoint."""
    return {
        **state.model,
        **_under(FIRST, state.moments.first),
        **_under(SECOND, state.moments.second),
        **_under(SUM, state.variates.sums),
        **_under(COUNT, state.variates.counts),
        **pack_steps(state.steps, dense=True),
    }


def unpack_state(arrays: Mapping[str, np.ndarray]) -> State:
    """The state in a checkpoint. Raises ProtocolError if a step of the frozen weights lacks a factor."""
    rest, first = _split(FIRST, arrays)
    rest, second = _split(SECOND, rest)
    rest, sums = _split(SUM, rest)
    rest, counts = _split(COUNT, rest)
    model, _ = _split(BASE, rest)
    return State(model, Moments(first, second), Variates(sums, counts), unpack_steps(rest))


def pack_broadcast(broadcast: Broadcast[T]) -> dict[str, T]:
    """What an institution is sent, or the shapes of it, under the names by which it travels."""
    return {**broadcast.model, **_under(CONTROL, broadcast.control)}


def unpack_broadcast(named: Mapping[str, T]) -> Broadcast[T]:
    """What came, apart; which arrays there may be is for the receiver to check."""
    return Broadcast(*_split(CONTROL, named))


def pack_update(update: Update[T]) -> dict[str, T]:
    """An update, or the shapes of it, under the names by which it travels."""
    return {**update.model, **_under(CONTROL, update.control), **_under(IMPORTANCE, update.importance)}


def unpack_update(named: Mapping[str, T]) -> Update[T]:
    """What came, apart; which arrays there may be is for the receiver to check."""
    rest, importance = _split(IMPORTANCE, named)
    return Update(*_split(CONTROL, rest), importance)


def pack_steps(steps: Steps, *, dense: bool = False) -> Arrays:
    """Steps of the frozen weights as named arrays.

    Args:
        steps: By layer, of the shape [outputs, inputs].
        dense: Whether one whose factors are larger than itself is written as itself: those of many rounds added up, or
            of many institutions, have ranks up to the smaller of outputs and inputs.
    """
    named: Arrays = {}
    for layer, (b, a) in steps.items():
        if dense and b.size + a.size > len(b) * a.shape[-1]:
            named[f"{BASE}{layer}.W"] = (b.astype(np.float64) @ a).astype(np.float32)
        else:
            named |= {f"{BASE}{layer}.B": b, f"{BASE}{layer}.A": a}
    return named


def unpack_steps(arrays: Mapping[str, np.ndarray]) -> dict[str, Product]:
    """The steps of the frozen weights among named arrays, as products; a step itself is one with nothing (an identity).

    Raises:
        ProtocolError: One lacks a factor.
    """
    _, factors = _split(BASE, arrays)
    whole = {name.removesuffix(".W"): array for name, array in factors.items() if name.endswith(".W")}
    layers = sorted({name.rsplit(".", 1)[0] for name in factors} - whole.keys())
    try:
        return {layer: (factors[f"{layer}.B"], factors[f"{layer}.A"]) for layer in layers} | {
            layer: _with_nothing(array) for layer, array in whole.items()
        }
    except KeyError as error:
        missing = shown(BASE + error.args[0])
        raise ProtocolError(
            f"Expected both factors of every step of the frozen weights, but {missing} is missing."
        ) from None


def _with_nothing(step: np.ndarray) -> Product:
    """A matrix as a product with the smaller identity."""
    outputs, inputs = step.shape
    return (step, np.eye(inputs, dtype=step.dtype)) if inputs < outputs else (np.eye(outputs, dtype=step.dtype), step)


def _under(prefix: str, named: Mapping[str, T]) -> dict[str, T]:
    return {prefix + name: value for name, value in named.items()}


def _split(prefix: str, named: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """What has no such prefix, and what has, without it."""
    rest = {name: value for name, value in named.items() if not name.startswith(prefix)}
    return rest, {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
