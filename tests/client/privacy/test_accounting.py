import math
from collections.abc import Sequence

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant

from client.privacy.accounting import _ORDERS, Mechanism, epsilon, noise_multiplier_for, rdp_epsilon
from shared.errors import ConfigError

DELTA = 1e-5
# The noise multipliers for 10 epochs by dp-accounting 0.6: records, batch, steps, delta, {epsilon: (by RDP, by PLD)}.
TABLE = [
    (2_000, 128, 156, 5e-5, {1: (3.151, 2.879), 3: (1.409, 1.310), 8: (0.842, 0.791)}),
    (2_000, 512, 39, 5e-5, {1: (6.124, 5.576), 3: (2.482, 2.286), 8: (1.251, 1.165)}),
    (10_000, 256, 390, 1e-5, {1: (2.256, 2.092), 3: (1.097, 1.034), 8: (0.721, 0.685)}),
    (10_000, 1024, 97, 1e-5, {1: (4.314, 3.975), 3: (1.809, 1.687), 8: (0.999, 0.940)}),
    (67_349, 256, 2630, 1e-5, {1: (1.121, 1.015), 3: (0.729, 0.681), 8: (0.542, 0.517)}),
    (67_349, 1024, 657, 1e-5, {1: (1.797, 1.673), 3: (0.951, 0.897), 8: (0.657, 0.625)}),
]
CELLS = [
    pytest.param(batch / records, steps, delta, target, *noises, id=f"{records}-{batch}-{target}")
    for records, batch, steps, delta, cells in TABLE
    for target, noises in cells.items()
]


def pld(mechanisms: Sequence[Mechanism], delta: float, mesh: float = 1e-3) -> float:
    accountant = PLDAccountant(value_discretization_interval=mesh)
    for each in mechanisms:
        step = dp_accounting.PoissonSampledDpEvent(
            each.sampling_rate, dp_accounting.GaussianDpEvent(each.noise_multiplier)
        )
        accountant.compose(step, each.steps)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("rate", "steps", "delta", "target", "by_rdp", "by_pld"), CELLS)
def test_epsilon_is_that_of_dp_accounting_within_one_percent(
    rate: float, steps: int, delta: float, target: float, by_rdp: float, by_pld: float
) -> None:
    mechanisms = [Mechanism(by_pld, rate, steps)]
    assert epsilon(mechanisms, delta) == pytest.approx(target, rel=0.01)
    assert epsilon(mechanisms, delta) == pytest.approx(pld(mechanisms, delta), rel=0.005)
    assert rdp_epsilon(mechanisms, delta) > 1.05 * epsilon(mechanisms, delta)
    assert rdp_epsilon([Mechanism(by_rdp, rate, steps)], delta) == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize(("rate", "steps", "delta", "target", "by_rdp", "by_pld"), [CELLS[1], CELLS[3], CELLS[14]])
def test_the_noise_for_a_target_is_the_least_that_meets_it(
    rate: float, steps: int, delta: float, target: float, by_rdp: float, by_pld: float
) -> None:
    noise = noise_multiplier_for(target, delta, rate, steps)
    assert noise == pytest.approx(by_pld, rel=0.01)
    assert (
        epsilon([Mechanism(noise, rate, steps)], delta)
        <= target
        < epsilon([Mechanism(0.999 * noise, rate, steps)], delta)
    )


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    # Balle and Wang 2018, theorem 8: ten steps at noise 10 * sqrt(10) are one at noise 10.
    exact = 0.3376
    delta = phi(1 / 20 - exact * 10) - math.exp(exact) * phi(-1 / 20 - exact * 10)
    found = epsilon([Mechanism(10 * math.sqrt(10), 1.0, 10)], delta)
    assert exact <= found <= 1.01 * exact


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize(("rounds", "steps"), [(1, 32), (8, 8), (12, 8)])
def test_steps_of_everybody_are_one_gaussian_mechanism(rounds: int, steps: int) -> None:
    noise = noise_multiplier_for(3.0, DELTA, 1.0, rounds * steps)
    found = epsilon([Mechanism(noise, 1.0, steps)] * rounds, DELTA)
    assert found == pytest.approx(3.0, abs=1e-6)
    mu = math.sqrt(rounds * steps) / noise
    delta = phi(mu / 2 - found / mu) - math.exp(found) * phi(-mu / 2 - found / mu)
    assert delta == pytest.approx(DELTA, rel=1e-6)


@pytest.mark.parametrize(
    ("history", "by_prv"),
    [
        ([(2.0, 0.125, 64)], 2.382116015308037),
        ([(1.1, 0.5, 8), (2.0, 0.25, 12)], 8.462503211475672),
        ([(0.8, 0.01, 500)], 2.405642122387761),
    ],
)
def test_figures_are_those_of_fresh_accountants(history: list[tuple[float, float, int]], by_prv: float) -> None:
    """By PRV, on this grid, as they were first reported; by Renyi DP as opacus tells them."""
    mechanisms = [Mechanism(*each) for each in history]
    accountant = RDPAccountant()
    accountant.history = history
    assert epsilon(mechanisms, DELTA) == pytest.approx(by_prv, abs=1e-6)
    assert rdp_epsilon(mechanisms, DELTA) == pytest.approx(accountant.get_epsilon(DELTA, alphas=_ORDERS), abs=1e-6)


def test_different_mechanisms_add_up() -> None:
    mechanisms = [Mechanism(1.0, 0.02, 100), Mechanism(2.0, 0.2, 30), Mechanism(0.8, 0.005, 400)]
    assert epsilon(mechanisms, DELTA) == pytest.approx(pld(mechanisms, DELTA), rel=0.005)
    accountant = PRVAccountant()
    accountant.history = [(each.noise_multiplier, each.sampling_rate, each.steps) for each in mechanisms]
    assert epsilon(mechanisms, DELTA) == pytest.approx(accountant.get_epsilon(DELTA, eps_error=0.01), rel=0.01)


def test_an_interrupted_run_costs_what_an_uninterrupted_one_does() -> None:
    whole = [Mechanism(1.1, 0.064, 156), Mechanism(2.0, 0.1, 20)]
    parts = [Mechanism(2.0, 0.1, 5), *[Mechanism(1.1, 0.064, 12)] * 13, Mechanism(1.5, 0.5, 0), Mechanism(2.0, 0.1, 15)]
    for measure in (epsilon, rdp_epsilon):
        assert measure(parts, DELTA) == measure(whole, DELTA)


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    for measure in (epsilon, rdp_epsilon):
        assert measure([], DELTA) == 0
        assert measure([Mechanism(1.0, 0.1, 0)], DELTA) == 0
        assert measure([Mechanism(1.0, 0.1, 5), Mechanism(0.0, 0.1, 1)], DELTA) == math.inf


@pytest.mark.parametrize(
    "mechanism",
    [Mechanism(0.2, 0.5, 3), Mechanism(1.0, 0.3, 5_000), Mechanism(50.0, 0.001, 1), Mechanism(1.0, 0.01, 30_000)],
)
def test_at_the_edges_it_is_still_an_upper_bound(mechanism: Mechanism) -> None:
    found = epsilon([mechanism], DELTA)
    assert pld([mechanism], DELTA, mesh=2e-4 if mechanism.steps == 30_000 else 1e-3) * 0.99 <= found
    assert found <= rdp_epsilon([mechanism], DELTA)


@settings(max_examples=5, deadline=None)
@given(
    st.floats(0.5, 4.0),
    st.floats(1e-3, 1.0),
    st.integers(1, 100),
    st.sampled_from([1e-8, 1e-5, 1e-3]),
)
def test_more_steps_less_noise_and_a_smaller_delta_cost_more(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    found = epsilon([Mechanism(noise, rate, steps)], delta)
    assert found <= epsilon([Mechanism(noise, rate, 2 * steps)], delta)
    assert found <= epsilon([Mechanism(noise / 1.1, rate, steps)], delta) + 5e-4
    assert found <= epsilon([Mechanism(noise, rate, steps)], delta / 10) + 5e-4
    assert found <= rdp_epsilon([Mechanism(noise, rate, steps)], delta)


@pytest.mark.parametrize(
    "values", [(-1.0, 0.1, 1), (math.inf, 0.1, 1), (math.nan, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.5, 1), (1.0, 0.1, -1)]
)
def test_impossible_mechanisms_are_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="expected noise >= 0"):
        Mechanism(*values)


def test_a_target_is_met_as_long_as_one_of_all_renyi_orders_meets_it() -> None:
    noise = noise_multiplier_for(0.006, 1e-5, 0.05, 10)
    assert 0.00599 < epsilon([Mechanism(noise, 0.05, 10)], 1e-5) <= 0.006


def test_an_impossible_delta_or_target_is_refused() -> None:
    with pytest.raises(ValueError, match="expected delta between 0 and 1, not 0"):
        epsilon([], 0)
    with pytest.raises(ConfigError, match=r"1e-12 is too small; raise epsilon"):
        noise_multiplier_for(1e-12, DELTA, 0.1, 10)
