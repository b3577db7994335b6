"""LoRA on a frozen BERT: building it as a method begins, choosing what trains, and moving the frozen weights."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BertModel

from shared.adapter import factor_name
from shared.codec import Arrays
from shared.errors import ProtocolError, shown
from shared.federation import Adapter
from shared.federation.methods import Factor, Method
from shared.model.lowrank import Product, compress, stack

FARTHEST = 1e4
"""Longest change of one layer's weights that is believed, as a Frobenius norm: no honest run moves them so far."""
_FOUND: WeakKeyDictionary[PeftModel, dict[str, LoraLayer]] = WeakKeyDictionary()


class Cored(nn.Module):
    """A frozen A with a core behind it: R A x, in the place of peft's A (Fed-SB)."""

    def __init__(self, factor: nn.Linear) -> None:
        super().__init__()
        self.factor = factor
        self.core = nn.Linear(factor.out_features, factor.out_features, bias=False)
        nn.init.zeros_(self.core.weight)

    @property
    def weight(self) -> torch.Tensor:
        """What peft asks for the dtype of."""
        return self.factor.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., rank]."""
        output: torch.Tensor = self.core(self.factor(inputs))
        return output


class Base:
    """The frozen weights of the adapter's layers, which some methods move by low-rank steps (`Method.folds`).

    `version` names what has been added to the weights that the backbone came with; it is empty if nothing was.
    """

    def __init__(self, encoder: PeftModel) -> None:
        self.version = ""
        self._layers = {name: frozen(layer) for name, layer in lora_layers(encoder).items()}
        self._original: dict[str, torch.Tensor] = {}
        self._added: dict[str, Product] = {}
        self._undo: dict[str, torch.Tensor] | None = None

    @property
    def added(self) -> Mapping[str, Product]:
        """By layer, the sum of all that the weights have been moved by, as one product."""
        return self._added

    def move(self, steps: Mapping[str, Product], *, since: str, version: str) -> None:
        """Add products to the weights, unless they have this version already.

        Args:
            steps: By layer, B [outputs, k] and A [k, inputs]; W becomes W + B A.
            since: The version that they start from; empty is the backbone's own.
            version: What the weights are afterwards.

        Raises:
            ProtocolError: The weights have another version, a layer is unknown, a shape does not fit, or a layer would
                move absurdly far, or to what is not finite; nothing has moved then.
        """
        for name, (b, a) in steps.items():
            if name not in self._layers:
                raise ProtocolError(f"Expected steps of the adapter's layers, but {shown(name)} is not one of them.")
            shape = tuple(self._layers[name].weight.shape)
            if (b.ndim, a.ndim) != (2, 2) or (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
                raise ProtocolError(f"Expected a step of {name} as {shape}, but {b.shape} and {a.shape} came.")
        if version == self.version:
            return
        if since not in ("", self.version):
            raise ProtocolError(
                f"Expected steps from the frozen weights' version {self.version or 'at the start'!r}, but those from "
                f"{since!r} came; the coordinator sends the others when it asks again what this site holds."
            )
        with torch.no_grad():
            moved = {name: self._moved(name, step, afresh=not since) for name, step in steps.items()}
            added = {name: _add(step, self._added.get(name) if since else None) for name, step in steps.items()}
            if not since:
                self.reset()
            if steps and not self._original:
                self._original = {name: layer.weight.detach().clone() for name, layer in self._layers.items()}
            for name, weight in moved.items():
                self._set(name, weight)
        self._added.update(added)
        self.version = version

    def _moved(self, name: str, step: Product, *, afresh: bool) -> torch.Tensor:
        """A layer's weights after a step: from those of the backbone, if `afresh`, else from what they are."""
        weight = self._layers[name].weight
        original = self._original.get(name, weight)
        b, a = (torch.tensor(factor).to(weight) for factor in step)
        after = (original if afresh else weight) + b @ a
        if not (far := float((after - original).norm())) <= FARTHEST:
            raise ProtocolError(
                f"Expected steps that move a layer by at most {FARTHEST:g} in all, but {name} would move by {far:g}."
            )
        return after

    def _set(self, name: str, weight: torch.Tensor) -> None:
        current = self._layers[name].weight
        if self._undo is not None:
            self._undo.setdefault(name, current.detach().clone())
        current.copy_(weight)

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """The weights and their version are afterwards what they were before, if the block raises."""
        version, added, self._undo = self.version, dict(self._added), {}
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for name, weight in self._undo.items():
                    self._layers[name].weight.copy_(weight)
            self.version, self._added = version, added
            raise
        finally:
            self._undo = None

    def reset(self) -> None:
        """Back to the weights that the backbone came with."""
        with torch.no_grad():
            for name, original in self._original.items():
                self._set(name, original)
        self._added.clear()
        self.version = ""


class Shared(Base):
    """The same frozen weights for one of several models over them: its failure moves nobody's back."""

    def __init__(self, base: Base) -> None:
        self.__dict__ = base.__dict__

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Nothing is undone, for the others go on."""
        yield


def add_lora(
    encoder: BertModel, adapter: Adapter, method: Method, initial: Arrays, rank: int | None = None
) -> PeftModel:
    """Put LoRA on the encoder, in the state that the method begins with.

    Args:
        encoder: The frozen BERT.
        adapter: Rank, scale and layers, which `shared.model.initial.check_adapter` has found to fit.
        method: Decides whether there is a core, and what trains in the first round.
        initial: The factors, by their shared names.
        rank: This institution's, if it is not `adapter.rank`; the scale stays alpha / `adapter.rank`.
    """
    model = adapt(encoder, lora_config(adapter, numbers=adapter.layer_numbers(encoder.config.num_hidden_layers)))
    for name, layer in lora_layers(model).items():
        _begin(layer, name, initial, cored=method.begins == "principal")
        if rank is not None and rank != adapter.rank:
            _narrow(layer, rank)
    set_trained(model, method.factors(1))
    return model


def adapt(encoder: BertModel, config: LoraConfig) -> PeftModel:
    """Put LoRA on the encoder as peft does."""
    with warnings.catch_warnings():  # peft 0.21 reads a property that transformers 5.23 renames
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(encoder, config)
    assert isinstance(model, PeftModel)
    return model


def set_trained(encoder: PeftModel, trained: Collection[Factor]) -> None:
    """Let these factors be trained, and no others."""
    for layer in lora_layers(encoder).values():
        for factor, parameter in factors(layer).items():
            parameter.requires_grad_(factor in trained)


def lora_layers(encoder: PeftModel) -> Mapping[str, LoraLayer]:
    """The adapted layers, by name; found once, since every message asks for them."""
    if encoder not in _FOUND:
        _FOUND[encoder] = {name: layer for name, layer in encoder.named_modules() if isinstance(layer, LoraLayer)}
    return _FOUND[encoder]


def adapted_layers(encoder: PeftModel) -> dict[int, nn.Module]:
    """Those of a BERT's layers in which anything is adapted, by number, the lowest first."""
    bert = encoder.get_base_model()
    assert isinstance(bert, BertModel)
    return {
        number: layer
        for number, layer in enumerate(bert.encoder.layer)
        if any(isinstance(part, LoraLayer) for part in layer.modules())
    }


def frozen(layer: LoraLayer) -> nn.Linear:
    """What a layer adapts."""
    linear = layer.get_base_layer()
    assert isinstance(linear, nn.Linear)
    return linear


def factors(layer: LoraLayer) -> dict[Factor, nn.Parameter]:
    """The factors of one layer's product: A [rank, inputs], B [outputs, rank], and R [rank, rank] if it has one."""
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    found: dict[Factor, Any] = {"A": a.weight, "B": b.weight}
    if isinstance(a, Cored):
        found["R"] = a.core.weight
    return found


def rank_of(encoder: PeftModel) -> int:
    """The adapter's rank on this machine."""
    return int(factors(next(iter(lora_layers(encoder).values())))["A"].shape[0])


def lora_config(adapter: Adapter, numbers: Collection[int] = ()) -> LoraConfig:
    """Peft's description of the adapter, in the encoder's layers of these numbers; in all if none are given."""
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        use_rslora=adapter.rslora,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.target_modules),
        layers_to_transform=sorted(numbers) or None,
        layers_pattern="layer" if numbers else None,
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )


def _add(step: Product, before: Product | None) -> Product:
    """The sum of two products, with no more components than the layer has."""
    if before is None:
        return step
    total = stack([before, step])
    return compress(total) if total[0].shape[1] > min(total[0].shape[0], total[1].shape[1]) else total


def _begin(layer: LoraLayer, name: str, initial: Arrays, *, cored: bool) -> None:
    """Give a layer's factors their first values, after a core was put behind A if there is one."""
    if cored:
        a = layer.lora_A["default"]
        assert isinstance(a, nn.Linear)
        layer.lora_A["default"] = Cored(a)
    with torch.no_grad():
        for factor, parameter in factors(layer).items():
            parameter.copy_(torch.from_numpy(initial[factor_name(name, factor)]))


def _narrow(layer: LoraLayer, rank: int) -> None:
    """Keep the first components of A and B only."""
    with torch.no_grad():
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        assert isinstance(a, nn.Linear)
        assert isinstance(b, nn.Linear)
        narrow = nn.Linear(a.in_features, rank, bias=False), nn.Linear(rank, b.out_features, bias=False)
        narrow[0].weight.copy_(a.weight[:rank])
        narrow[1].weight.copy_(b.weight[:, :rank])
        layer.lora_A["default"], layer.lora_B["default"] = narrow
        layer.r["default"] = rank
