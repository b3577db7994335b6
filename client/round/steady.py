"""A model is left as it was, except for what was trained, however the work on it ends."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from shared.model.multitask import MultiTaskModel

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where torch keeps a module's hooks, by number."""
LEFTOVERS = ("activations", "max_batch_len", "autograd_grad_sample_hooks")
"""What opacus leaves on modules when a step dies between its forward and its backward pass."""
GRADIENTS = ("grad_sample", "summed_grad", "_current_grad_sample", "_forward_counter")
"""The same on parameters."""


@contextmanager
def steady(model: MultiTaskModel) -> Iterator[None]:
    """After the block: evaluation mode, no gradients, no hooks but those before, the same parameters trainable.

    If the block raises, the frozen weights are also what they were, and have the version that they had.
    """
    modules, parameters = model.flat.modules, model.flat.parameters  # the work neither adds one nor replaces one
    trained = [parameter.requires_grad for parameter in parameters]
    hooks = {module: _hooks(module) for module in _hooked(modules)}
    try:
        with model.base.unless_refused():
            yield
    finally:
        for module in _hooked(modules):
            _drop_hooks(module, hooks.get(module, {}))
        for module in modules:
            own = vars(module)
            own["training"] = False
            _drop(module, own, LEFTOVERS)
        for parameter, was in zip(parameters, trained, strict=True):
            if parameter.requires_grad != was:
                parameter.requires_grad_(was)
            parameter.grad = None
            _drop(parameter, vars(parameter), GRADIENTS)


def _hooked(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that have any of HOOKS; in one line, because every message asks hundreds of modules."""
    return [
        module
        for module in modules
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    ]


def _hooks(module: nn.Module) -> dict[str, set[int]]:
    """The numbers of a module's hooks, by where torch keeps them; most modules have none."""
    return {kind: set(hooks) for kind in HOOKS if (hooks := getattr(module, kind))}


def _drop_hooks(module: nn.Module, known: dict[str, set[int]]) -> None:
    for kind in HOOKS:
        if hooks := getattr(module, kind):
            for number in set(hooks) - known.get(kind, set()):
                del hooks[number]


def _drop(of: Any, own: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in own:
            delattr(of, name)
