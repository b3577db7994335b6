"""A BERT with low-rank products beside its linear layers, from plain tensors and for prediction alone.

The pieces are those of training (`shared.model.packed`), so that rows pass without padding. Frozen weights are one
`Backbone` for however many adapters there are over it; an adapter keeps no more than its own factors.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from shared.adapter import PREFIX
from shared.model.packed import Packing, add_norm, attend, pack

CONFIG = "config.json"
QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
PRODUCTS = (QKV, ("attention.output.dense",), ("intermediate.dense",), ("output.dense",))
"""The linear layers of a BERT's layer; those with the same inputs are one product."""
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")

Product = tuple[torch.Tensor, torch.Tensor]
Linear = Callable[[torch.Tensor], torch.Tensor]
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]
"""By the name of a linear layer, such as `encoder.layer.0.output.dense`: A, B and the scale of B A."""


def is_known(folder: Path) -> bool:
    """Whether a backbone's architecture is the one that is computed here."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return (
        config.get("hidden_act", "gelu") == "gelu"
        and not config.get("is_decoder", False)
        and config.get("position_embedding_type", "absolute") == "absolute"
        and all(file.name.endswith(".safetensors") for file in folder.glob("model*"))
    )


class Backbone:
    """The frozen weights, which are not changed.

    Args:
        folder: Of a BERT that `is_known`.
        dtype: Of the products; what is added up and normalised stays float32.
        device: Where they lie.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.heads, self.dtype, self.device = int(config["num_attention_heads"]), dtype, torch.device(device)
        self.max_length = int(config["max_position_embeddings"])
        self._eps = float(config.get("layer_norm_eps", 1e-12))
        found = {
            name: tensor
            for file in sorted(folder.glob("model*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        self._weights = {name.removeprefix("bert."): tensor for name, tensor in found.items()}
        self.words, self._types, self._positions = (
            self._take(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "token_type", "position")
        )
        self._norm = self._layer_norm("embeddings.LayerNorm")
        self.layers = [self._layer(f"encoder.layer.{number}") for number in range(int(config["num_hidden_layers"]))]
        del self._weights

    def embedded(self, input_ids: torch.Tensor, types: torch.Tensor, packing: Packing) -> torch.Tensor:
        """What the first layer reads, float32 [tokens, hidden]."""
        states = functional.embedding(input_ids.flatten()[packing.tokens], self.words)
        states = states + functional.embedding(types.flatten()[packing.tokens], self._types)
        states = states + functional.embedding(packing.positions, self._positions)
        return packing.filled(self._norm(states))

    def _take(self, name: str) -> torch.Tensor:
        return self._weights[name].to(self.device, torch.float32)

    def _layer_norm(self, name: str) -> nn.LayerNorm:
        norm = nn.LayerNorm(len(self._weights[f"{name}.weight"]), eps=self._eps, device="meta").requires_grad_(False)
        for part in ("weight", "bias"):
            kept = self._weights.get(f"{name}.{part}", self._weights.get(f"{name}.{OLD[part]}"))
            assert kept is not None
            setattr(norm, part, nn.Parameter(kept.to(self.device, torch.float32), requires_grad=False))
        return norm

    def _layer(self, name: str) -> "Layer":
        products = tuple(self._product([f"{name}.{part}" for part in parts]) for parts in PRODUCTS)
        first, second = (self._layer_norm(f"{name}.{norm}") for norm in NORMS)
        return Layer(products, first, second)

    def _product(self, names: Sequence[str]) -> "Linear":
        """Of linear layers with the same inputs."""
        weight, bias = (torch.cat([self._take(f"{name}.{kind}") for name in names]) for kind in ("weight", "bias"))
        return Dense(weight.t().to(self.dtype), bias.to(self.dtype))


OLD = {"weight": "gamma", "bias": "beta"}
"""What the parameters of a norm are called in the oldest files."""


@dataclass(frozen=True)
class Dense:
    """A linear layer: weight [inputs, outputs] and bias [outputs]."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, outputs] of [tokens, inputs]."""
        return torch.addmm(self.bias, inputs, self.weight)


@dataclass(frozen=True)
class Layer:
    """The frozen part of one layer: products in the order of `PRODUCTS`."""

    products: tuple[Linear, ...]
    first: nn.LayerNorm
    second: nn.LayerNorm


class LightEncoder:
    """The states of texts under one adapter.

    Args:
        backbone: Its frozen weights.
        factors: Of the adapter; nothing where it has been merged into the weights.
    """

    def __init__(self, backbone: Backbone, factors: Factors) -> None:
        self.backbone = backbone
        self._products = [
            [self._beside(f"encoder.layer.{number}", parts, factors) for parts in PRODUCTS]
            for number in range(len(backbone.layers))
        ]

    @property
    def words(self) -> torch.Tensor:
        """The frozen word embeddings [vocabulary, hidden]."""
        return self.backbone.words

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    def __call__(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """The last layer's states, float32 [rows, length, hidden]; all three arguments are [rows, length]."""
        packing = pack(mask)
        states = self.backbone.embedded(input_ids, types, packing)
        low = states.to(self.backbone.dtype)
        for layer, beside in zip(self.backbone.layers, self._products, strict=True):
            qkv, out, inner, last = zip(layer.products, beside, strict=True)
            mixed = attend(_linear(low, *qkv), packing, self.backbone.heads)
            states, low = add_norm(states, _linear(mixed, *out), layer.first)
            states, low = add_norm(states, _linear(functional.gelu(_linear(low, *inner)), *last), layer.second)
        padded = states.new_zeros(mask.numel(), states.shape[1])
        return padded.index_copy(0, packing.tokens, states[: len(packing.tokens)]).view(*mask.shape, -1)

    def _beside(self, layer: str, parts: Sequence[str], factors: Factors) -> Product | None:
        """Of the adapted ones of some linear layers, all A as [inputs, ranks] and all scaled B as [ranks, outputs]."""
        named = [factors.get(f"{layer}.{part}") for part in parts]
        adapted = [own for own in named if own is not None]
        if not adapted:
            return None
        to: dict[str, Any] = {"dtype": self.backbone.dtype, "device": self.backbone.device}
        width = adapted[0][1].shape[0]  # of query, key and value alike
        up = torch.zeros(sum(len(a) for a, _, _ in adapted), width * len(parts))
        row = 0
        for number, own in enumerate(named):
            if own is not None:
                a, b, scale = own
                up[row : row + len(a), number * width : (number + 1) * width] = b.t() * scale
                row += len(a)
        return torch.cat([a for a, _, _ in adapted]).t().to(**to), up.to(**to)


def _linear(inputs: torch.Tensor, product: Linear, beside: Product | None) -> torch.Tensor:
    outputs = product(inputs)
    return outputs if beside is None else outputs.addmm_(inputs @ beside[0], beside[1])


def factors_of(adapter: Mapping[str, Any], arrays: Iterable[tuple[str, Any]]) -> Factors:
    """The factors of a released adapter.

    Args:
        adapter: What `adapter_config.json` says.
        arrays: Peft's names, without a prefix of Collegium's, and their NumPy arrays.
    """
    named = {name.removeprefix(PREFIX): torch.from_numpy(array) for name, array in arrays}
    found = {}
    for name, a in named.items():
        layer, is_a, _ = name.partition(".lora_A.")
        if not is_a:
            continue
        rank = len(a)
        alpha = adapter.get("alpha_pattern", {}).get(layer, adapter["lora_alpha"])
        scale = float(alpha) / (rank**0.5 if adapter.get("use_rslora") else rank)
        found[layer] = (a, named[f"{layer}.lora_B.weight"], scale)
    return found
