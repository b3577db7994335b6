"""Weights as integers of eight bits: in a file a quarter of the size, and a product with them.

Each output of a linear layer and each row of the word embeddings has a scale of its own, fixed once; what is multiplied
with them is rounded anew each time, by one scale for all that passes together (Krishnamoorthi 2018, arXiv 1806.08342,
"dynamic"). An answer may therefore differ in the last digits with the texts that pass beside.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from shared.inference.encoder import Backbone

LARGEST = 127
SEVEN = not getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
"""Whether inputs keep seven bits instead of eight: the processor may overflow where it adds up products of eight."""
WORDS = "embeddings.word_embeddings.weight"
LAYERS = "encoder.layer."
SCALE = ".scale"
"""After a weight's name: float32 [rows], of each row of it."""


def quantised(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A BERT's weights with those of linear layers and the word embeddings as int8, and their scales beside."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name == WORDS or (name.startswith(LAYERS) and weight.ndim == 2):
            scale = (weight.abs().amax(1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
            found[name] = (weight / scale[:, None]).round().to(torch.int8)
            found[name + SCALE] = scale
        else:
            found[name] = weight
    return found


class Int8Product:
    """A linear layer of eight-bit weights.

    Args:
        weight: int8 [outputs, inputs].
        scale: float32 [outputs].
        bias: float32 [outputs].
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> None:
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():  # torch 2.13 means to take such tensors out some day; files hold plain ones
            warnings.simplefilter("ignore", UserWarning)
            whole = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
        engines, before = torch.backends.quantized, torch.backends.quantized.engine
        try:
            if "onednn" in engines.supported_engines:  # which uses all that the processor has
                engines.engine = "onednn"
            self._packed = torch.ops.quantized.linear_prepack(whole, bias)
        finally:
            engines.engine = before

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float32 [tokens, outputs] of float32 [tokens, inputs]."""
        outputs: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, SEVEN)
        return outputs


class Int8Backbone(Backbone):
    """A BERT whose weights are `quantised`; it computes on the CPU, in float32 but for the products.

    Args:
        folder: Of the configuration and the weights.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)

    def _take(self, name: str) -> torch.Tensor:
        weight = super()._take(name)
        scale = self._weights.get(name + SCALE)
        return weight if scale is None else weight * scale[:, None]

    def _product(self, names: Sequence[str]) -> Int8Product:
        weight = torch.cat([self._weights[f"{name}.weight"] for name in names])
        scale = torch.cat([self._weights[f"{name}.weight{SCALE}"] for name in names])
        return Int8Product(weight, scale, torch.cat([self._take(f"{name}.bias") for name in names]))
