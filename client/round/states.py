"""The state in a request: read, and refused before any record is touched unless every text can pass through it.

A planted state that overflows on some words and not on others would make the form of an answer depend on the records.
So values must be finite, heads bounded, and every layer's step from the frozen weights too: BERT normalises after each
layer, and with the bounds here no float32 forward pass comes near the largest number, whatever the text. Nothing in
these checks, and nothing in their refusals, depends on a record.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from shared import codec
from shared.adapter import (
    base_codec,
    check_shapes,
    factor_name,
    is_received,
    of_tasks,
    task_of,
    tensors,
)
from shared.codec import Arrays, Shapes
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.model.allocation import fill
from shared.model.lora import FARTHEST, factors, lora_layers
from shared.model.multitask import MultiTaskModel
from shared.protocol import EvaluateRequest, TrainRequest
from shared.state import Broadcast, Steps, pack_broadcast, unpack_broadcast, unpack_steps

LONGEST = 1e4
"""Largest Euclidean norm of all arrays together: no honest round moves an adapter this far."""


@dataclass(frozen=True)
class Received:
    """What came in a request."""

    state: Broadcast[np.ndarray]
    """Of layers that were pruned, the components that are left."""
    steps: Steps
    """What the frozen weights are to be moved by, by layer."""

    def arrays(self) -> Iterator[np.ndarray]:
        """All that came."""
        yield from self.state.model.values()
        yield from self.state.control.values()
        for step in self.steps.values():
            yield from step

    @property
    def tasks(self) -> set[str]:
        """Whose heads are in it."""
        return {task for name in self.state.model if (task := task_of(name))}


def read_state(
    request: TrainRequest | EvaluateRequest, federation: Federation, shapes: Shapes, control: Shapes
) -> Received:
    """The arrays in a request.

    Args:
        request: From the coordinator.
        federation: The agreement.
        shapes: Of the arrays that this site may receive, by name.
        control: Of those whose control variates come with them.

    Raises:
        ProtocolError: A blob is not one of such arrays (which ones they are, `check_state` looks at), or a step of the
            frozen weights is not finite.
    """
    wire = federation.wire
    named = codec.decode(request.state, wire.coding_down, pack_broadcast(Broadcast(shapes, control)))
    steps = unpack_steps(codec.decode(request.base, base_codec(wire.down))) if request.base else {}
    if not all(np.isfinite(factor).all() for step in steps.values() for factor in step):
        raise ProtocolError("Expected finite steps of the frozen weights, but others came.")
    return Received(unpack_broadcast(named), steps)


def check_state(
    received: Received, model: MultiTaskModel, federation: Federation, control: Shapes, own: Arrays
) -> Arrays:
    """The state as it may be loaded, once it is known that every text can pass through it.

    Args:
        received: From a request; all heads in it are the site's.
        model: What it is to be loaded into.
        federation: The agreement.
        control: As in `read_state`.
        own: Arrays that this site keeps itself, and that belong to the state.

    Raises:
        ProtocolError: An array is missing, unknown, of another shape, not finite, or absurdly large.
    """
    whole = {name: tuple(parameter.shape) for name, parameter in tensors(model).items()}
    arrays, variates = dict(received.state.model), received.state.control
    if federation.adapter.prunes:
        arrays = fill(arrays, whole)
    wanted = {name: shape for name, shape in whole.items() if is_received(name, federation.method)}
    check_shapes(of_tasks(wanted, received.tasks), arrays)
    check_shapes(of_tasks(control, received.tasks), variates)
    for of in (arrays, variates):
        if not (length := _norm(of)) <= LONGEST:
            raise ProtocolError(
                f"Expected finite arrays of norm at most {LONGEST:g} together, but the state's is {length:g}."
            )
    for layer, length in _layer_steps(arrays | own, model).items():
        length *= federation.adapter.scale
        if not length <= FARTHEST:
            raise ProtocolError(
                f"Expected a change of norm at most {FARTHEST:g} of each layer, but that of {layer} is {length:g}."
            )
    return arrays


def _layer_steps(arrays: Mapping[str, np.ndarray], model: MultiTaskModel) -> dict[str, float]:
    """By layer, the Frobenius norm of the product of its factors; those that `arrays` lacks are the model's."""
    norms = {}
    for layer, module in lora_layers(model.encoder).items():
        parts = {
            factor: arrays.get(factor_name(layer, factor), parameter.detach().cpu().numpy()).astype(np.float64)
            for factor, parameter in factors(module).items()
        }
        left = parts["B"] @ parts["R"] if "R" in parts else parts["B"]
        square = float(((left.T @ left) * (parts["A"] @ parts["A"].T)).sum())
        norms[layer] = math.sqrt(max(0.0, square)) if math.isfinite(square) else math.inf
    return norms


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    """Euclidean, over all arrays; not a number where one of them is not finite."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()))
