"""What holds an institution's training back from drifting off where the others go, step by step.

FedProx (Li et al. 2020, arXiv 1812.06127, equation 2) adds mu / 2 |w - w_0|^2 to the loss, with w_0 the parameters that
the round began with. Its gradient mu (w - w_0) joins that of the records before clipping. It knows nothing of the
records but w, so with [privacy] it joins after the noise and costs nothing.

SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1) adds c - c_i to every gradient: how everybody's mean
gradient c differs from the site's own c_i. It is added after clipping, so that what the round moved, divided by its
learning rates, is the mean of the clipped gradients and nothing else (`renew`).
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from client.train.hooks import Hook
from shared.adapter import task_of, tensors
from shared.codec import Arrays
from shared.model.multitask import MultiTaskModel

Pulls = list[tuple[torch.nn.Parameter, torch.Tensor]]
"""Parameters, each with what its gradient needs."""


class Proximal(Hook):
    """Pulls every step back to where the round began (FedProx).

    Args:
        mu: How strongly.
    """

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._held: Pulls = []

    def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        """Remember where."""
        self._held = anchors(model, tasks)

    def on_gradient(self) -> None:
        """Pull."""
        pull(self._held, self._mu)


class Correction(Hook):
    """Corrects every step (SCAFFOLD).

    Args:
        arrays: c - c_i, by array.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._held: Pulls = []

    def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        """Find the parameters."""
        self._held = corrections(model, tasks, self._arrays)

    def before_step(self) -> None:
        """Correct."""
        correct(self._held)


def anchors(model: MultiTaskModel, tasks: Collection[str]) -> Pulls:
    """The trained parameters of the adapter and of the tasks' heads, each with its value as it is now."""
    return [(parameter, parameter.detach().clone()) for _, parameter in _trained(model, tasks)]


def pull(pulls: Pulls, mu: float) -> None:
    """Add the gradient of mu / 2 |w - w_0|^2 to every parameter's `grad`; one that has none yet gets it."""
    for parameter, anchor in pulls:
        _add(parameter, mu * (parameter.detach() - anchor))


def corrections(model: MultiTaskModel, tasks: Collection[str], arrays: Mapping[str, np.ndarray]) -> Pulls:
    """The trained parameters with c - c_i; those that it leaves as they are are not among them."""
    return [
        (parameter, torch.tensor(arrays[name]).to(parameter))
        for name, parameter in _trained(model, tasks)
        if name in arrays and arrays[name].any()
    ]


def correct(pulls: Pulls) -> None:
    """Add c - c_i to every parameter's `grad`; one that has none yet gets it."""
    for parameter, correction in pulls:
        _add(parameter, correction.clone())


def renew(
    shared: Mapping[str, np.ndarray],
    update: Mapping[str, np.ndarray],
    rates: tuple[float, float],
) -> Arrays:
    """By how much c_i changes after a round (option II): (x - y_i) / (sum of learning rates) - c.

    Args:
        shared: c as it came.
        update: y_i - x, of the arrays that `shared` has.
        rates: Sum of the learning rates of the round's steps: of the adapter, and of the heads.

    Returns:
        c_i after the round minus c_i before; zero where the round took no step.
    """
    changes: Arrays = {}
    for name, c in shared.items():
        rate = rates[0] if task_of(name) is None else rates[1]
        changes[name] = (-update[name] / rate - c if rate else np.zeros_like(c)).astype(np.float32)
    return changes


def _trained(model: MultiTaskModel, tasks: Collection[str]) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in tensors(model).items()
        if parameter.requires_grad and (task_of(name) is None or task_of(name) in tasks)
    ]


def _add(parameter: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient
