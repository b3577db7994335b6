"""How a gradient becomes a step: the optimizer and the learning rate of `[training]`."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from shared.federation import Training

WARM_STEPS = 5
"""Steps of AdamW in which its moments are of too few batches to be trusted with the whole learning rate."""


def build_optimizer(
    adapter: Iterable[torch.nn.Parameter], training: Training, heads: Iterable[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimizer of adapter and heads, its learning rate yet to be set by `set_learning_rate`.

    AdamW decays weights apart from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2); SGD, with
    heavy-ball momentum, adds the decay to it. Either is one call over all parameters.
    """
    groups = [{"params": list(adapter), "scale": 1.0}, {"params": list(heads), "scale": head_scale(training)}]
    parameters = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": training.weight_decay, "fused": True}
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=training.momentum, **options)
    return torch.optim.AdamW(parameters, **options)


def head_scale(training: Training) -> float:
    """The heads' learning rate in units of the adapter's."""
    return 1.0 if training.head_learning_rate is None else training.head_learning_rate / training.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the adapter, and in proportion that of the heads."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(training: Training, done: float) -> float:
    """The learning rate at the fraction `done` of the whole run: a linear warm-up, then `training.schedule`."""
    if done < training.warmup:
        return training.learning_rate * (done + 1e-3) / (training.warmup + 1e-3)
    return training.learning_rate * SCHEDULES[training.schedule](done, training.warmup)


def warm_up(training: Training, step: int, steps: int) -> float:
    """The share of the learning rate that a step of a round may take.

    AdamW begins every round without moments, and its first step then moves each parameter by the whole learning rate
    towards the sign of one batch's gradient, noise or not. So the first WARM_STEPS rise linearly (at most half of the
    round). SGD has no such step.

    Args:
        training: Which optimizer.
        step: Steps of the round before this one.
        steps: Of the whole round.
    """
    rising = min(WARM_STEPS, steps // 2) if training.optimizer == "adamw" else 0
    return min(1.0, (step + 1) / rising) if rising else 1.0


def _linear(done: float, warmup: float) -> float:
    return (1 - done) / (1 - warmup)


def _cosine(done: float, warmup: float) -> float:
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def _constant(done: float, warmup: float) -> float:
    return 1.0


SCHEDULES: Mapping[str, Callable[[float, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
}
"""After the warm-up: the share of the highest learning rate, by fraction of the run and of its warm-up."""
