"""What a head is made of, without torch: its layers' sizes, and how their parameters begin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from shared.codec import Arrays

Draw = Callable[[str, tuple[int, ...], float], np.ndarray]
"""float32 numbers of a shape for the array of a name, evenly between minus and plus a bound."""


@dataclass(frozen=True)
class Linear:
    """Weight [outputs, inputs] and bias [outputs], both drawn evenly within 1 / sqrt(inputs), as torch's Linear is."""

    inputs: int
    outputs: int
    bias: bool = True

    def begin(self, name: str, draw: Draw) -> Arrays:
        """Its parameters by name."""
        bound = self.inputs**-0.5
        arrays = {f"{name}.weight": draw(f"{name}.weight", (self.outputs, self.inputs), bound)}
        if self.bias:
            arrays[f"{name}.bias"] = draw(f"{name}.bias", (self.outputs,), bound)
        return arrays


@dataclass(frozen=True)
class Norm:
    """Layer norm: weight [size] of ones, bias [size] of zeros."""

    size: int

    def begin(self, name: str, draw: Draw) -> Arrays:
        """Its parameters by name."""
        return {f"{name}.weight": np.ones(self.size, np.float32), f"{name}.bias": np.zeros(self.size, np.float32)}


@dataclass(frozen=True)
class Offsets:
    """A bias per sub-token of the vocabulary, [vocabulary, 1], of zeros."""

    vocabulary: int

    def begin(self, name: str, draw: Draw) -> Arrays:
        """Its parameters by name."""
        return {f"{name}.weight": np.zeros((self.vocabulary, 1), np.float32)}


Layers = Mapping[str, Linear | Norm | Offsets]
"""By their names in the head."""


def transformer(name: str, hidden: int, attentions: Mapping[str, str]) -> Layers:
    """A layer that is normalised before each part, twice as wide in the middle; keys have no bias.

    Args:
        name: Of the layer.
        hidden: Its width.
        attentions: What stands before the names of an attention's projections, by the name of the norm before it.
    """
    layers: dict[str, Linear | Norm | Offsets] = {}
    for norm, prefix in attentions.items():
        layers[f"{name}.{norm}"] = Norm(hidden)
        layers |= {f"{name}.{prefix}{part}": Linear(hidden, hidden) for part in ("query", "value", "output")}
        layers[f"{name}.{prefix}key"] = Linear(hidden, hidden, bias=False)
    return layers | {
        f"{name}.feed_norm": Norm(hidden),
        f"{name}.widen": Linear(hidden, 2 * hidden),
        f"{name}.narrow": Linear(2 * hidden, hidden),
    }
