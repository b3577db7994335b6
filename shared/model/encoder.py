"""A frozen BERT with LoRA, passed through without padding, from the parameters that peft holds.

Frozen weights are kept in the dtype of the products, query, key and value are one product, and each linear layer with
its low-rank product is one step of autograd (`shared.model.packed`). What it does not know - another architecture, a
kind of LoRA, dropout, a hook - goes through peft's own forward pass.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import nn
from torch.nn import functional
from transformers import BertModel

from shared.model.frozen import FrozenStates
from shared.model.lora import Cored, adapted_layers, frozen, lora_layers
from shared.model.packed import Apart, Packing, Part, Several, adapted, add_norm, attend, moved, pack

Stamp = tuple[tuple[int, int], ...]
"""Where frozen weights lie and how often they were changed in place."""


class Encoder:
    """The forward pass of a model that peft has built; the weights stay the model's own."""

    def __init__(self, model: PeftModel, lower: FrozenStates | None = None) -> None:
        """Of what lies below the lowest adapted layer, remember in `lower` what it makes of a text."""
        self._model = model
        self._lower = lower
        self._lowest = min(adapted_layers(model))
        self._modules = list(model.modules())  # found once, as in `Flat`
        self._kept: dict[tuple[int, torch.dtype], tuple[Stamp, torch.Tensor, torch.Tensor]] = {}

    def twin(self, model: PeftModel) -> "Encoder":
        """That of a model over the same frozen weights: what is made and remembered of them is kept once."""
        twin = Encoder(model, self._lower)
        twin._kept = self._kept
        return twin

    def __call__(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor,
        *,
        lengths: Sequence[int] | None = None,
        varied: Collection[int] = (),
        apart: Apart | None = None,
        beside: Sequence["Encoder"] = (),
        whose: Sequence[int] = (),
    ) -> torch.Tensor:
        """The last layer's states, [rows, length, hidden]; what stands at padding is nobody's to read.

        Args:
            input_ids: [rows, length].
            mask: One where there is text, which is at the start of every row.
            types: Token types.
            lengths: Sub-tokens of each row, so that the device need not be asked for them.
            varied: Rows of which nothing is remembered.
            apart: Collects the gradient of each owner of rows; nothing, unless the model `is_known`.
            beside: Others over the same frozen weights that pass rows with this one, each by its own factors, of the
                same rank, if that `is_known`.
            whose: Each row's encoder, with `beside`, where this one is 0; `lengths` must be given.
        """
        if not self.is_known():
            assert not beside, "several models are asked of one that is not computed here"
            states: torch.Tensor = self._model(
                input_ids=input_ids, attention_mask=mask, token_type_ids=types
            ).last_hidden_state
            return states
        device = input_ids.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        with torch.autocast(device, enabled=False):
            packing = _pack(mask, lengths, apart)
            if beside:
                packing = replace(packing, several=self._several(beside, whose, lengths or (), mask.device))
            return self._pass(input_ids, mask, types, dtype, varied, packing)

    def _several(
        self, beside: Sequence["Encoder"], whose: Sequence[int], lengths: Sequence[int], device: torch.device
    ) -> Several:
        """Of this encoder and the others."""
        everyone = [lora_layers(encoder._model).values() for encoder in (self, *beside)]
        layers = {first: (first, *others) for first, *others in zip(*everyone, strict=True)}
        owners = torch.tensor(whose, device="cpu").repeat_interleave(torch.tensor(lengths, device="cpu"))
        return Several(layers, moved(owners, device), len(everyone))

    def is_known(self) -> bool:
        """Whether all that the model has is computed here."""
        bert = self._model.get_base_model()
        return (
            type(bert) is BertModel
            and bert.config.hidden_act == "gelu"
            and not bert.config.is_decoder
            and getattr(bert.config, "position_embedding_type", "absolute") == "absolute"
            and bert.embeddings.word_embeddings.weight.dtype == torch.float32
            and all(map(_is_known, self._modules))
        )

    def _pass(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor,
        dtype: torch.dtype,
        varied: Collection[int],
        packing: Packing,
    ) -> torch.Tensor:
        if self._lowest:
            low = packing.filled(self._below(input_ids, mask, types, dtype, varied))
            states = low.float()
        else:
            states = self._embedded(input_ids, types, packing)
            low = states.to(dtype)
        for layer in self._layers[self._lowest :]:
            states, low = self._layer(layer, states, low, packing)
        padded = states.new_zeros(mask.numel(), states.shape[1])
        return padded.index_copy(0, packing.tokens, states[: len(packing.tokens)]).view(*mask.shape, -1)

    def _below(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor,
        dtype: torch.dtype,
        varied: Collection[int],
    ) -> torch.Tensor:
        """What the lowest adapted layer reads, without a gradient, in the dtype of the products: [tokens, hidden].

        It is rounded to that whether it is remembered or not, so that memory decides nothing but the time.
        """

        def encode(input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor, ...]:
            packing = pack(mask)
            states = self._embedded(input_ids, types, packing)
            low = states.to(dtype)
            for layer in self._layers[: self._lowest]:
                states, low = self._layer(layer, states, low, packing)
            return torch.split(low[: len(packing.tokens)], mask.sum(1).tolist())

        if self._lower is None:
            with torch.no_grad():
                return torch.cat(encode(input_ids, mask, types))
        rows = self._lower.rows(input_ids, mask, types, encode, dtype=dtype, varied=varied)
        return torch.cat([row.to(input_ids.device) for row in rows])

    @property
    def _layers(self) -> nn.ModuleList:
        bert: Any = self._model.get_base_model()
        layers: nn.ModuleList = bert.encoder.layer
        return layers

    def _embedded(self, input_ids: torch.Tensor, types: torch.Tensor, packing: Packing) -> torch.Tensor:
        embedded: Any = self._model.get_base_model().embeddings
        states = functional.embedding(input_ids.flatten()[packing.tokens], embedded.word_embeddings.weight)
        states = states + functional.embedding(types.flatten()[packing.tokens], embedded.token_type_embeddings.weight)
        states = states + functional.embedding(packing.positions, embedded.position_embeddings.weight)
        return packing.filled(embedded.LayerNorm(states))

    def _layer(
        self, layer: Any, states: torch.Tensor, low: torch.Tensor, packing: Packing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer of the encoder: its states in float32, and in the dtype of the products."""
        own, after = layer.attention.self, layer.attention.output
        qkv = self._linear(packing, low, own.query, own.key, own.value)
        mixed = attend(qkv, packing, own.num_attention_heads)
        mixed = self._linear(packing, mixed, after.dense)
        states, low = add_norm(states, mixed, after.LayerNorm)
        inner = functional.gelu(self._linear(packing, low, layer.intermediate.dense))
        return add_norm(states, self._linear(packing, inner, layer.output.dense), layer.output.LayerNorm)

    def _linear(self, packing: Packing, inputs: torch.Tensor, *layers: nn.Module) -> torch.Tensor:
        """The outputs of layers with the same inputs, beside each other: [tokens, outputs of all]."""
        weight, bias = self._frozen([_base(layer) for layer in layers], inputs.dtype)
        parts: list[Part] = []
        factors: list[torch.Tensor] = []
        of: Any = packing.apart.copies if packing.apart else lambda parameter: parameter
        start = 0
        for layer in layers:
            end = start + _base(layer).out_features
            if isinstance(layer, lora.Linear):
                everyone: Sequence[Any] = packing.several.layers[layer] if packing.several else [layer]
                downs = [_down(one, of) for one in everyone]
                ups = [of(one.lora_B["default"].weight) for one in everyone]
                if packing.several:
                    downs, ups = [torch.cat(downs)], [torch.cat(ups, 1)]
                parts.append(Part(start, end, downs[0].shape[-2], layer.scaling["default"]))
                factors += [*downs, *ups]
            start = end
        return adapted(inputs, weight, bias, parts, packing, factors)

    def _frozen(self, layers: list[nn.Linear], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and biases one under the other in `dtype`, put together anew where one has moved."""
        stamp = tuple((layer.weight.data_ptr(), layer.weight._version) for layer in layers)
        key = id(layers[0].weight), dtype
        kept = self._kept.get(key)
        if kept is None or kept[0] != stamp:
            with torch.inference_mode(False), torch.no_grad():
                weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
                kept = self._kept[key] = stamp, weight.to(dtype), bias.to(dtype)
        return kept[1:]


def _pack(mask: torch.Tensor, lengths: Sequence[int] | None, apart: Apart | None) -> Packing:
    """Laid out in main memory where lengths are known there."""
    if lengths is None:
        return pack(mask, apart)
    places = torch.arange(mask.shape[1], device="cpu")
    return pack((places < torch.tensor(lengths, device="cpu")[:, None]).long(), apart).to(mask.device)


def _down(layer: lora.Linear, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A layer's first factor, of the parameters that are `of` it."""
    a: Any = layer.lora_A["default"]
    return of(a.core.weight) @ of(a.factor.weight) if isinstance(a, Cored) else of(a.weight)


def _base(layer: nn.Module) -> nn.Linear:
    if isinstance(layer, lora.LoraLayer):
        return frozen(layer)
    assert isinstance(layer, nn.Linear)
    return layer


def _is_known(module: nn.Module) -> bool:
    """Whether a module does nothing but what is computed here."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if isinstance(module, nn.Dropout):
        return module.p == 0 or not module.training
    if isinstance(module, lora.LoraLayer):
        return (
            type(module).forward is lora.Linear.forward
            and module.active_adapters == ["default"]
            and not (module.merged or module.disable_adapters or module.lora_variant or module.lora_bias["default"])
            and frozen(module).bias is not None
        )
    return True
