"""The lower bound on epsilon: published values, randomised response, and what it does not depend on."""

import numpy as np
import pytest
from scipy.stats import beta

from simulations.auditing.bound import bound_from_scores, epsilon_lower_bound


@pytest.mark.parametrize(("canaries", "expected"), [(100, 3.49), (500, 5.10), (1000, 5.78)])
def test_perfect_guesses(canaries: int, expected: float) -> None:
    assert epsilon_lower_bound(canaries, canaries, canaries, 1e-5) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("epsilon", "median"), [(0.5, 0.41), (1.0, 0.88), (2.0, 1.82), (4.0, 3.56)])
def test_randomised_response_is_bounded_tightly_and_rarely_wrongly(epsilon: float, median: float) -> None:
    rng, truthful = np.random.default_rng(1), 1 / (1 + np.exp(-epsilon))
    found = [epsilon_lower_bound(1000, 1000, int(rng.binomial(1000, truthful)), 1e-5) for _ in range(50)]
    assert np.median(found) == pytest.approx(median, abs=0.1)
    assert np.mean(np.array(found) > epsilon) <= 0.08


def test_monotone_in_everything() -> None:
    correct = [epsilon_lower_bound(200, 100, right, 1e-5) for right in range(50, 101, 5)]
    assert correct == sorted(correct)
    assert correct[0] == 0.0
    assert correct[-1] > correct[-2] > 0.0
    more = [epsilon_lower_bound(1000, guesses, guesses, 1e-5) for guesses in (10, 100, 1000)]
    assert more == sorted(more)
    deltas = [epsilon_lower_bound(1000, 1000, 900, delta) for delta in (1e-3, 1e-4, 1e-5, 0.0)]
    assert deltas == sorted(deltas)
    assert deltas[0] < deltas[-1]
    sure = [epsilon_lower_bound(200, 200, 150, 1e-5, confidence) for confidence in (0.99, 0.95, 0.5)]
    assert sure == sorted(sure)


def test_without_delta_it_is_the_clopper_pearson_bound() -> None:
    low = beta.ppf(0.05, 80, 21)  # of a proportion of which 80 in 100 were seen
    assert epsilon_lower_bound(100, 100, 80, 0.0) == pytest.approx(np.log(low / (1 - low)), abs=1e-4)


def test_numbers_that_are_no_audit_are_refused() -> None:
    with pytest.raises(ValueError, match="correct <= guesses <= canaries"):
        epsilon_lower_bound(10, 5, 6, 1e-5)


def test_the_best_choice_counts_at_a_share_of_the_error() -> None:
    included = np.arange(200) % 2 == 0
    found = bound_from_scores(included.astype(float), included, 1e-5)
    assert [(each.k_plus, each.k_minus) for each in found.guesses] == [(100, 100), (40, 40), (80, 0), (30, 0)]
    assert all(each.correct == each.k_plus + each.k_minus for each in found.guesses)
    assert found.epsilon == found.ceiling == epsilon_lower_bound(200, 200, 200, 1e-5, 1 - 0.05 / 4)
    swapped = bound_from_scores(-included.astype(float), included, 1e-5)
    assert swapped.epsilon == 0.0
    assert swapped.ceiling == found.ceiling


def test_blind_scores_prove_nothing() -> None:
    rng = np.random.default_rng(2)
    found = [bound_from_scores(rng.random(300), rng.random(300) < 0.5, 1e-5).epsilon for _ in range(20)]
    assert sum(epsilon > 0 for epsilon in found) <= 3
    ties = bound_from_scores(np.zeros(300), rng.random(300) < 0.5, 1e-5)
    assert ties.epsilon < 0.5
