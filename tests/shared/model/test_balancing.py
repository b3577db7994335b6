"""Balancers, each against its paper's equations done slowly with autograd."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from shared.federation import Training
from shared.model import balancing
from shared.model.balancing import BALANCERS, Losses, Norms

TASKS = ("a", "b", "c")


def measurements(steps: int, seed: int = 0) -> list[tuple[Losses, Norms]]:
    """Losses that fall at different speeds, and norms; a task is now and then missing."""
    rng = np.random.default_rng(seed)
    found: list[tuple[Losses, Norms]] = []
    for step in range(steps):
        present = [task for i, task in enumerate(TASKS) if (step + i) % 4]
        speeds = dict(zip(TASKS, (0.05, 0.01, 0.0), strict=True))
        losses = {t: float(np.exp(-speeds[t] * step) * rng.uniform(0.8, 1.2)) for t in present}
        found.append((losses, {t: float(rng.uniform(0.1, 2.0)) for t in present}))
    return found


def test_the_federation_file_names_exactly_the_balancers() -> None:
    assert get_args(Training.model_fields["combine"].annotation) == tuple(BALANCERS)


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_begins_with_factors_of_one(name: str) -> None:
    balancer = BALANCERS[name]
    factors = balancer.weights(balancer.init(TASKS))
    assert all(factors.get(task, 1.0) == pytest.approx(1.0) for task in TASKS)


@pytest.mark.parametrize("name", BALANCERS)
def test_no_state_is_changed_in_place(name: str) -> None:
    balancer = BALANCERS[name]
    state = balancer.init(TASKS)
    before = {key: dict(values) for key, values in state.items()}
    moved = balancer.after_epoch(balancer.after_step(state, {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 3.0}), {"a": 2.0})
    assert before == {key: dict(values) for key, values in state.items()}
    assert name in ("fixed", "pcgrad") or moved != state


def test_uncertainty_equals_gradient_descent_by_autograd() -> None:
    state = balancing.uncertainty_init(TASKS)
    slow = {task: torch.tensor(math.log(0.5), dtype=torch.float64, requires_grad=True) for task in TASKS}
    for losses, norms in measurements(40):
        state = balancing.uncertainty_after_step(state, losses, norms)
        for task, loss in losses.items():
            s = slow[task]
            (gradient,) = torch.autograd.grad(torch.exp(-s) / 2 * loss + s / 2, s)
            with torch.no_grad():
                s -= balancing.LOG_VARIANCE_STEP * gradient.clamp(min=-0.5)
        factors = balancing.uncertainty_weights(state)
        for task, s in slow.items():
            assert factors[task] == pytest.approx(math.exp(-s.item()) / 2, rel=1e-9)


def test_uncertainty_tends_to_half_the_inverse_loss_and_never_beyond_its_floor() -> None:
    state = balancing.uncertainty_init(TASKS)
    for _ in range(400):
        state = balancing.uncertainty_after_step(state, {"a": 4.0, "b": 0.25, "c": 0.0}, {})
    assert balancing.uncertainty_weights(state) == pytest.approx({"a": 1 / 8, "b": 2.0, "c": 50.0}, rel=1e-3)
    surprised = balancing.uncertainty_after_step(state, {"c": 1e6}, {})
    assert balancing.uncertainty_weights(surprised)["c"] > 45


def test_gradnorm_equals_its_loss_differentiated_by_autograd() -> None:
    state = balancing.gradnorm_init(TASKS)
    slow = dict.fromkeys(TASKS, 1.0)
    first: dict[str, float] = {}
    for losses, norms in measurements(60):
        state = balancing.gradnorm_after_step(state, losses, norms)
        logs = {t: torch.tensor(math.log(slow[t]), dtype=torch.float64, requires_grad=True) for t in losses}
        for task, loss in losses.items():
            first.setdefault(task, loss)
        sizes = {task: torch.exp(logs[task]) * norms[task] for task in losses}
        mean = torch.stack(list(sizes.values())).mean().detach()
        rates = {task: losses[task] / first[task] for task in losses}
        target = {t: mean * (rates[t] / (sum(rates.values()) / len(rates))) ** 1.5 for t in losses}
        torch.stack([(sizes[task] - target[task]).abs() for task in losses]).sum().backward()  # type: ignore[no-untyped-call]
        for task, log in logs.items():
            assert log.grad is not None
            slow[task] = math.exp(log.item() - balancing.GRADNORM_STEP * log.grad.item() / mean.item())
        scale = len(TASKS) / sum(slow.values())
        slow = {task: weight * scale for task, weight in slow.items()}
        assert balancing.gradnorm_weights(state) == pytest.approx(slow, rel=1e-9)
    assert max(slow.values()) > 1.2 * min(slow.values())


def test_gradnorm_levels_norms_and_favours_what_learns_slowly() -> None:
    level = slow = balancing.gradnorm_init(("a", "b"))
    for step in range(400):
        level = balancing.gradnorm_after_step(level, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 4.0})
        fast = math.exp(-step / 50)
        slow = balancing.gradnorm_after_step(slow, {"a": fast, "b": 1.0}, {"a": 1.0, "b": 1.0})
    weights = balancing.gradnorm_weights(level)
    assert weights["a"] == pytest.approx(4 * weights["b"], rel=0.15)
    assert balancing.gradnorm_weights(slow)["b"] > 1.5


@pytest.mark.parametrize(
    ("losses", "norms"), [({"a": 1.0}, {"a": 1.0}), ({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}), ({"a": 0.0}, {})]
)
def test_gradnorm_stays_where_nothing_can_be_compared(losses: Losses, norms: Norms) -> None:
    state = balancing.gradnorm_after_step(balancing.gradnorm_init(TASKS), losses, norms)
    assert balancing.gradnorm_weights(state) == dict.fromkeys(TASKS, 1.0)


def test_dwa_equals_its_equation_over_the_two_epochs_before() -> None:
    epochs: list[Losses] = [
        {"a": 3.0, "b": 2.0, "c": 1.0},
        {"a": 1.5, "b": 1.9, "c": 1.1},
        {"a": 1.0, "b": 1.0, "c": 1.0},
    ]
    state = balancing.dwa_init(TASKS)
    for number, losses in enumerate(epochs):
        state = balancing.dwa_after_epoch(state, losses)
        if number == 0:
            assert balancing.dwa_weights(state) == pytest.approx(dict.fromkeys(TASKS, 1.0))
            continue
        ratios = torch.tensor([losses[task] / epochs[number - 1][task] for task in TASKS], dtype=torch.float64)
        slow = 3 * torch.softmax(ratios / 2, 0)
        assert balancing.dwa_weights(state) == pytest.approx(dict(zip(TASKS, slow.tolist(), strict=True)))


def test_dwa_survives_missing_tasks_and_losses_of_zero() -> None:
    state = balancing.dwa_init(TASKS)
    for losses in ({"a": 1e-9, "b": 1.0}, {"a": 5.0, "b": 0.0}, {"a": 5.0, "b": 1.0}, {"b": 1.0}):
        state = balancing.dwa_after_epoch(state, losses)
        weights = balancing.dwa_weights(state)
        assert sum(weights.values()) == pytest.approx(3.0)
    assert state["before"]["a"] == 5.0


def test_who_reads_the_losses_of_every_step_says_so() -> None:
    for balancer in BALANCERS.values():
        assert balancer.needs_losses == (balancer.after_step is not balancing._keep_after_step)
