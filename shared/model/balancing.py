"""Ways to move the tasks' weights while training: `training.combine` of the federation file.

Every way is a `Balancer`: functions over plain numbers. It sees the mean loss of each task, and where it asks for them
the norms of the tasks' gradients, and answers with one factor per task for the rows of the next batch. The fixed weight
of a task (`weight` of its table) multiplies that factor. The state is the institution's own and is never sent; it goes
on from round to round while the institution's daemon lives, and starts afresh after that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

State = Mapping[str, Mapping[str, float]]
"""What a balancer remembers: named quantities, a number per task."""
Losses = Mapping[str, float]
"""Mean loss per row, of each task that the batch or the epoch held."""
Norms = Mapping[str, float]
"""Norm of the gradient of each task's part of the unweighted loss, with respect to the last shared layer."""

LOG_VARIANCE_STEP = 0.1
"""Step size of the log variances."""
LEAST_LOG_VARIANCE = math.log(0.01)
"""Floor of the log variances: a task that is learnt to the end gets a factor of at most 50, not of any size."""
GRADNORM_STEP = 0.025
"""Step size of GradNorm's log weights, as in the paper's experiments."""
GRADNORM_ASYMMETRY = 1.5
"""GradNorm's alpha: how strongly tasks that learn slowly are pulled up; the paper's choice for its main experiment."""
DWA_TEMPERATURE = 2.0
"""Dynamic weight average's T: the higher, the more equal the weights; the paper's choice."""


@dataclass(frozen=True)
class Balancer:
    """One way to weigh tasks, as plain functions."""

    init: Callable[[Sequence[str]], State]
    """The state before anything was measured, for the tasks that the institution holds."""
    weights: Callable[[State], dict[str, float]]
    """The factor of each task's rows."""
    after_step: Callable[[State, Losses, Norms], State]
    """The state after a batch; to be called only if it `needs_losses`."""
    after_epoch: Callable[[State, Losses], State]
    """The state after an epoch."""
    needs_losses: bool = False
    needs_norms: bool = False


def uncertainty_init(tasks: Sequence[str]) -> State:
    """Log variances s_t = log 1/2, which make every factor 1."""
    return {"log_variance": dict.fromkeys(tasks, math.log(0.5))}


def uncertainty_weights(state: State) -> dict[str, float]:
    """The factor exp(-s_t) / 2 of a task whose loss has the variance exp(s_t)."""
    return {task: math.exp(-s) / 2 for task, s in state["log_variance"].items()}


def uncertainty_after_step(state: State, losses: Losses, norms: Norms) -> State:
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, arXiv 1705.07115, equation 7).

    The loss of a task is L_t / (2 sigma_t^2) + log sigma_t, which with s_t = log sigma_t^2 is
    exp(-s_t) / 2 * L_t + s_t / 2 (section 3.2). Its derivative by s_t, (1 - exp(-s_t) L_t) / 2, needs no backward pass;
    s_t descends along it, so that the factor tends to 1 / (2 L_t). The derivative is clipped to [-1/2, 1/2]: it has no
    other lower bound, and one surprising batch would switch a well-learnt task off.
    """
    moved = dict(state["log_variance"])
    for task, loss in losses.items():
        slope = max(-0.5, (1 - math.exp(-moved[task]) * loss) / 2)
        moved[task] = max(LEAST_LOG_VARIANCE, moved[task] - LOG_VARIANCE_STEP * slope)
    return {"log_variance": moved}


def gradnorm_init(tasks: Sequence[str]) -> State:
    """All factors 1; initial losses are those of each task's first batch."""
    return {"weight": dict.fromkeys(tasks, 1.0), "initial_loss": {}}


def gradnorm_weights(state: State) -> dict[str, float]:
    """The factors as they are; their mean is 1."""
    return dict(state["weight"])


def gradnorm_after_step(state: State, losses: Losses, norms: Norms) -> State:
    """GradNorm (Chen et al. 2018, arXiv 1711.02257, equation 2 and algorithm 1).

    G_t = w_t * |gradient of task t| is pulled towards mean(G) * r_t^alpha, where r_t is the task's loss relative to its
    initial one, over the mean of that ratio: L_grad = sum_t |G_t - mean(G) * r_t^alpha|, the target held constant.
    The step is taken in log w_t and relative to mean(G), so that weights stay positive and the scale of gradients does
    not matter; then weights are renormalised to add up to the number of tasks, as in the paper. Tasks that the batch
    does not hold are not compared.
    """
    initial = {**{task: loss for task, loss in losses.items() if loss > 0}, **state["initial_loss"]}
    weights = dict(state["weight"])
    compared = [task for task in norms if initial.get(task, 0.0) > 0]
    size = {task: weights[task] * norms[task] for task in compared}
    mean_size = sum(size.values()) / max(1, len(size))
    ratios = {task: losses[task] / initial[task] for task in compared}
    mean_ratio = sum(ratios.values()) / max(1, len(ratios))
    if len(compared) > 1 and mean_size > 0 and mean_ratio > 0:
        for task in compared:
            target = mean_size * (ratios[task] / mean_ratio) ** GRADNORM_ASYMMETRY
            slope = (size[task] > target) - (size[task] < target)
            weights[task] *= math.exp(-GRADNORM_STEP * slope * size[task] / mean_size)
        scale = len(weights) / sum(weights.values())
        weights = {task: weight * scale for task, weight in weights.items()}
    return {"weight": weights, "initial_loss": initial}


def dwa_init(tasks: Sequence[str]) -> State:
    """No epochs yet; the tasks are kept as keys."""
    return {"tasks": dict.fromkeys(tasks, 1.0), "last": {}, "before": {}}


def dwa_weights(state: State) -> dict[str, float]:
    """Dynamic weight average (Liu, Johns and Davison 2019, arXiv 1803.10704, equation 7).

    The factor of task t is K * exp(r_t / T) / sum_i exp(r_i / T), where r_t = L_t(e - 1) / L_t(e - 2) over the mean
    losses of the two epochs before, K is the number of tasks and T = 2. While a task lacks two epochs, r_t is 1.
    """
    last, before = state["last"], state["before"]
    ratios = {task: last[task] / before[task] if before.get(task, 0.0) > 0 else 1.0 for task in state["tasks"]}
    highest = max(ratios.values(), default=0.0)  # taken off every exponent: a loss that was almost zero may explode
    powers = {task: math.exp((ratio - highest) / DWA_TEMPERATURE) for task, ratio in ratios.items()}
    total = sum(powers.values())
    return {task: len(powers) * power / total for task, power in powers.items()}


def dwa_after_epoch(state: State, losses: Losses) -> State:
    """Remember the epoch's mean losses; a task that it did not hold keeps what it had."""
    last = state["last"]
    moved = {task: last[task] for task in losses if task in last}
    return {"tasks": state["tasks"], "last": {**last, **losses}, "before": {**state["before"], **moved}}


def _no_state(tasks: Sequence[str]) -> State:
    return {}


def _equal(state: State) -> dict[str, float]:
    return {}


def _keep_after_step(state: State, losses: Losses, norms: Norms) -> State:
    return state


def _keep_after_epoch(state: State, losses: Losses) -> State:
    return state


EQUAL = Balancer(_no_state, _equal, _keep_after_step, _keep_after_epoch)
"""Every factor stays 1."""
BALANCERS = {
    "fixed": EQUAL,
    "uncertainty": Balancer(
        uncertainty_init, uncertainty_weights, uncertainty_after_step, _keep_after_epoch, needs_losses=True
    ),
    "gradnorm": Balancer(
        gradnorm_init, gradnorm_weights, gradnorm_after_step, _keep_after_epoch, needs_losses=True, needs_norms=True
    ),
    "dwa": Balancer(dwa_init, dwa_weights, _keep_after_step, dwa_after_epoch),
    "pcgrad": EQUAL,
}
"""By the name in `training.combine`; "pcgrad" moves no weights, see `shared.model.losses.project_conflicts`."""
