"""Exact composition of Gaussian mechanisms against accountants that know nothing of it."""

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from client.privacy import gaussian
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for, rdp_epsilon


def by_pld(noise: float, times: int, delta: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_accounting.GaussianDpEvent(noise), times)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize("delta", [1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize(("target", "times"), [(0.5, 2), (1.0, 12), (3.0, 5), (8.0, 40)])
def test_the_noise_of_planned_evaluations_costs_what_was_planned(target: float, times: int, delta: float) -> None:
    noise = noise_multiplier_for(target, delta, 1.0, times)
    mechanisms = [Mechanism(noise, 1.0, 1)] * times
    assert epsilon(mechanisms, delta) <= target
    assert epsilon(mechanisms, delta) == pytest.approx(target, rel=1e-7)
    assert by_pld(noise, times, delta) == pytest.approx(target, rel=1e-3)
    assert rdp_epsilon(mechanisms, delta) > target, "the looser bound is above"


def test_different_noises_add_up_exactly() -> None:
    mechanisms = [Mechanism(3.0, 1.0, 2), Mechanism(5.0, 1.0, 7)]
    together = 1 / math.sqrt(2 / 9 + 7 / 25)
    assert epsilon(mechanisms, 1e-5) == epsilon([Mechanism(together, 1.0, 1)], 1e-5)
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for each in mechanisms:
        accountant.compose(dp_accounting.GaussianDpEvent(each.noise_multiplier), each.steps)
    assert epsilon(mechanisms, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_at_the_edges() -> None:
    assert gaussian.epsilon_of(0.0, 1e-5) == 0
    assert gaussian.epsilon_of(math.inf, 1e-5) == math.inf
    assert gaussian.epsilon_of(0.1, 0.5) == 0, "delta alone covers it"
    assert gaussian.epsilon_of(gaussian.mu_for(1000.0, 1e-12), 1e-12) <= 1000
    assert epsilon([Mechanism(0.0, 1.0, 1)], 1e-5) == math.inf
