"""Optimizers and schedules."""

from typing import get_args

import pytest
import torch

from client.train.optimizers import SCHEDULES, build_optimizer, learning_rate, set_learning_rate, warm_up
from shared.federation import Training


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"), [("linear", 0.5, 0.0), ("cosine", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_the_rate_after_the_warm_up(schedule: str, halfway: float, end: float) -> None:
    training = Training.model_validate({"learning_rate": 2.0, "warmup": 0.1, "schedule": schedule})
    assert learning_rate(training, 0.1) == pytest.approx(2.0)
    assert learning_rate(training, 0.55) == pytest.approx(2.0 * halfway)
    assert learning_rate(training, 1.0) == pytest.approx(2.0 * end)


def test_a_cosine_falls_slowly_at_both_ends() -> None:
    training = Training(learning_rate=1.0, warmup=0.0, schedule="cosine")
    assert learning_rate(training, 0.1) > 0.97
    assert learning_rate(training, 0.25) == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert learning_rate(training, 0.9) < 0.03


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_from_more_than_nothing(schedule: str) -> None:
    training = Training.model_validate({"learning_rate": 1.0, "warmup": 0.1, "schedule": schedule})
    rates = [learning_rate(training, done) for done in (0.0, 0.05, 0.0999)]
    assert 0 < rates[0] < rates[1] < rates[2] <= 1.0


def test_rounds_continue_one_schedule() -> None:
    assert learning_rate(Training(learning_rate=1.0, warmup=0.0), (3 - 1) / 4) == pytest.approx(0.5)


def test_the_federation_file_names_exactly_the_schedules() -> None:
    assert set(get_args(Training.model_fields["schedule"].annotation)) == set(SCHEDULES)


def steps(training: Training, gradients: list[float]) -> list[float]:
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build_optimizer([parameter], training)
    set_learning_rate(optimizer, 0.1)
    values = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        values.append(parameter.item())
    return values


@pytest.mark.parametrize(("own", "rate"), [(None, 0.1), (0.4, 0.2)])
def test_heads_may_learn_at_their_own_rate(own: float | None, rate: float) -> None:
    adapter, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    training = Training(learning_rate=0.2, head_learning_rate=own, weight_decay=0.0, optimizer="sgd", momentum=0.0)
    optimizer = build_optimizer([adapter], training, [head])
    set_learning_rate(optimizer, 0.1)  # half of the highest
    adapter.grad = head.grad = torch.ones(1)
    optimizer.step()
    assert adapter.item() == pytest.approx(-0.1)
    assert head.item() == pytest.approx(-rate)


def test_sgd_has_momentum_and_decay_in_the_gradient() -> None:
    value, velocity, slow = 1.0, 0.0, []
    for gradient in (0.5, -0.2, 0.1):
        velocity = 0.8 * velocity + gradient + 0.3 * value
        value -= 0.1 * velocity
        slow.append(value)
    training = Training(optimizer="sgd", momentum=0.8, weight_decay=0.3)
    assert steps(training, [0.5, -0.2, 0.1]) == pytest.approx(slow)


def test_adamw_decays_apart_from_the_gradient() -> None:
    value, first, second, slow = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate((0.5, -0.2, 0.1), start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        value -= 0.1 * 0.3 * value
        value -= 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        slow.append(value)
    assert steps(Training(weight_decay=0.3), [0.5, -0.2, 0.1]) == pytest.approx(slow)


def test_the_first_steps_of_a_round_are_small() -> None:
    assert [warm_up(Training(), step, 40) for step in (0, 1, 3, 4, 5, 39)] == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_short_round_warms_up_for_half_of_it_and_a_single_step_not_at_all() -> None:
    assert [warm_up(Training(), step, 5) for step in range(5)] == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert warm_up(Training(), 0, 1) == 1.0


def test_sgd_has_no_moments_to_wait_for() -> None:
    assert warm_up(Training(optimizer="sgd"), 0, 40) == 1.0
