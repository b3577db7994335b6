"""What is shared: the one place that maps a model's trainable state to named arrays and back.

Names are `adapter/<peft's own name>` for LoRA factors and `head/<task>/<parameter>` for heads. Nothing else has a name
here; what may stand beside such arrays in a message or a checkpoint is in `shared.state`. Names alone need no torch: it
is imported where a model is at hand.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np

from shared.codec import Arrays, CodecName, FloatCodec
from shared.errors import ProtocolError, shown
from shared.federation.methods import Factor, Kept, Method

if TYPE_CHECKING:
    import torch

    from shared.model.multitask import MultiTaskModel

T = TypeVar("T")
ADAPTER = "adapter/"
HEAD = "head/"
PREFIX = "base_model.model."
"""What peft puts before the names of the encoder's layers."""


def task_of(name: str) -> str | None:
    """The task whose head the array belongs to; None for the adapter."""
    return name.split("/", 2)[1] if name.startswith(HEAD) else None


@lru_cache(1024)
def factor_of(name: str) -> Factor | None:
    """Which factor of the adapter's product the array is; None for a head."""
    return next((factor for factor in get_args(Factor) if f".lora_{factor}." in name), None)


def layer_of(name: str) -> str:
    """The linear layer that a factor belongs to."""
    return name.removeprefix(ADAPTER).rsplit(".lora_", 1)[0]


def factor_name(layer: str, factor: Factor) -> str:
    """The array that is a layer's factor."""
    return f"{ADAPTER}{layer}.lora_{factor}.weight"


def is_trained(name: str, method: Method, round: int) -> bool:
    """Whether institutions train the array in a round (counted from 1)."""
    factor = factor_of(name)
    return factor is None or factor in method.factors(round)


def is_kept(name: str, keeps: Collection[Kept]) -> bool:
    """Whether the array stays at home: `keeps` as `Method.keeps`."""
    return (factor_of(name) or "heads") in keeps


def is_frozen(name: str, method: Method) -> bool:
    """Whether the array is of the adapter and never changes, being what everybody begins with."""
    factor = factor_of(name)
    return factor is not None and (method.frozen or (method.begins == "principal" and factor != "R"))


def is_sent(name: str, method: Method, round: int) -> bool:
    """Whether an update of the array leaves an institution in a round."""
    return is_trained(name, method, round) and not is_kept(name, method.keeps)


def is_received(name: str, method: Method) -> bool:
    """Whether an institution receives the array before every round: what it does not have already."""
    return not is_kept(name, method.keeps) and not is_frozen(name, method)


def base_codec(codec: CodecName) -> FloatCodec:
    """How steps of the frozen weights are encoded where the state travels as `codec`."""
    return "float32" if codec == "float32" else "float16"


def of_tasks(named: Mapping[str, T], tasks: Collection[str]) -> dict[str, T]:
    """The adapter and the heads of `tasks` only: arrays, or whatever else has their names."""
    return {name: value for name, value in named.items() if (task := task_of(name)) is None or task in tasks}


def tensors(model: "MultiTaskModel") -> dict[str, "torch.nn.Parameter"]:
    """The model's shared parameters by name, in a fixed order; found once."""
    if model.named:
        return model.named
    from shared.model.lora import factors, lora_layers

    named: dict[str, torch.nn.Parameter] = {
        factor_name(layer, factor): parameter
        for layer, module in lora_layers(model.encoder).items()
        for factor, parameter in factors(module).items()
    }
    for task, head in model.heads.items():
        named |= {f"{HEAD}{task}/{name}": parameter for name, parameter in head.named_parameters()}
    model.named = dict(sorted(named.items()))
    return model.named


def get_state(model: "MultiTaskModel") -> Arrays:
    """A float32 copy of the shared state."""
    import torch

    return {name: p.detach().to("cpu", torch.float32).numpy().copy() for name, p in tensors(model).items()}


def set_state(model: "MultiTaskModel", arrays: Mapping[str, np.ndarray], *, received: Method | None = None) -> None:
    """Load shared arrays into the model; heads that `arrays` lacks stay as they are.

    Args:
        model: Changed in place.
        arrays: The whole adapter and some heads, or of them what institutions receive under the method `received`.
        received: See `is_received`.

    Raises:
        ProtocolError: An array is unknown, an adapter array is missing, or a shape differs; nothing was changed.
    """
    own = tensors(model)
    expected = {name: tuple(p.shape) for name, p in own.items() if received is None or is_received(name, received)}
    check_shapes(of_tasks(expected, _tasks(arrays)), arrays)
    set_some(model, arrays)


def set_some(model: "MultiTaskModel", arrays: Mapping[str, np.ndarray]) -> None:
    """Load arrays that are known to be the model's."""
    import torch

    own = tensors(model)
    with torch.no_grad():
        for name, array in arrays.items():
            own[name].copy_(torch.tensor(array, dtype=torch.float32))  # an array for reading only becomes one


def difference(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray]) -> Arrays:
    """`new - old` over the names of `old`."""
    return {name: new[name] - array for name, array in old.items()}


def check_shapes(expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray]) -> None:
    """ProtocolError unless these arrays came, no others, and in these shapes."""
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ProtocolError(f"Expected array {missing[0]}, but it is missing ({len(missing)} missing in all).")
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise ProtocolError(f"Array {shown(unknown[0])} is not among those agreed ({len(unknown)} such in all).")
    for name in sorted(expected):
        if arrays[name].shape != expected[name]:
            raise ProtocolError(f"Expected {name} with shape {expected[name]}, but {arrays[name].shape} came.")


def _tasks(arrays: Mapping[str, np.ndarray]) -> set[str]:
    return {task for name in arrays if (task := task_of(name)) is not None}
