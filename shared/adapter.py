"""What is shared: the one place that maps a model's trainable state to named arrays and back.

Names are `adapter/<peft's own name>` for LoRA factors and `head/<task>/<parameter>` for heads. Nothing else has a
name here, so nothing else can leave an institution.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from shared.codec import Arrays
from shared.errors import ProtocolError
from shared.federation import Method
from shared.model import FROZEN_A, MultiTaskModel

ADAPTER = "adapter/"
HEAD = "head/"


def task_of(name: str) -> str | None:
    """The task whose head the array belongs to; None for the adapter."""
    return name.split("/", 2)[1] if name.startswith(HEAD) else None


def is_trained(name: str, method: Method) -> bool:
    """Whether institutions train the array, and so send an update of it, under `rounds.method`."""
    return not (method in FROZEN_A and ".lora_A." in name)


def select(arrays: Mapping[str, np.ndarray], tasks: Collection[str]) -> Arrays:
    """The adapter and the heads of `tasks` only."""
    return {name: array for name, array in arrays.items() if (task := task_of(name)) is None or task in tasks}


def tensors(model: MultiTaskModel) -> dict[str, torch.nn.Parameter]:
    """The model's shared parameters by name, in a fixed order."""
    named = {
        ADAPTER + name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.encoder.named_parameters()
        if ".lora_" in name
    }
    for task, head in model.heads.items():
        named |= {f"{HEAD}{task}/{name}": parameter for name, parameter in head.named_parameters()}
    return dict(sorted(named.items()))


def get_state(model: MultiTaskModel) -> Arrays:
    """A float32 copy of the shared state."""
    return {name: p.detach().to("cpu", torch.float32).numpy().copy() for name, p in tensors(model).items()}


def set_state(model: MultiTaskModel, arrays: Mapping[str, np.ndarray]) -> None:
    """Load shared arrays into the model; heads that `arrays` lacks stay as they are.

    Raises ProtocolError if an array is unknown, an adapter array is missing, or a shape differs.
    """
    own = tensors(model)
    check_shapes({name: tuple(p.shape) for name, p in own.items()}, arrays, tasks=_tasks(arrays))
    with torch.no_grad():
        for name, array in arrays.items():
            own[name].copy_(torch.from_numpy(np.asarray(array, dtype=np.float32)))


def difference(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray]) -> Arrays:
    """`new - old` over the names of `old`."""
    return {name: new[name] - array for name, array in old.items()}


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray], *, tasks: Collection[str]
) -> None:
    """ProtocolError unless `arrays` are exactly the adapter and the heads of `tasks`, in the expected shapes."""
    wanted = {name for name in expected if (task := task_of(name)) is None or task in tasks}
    if missing := sorted(wanted - arrays.keys()):
        raise ProtocolError(f"Expected array {missing[0]}, but it is missing ({len(missing)} missing in all).")
    if unknown := sorted(arrays.keys() - wanted):
        raise ProtocolError(f"Array {unknown[0]} is not among those agreed ({len(unknown)} such in all).")
    for name in sorted(wanted):
        if arrays[name].shape != expected[name]:
            raise ProtocolError(f"Expected {name} with shape {expected[name]}, but {arrays[name].shape} came.")


def _tasks(arrays: Mapping[str, np.ndarray]) -> set[str]:
    return {task for name in arrays if (task := task_of(name)) is not None}
