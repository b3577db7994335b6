"""Membership inference and exposure against slow definitions."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from simulations.auditing.exposure import exposure
from simulations.auditing.membership import measure_membership
from simulations.auditing.plots import histogram


def test_the_area_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    members, others = (rng.integers(0, 6, 80) + 1).astype(float), rng.integers(0, 6, 50).astype(float)
    found = measure_membership(members, others)
    truth = np.r_[np.ones(80), np.zeros(50)]
    assert found.auc == pytest.approx(roc_auc_score(truth, np.r_[members, others]))
    assert 0 < found.low < found.auc < found.high < 1


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.5 * (1 + math.erf(0.5))  # of two normals one standard deviation apart
    covered = 0
    for _ in range(200):
        found = measure_membership(rng.normal(1, 1, 60), rng.normal(0, 1, 90))
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 200 <= 0.985


def test_members_found_at_few_false_alarms() -> None:
    others = np.arange(1000.0)
    members = np.r_[np.full(30, 1e6), np.full(10, 995.5), np.full(60, 500.0)]
    one_percent, one_in_thousand = measure_membership(members, others).rates
    assert (one_percent.true_positive_rate, one_in_thousand.true_positive_rate) == (0.4, 0.3)
    assert one_percent.low < 0.4 < one_percent.high
    assert one_percent.resolved
    assert one_in_thousand.resolved
    assert not measure_membership(members, others[:500]).rates[1].resolved


def test_too_few_records_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        measure_membership([1.0], [0.0, 1.0])


def test_exposure_is_by_rank() -> None:
    others = np.arange(1.0, 1024.0)
    assert exposure(0.5, others) == 10.0
    assert exposure(1.5, others) == 9.0
    assert exposure(5000.0, others) == 0.0
    assert exposure(1.0, np.ones(1023)) == pytest.approx(1.0, abs=0.01)
    rng = np.random.default_rng(0)
    unseen = [exposure(loss, rng.random(511)) for loss in rng.random(2000)]
    assert np.mean(unseen) == pytest.approx(1 / math.log(2), abs=0.1)


def test_a_plot_names_its_groups_and_stands_equal_scores() -> None:
    plot = histogram({"in <b>": [1.0, 1.0], "out": [1.0]}, "score & more")
    assert "in &lt;b&gt; (2)" in plot
    assert "score &amp; more" in plot
    assert "nan" not in plot
