"""Private scores: what one owner can change, what the noise is, what the evaluations of a run cost."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from client.policy import Policy
from client.privacy.account import own
from client.privacy.accounting import noise_multiplier_for
from client.privacy.evaluation import Evaluations, NoisySums, clipped_sum, evaluation_budget, planned_evaluations
from client.privacy.ledger import Ledger
from shared.errors import BudgetError, ConfigError
from shared.federation import Federation
from shared.tasks import build_task
from shared.tasks.tally import LabelTally

MakeFederation = Callable[..., Federation]
PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 3.0, "sampling_rate": 0.5, "evaluation_epsilon": 1.0},
    "training": {"weight_decay": 0.0},
    "rounds": {"weighting": "equal", "method": "ffa"},
}
SCORED = {"clauses": [{"text": f"text {n}", "label": "payment"} for n in range(6)]}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 5.0), st.integers(1, 6))
def test_an_owner_more_or_less_moves_the_sums_by_the_clip_at_most(seed: int, clip: float, owners: int) -> None:
    rng = np.random.default_rng(seed)
    counts = {task: rng.exponential(3.0, (rng.integers(1, 12), rng.integers(1, 6))) for task in ("a", "b")}
    counts["a"][0] = 0.0
    held = {(task, i): str(rng.integers(owners)) for task, rows in counts.items() for i in range(len(rows))}
    everybody = clipped_sum(counts, held, clip)
    for left in set(held.values()):
        kept = {task: [i for i in range(len(rows)) if held[task, i] != left] for task, rows in counts.items()}
        without = clipped_sum(
            {task: rows[kept[task]] for task, rows in counts.items()},
            {(task, place): held[task, i] for task in counts for place, i in enumerate(kept[task])},
            clip,
        )
        assert np.linalg.norm(everybody - without) <= clip * (1 + 1e-12)


def test_owners_of_one_plain_record_each_are_counted_exactly() -> None:
    counts = {"a": np.eye(3)[[0, 0, 1, 2]], "b": np.zeros((1, 2))}
    owners = {**{("a", i): str(i) for i in range(4)}, ("b", 0): "4"}
    assert clipped_sum(counts, owners, 1.0).tolist() == [2, 1, 1, 0, 0]
    one = dict.fromkeys(owners, "0")
    assert np.linalg.norm(clipped_sum(counts, one, 1.0)) == pytest.approx(1.0)


def test_the_noise_is_there_normal_and_as_wide_as_planned() -> None:
    counts = {"a": np.ones((2, 3)), "b": np.ones((1, 2))}
    owners = {("a", 0): "x", ("a", 1): "y", ("b", 0): "y"}
    sums = NoisySums(owners, clip=2.0, noise_multiplier=5.0)
    exact = clipped_sum(counts, owners, 2.0)
    drawn = [sums.of(counts) for _ in range(800)]
    assert [drawn[0][task].shape for task in ("a", "b")] == [(3,), (2,)]
    noise = np.array([np.concatenate([each["a"], each["b"]]) - exact for each in drawn])
    assert kstest(noise.ravel() / sums.deviation, "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(noise.T) - np.eye(5)).max() < 0.2
    given_noise = sums.of(counts, lambda size: np.arange(size, dtype=float))
    assert np.concatenate([*given_noise.values()]) == pytest.approx(exact + 10 * np.arange(5), abs=0.005)


@pytest.mark.parametrize("rounds", [1, 12])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_planned_evaluations_cost_what_was_agreed(
    tiny_federation: MakeFederation, tmp_path: Path, rounds: int, split: Any
) -> None:
    federation = tiny_federation(**PRIVATE | {"rounds": PRIVATE["rounds"] | {"count": rounds}})
    times = planned_evaluations(federation, split)
    assert times == {"validation": rounds, "test": 2}[split]
    evaluations = open_here(federation, Ledger.open(tmp_path / "ledger.sqlite"))
    simulated = replace(evaluations, ledger=None)
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for number in range(1, times + 1):
        for each in (evaluations, simulated):
            with each.spend(split, round=number, run="1") as sums:
                assert sums.deviation == sums.noise_multiplier * sums.clip
        accountant.compose(dp_accounting.GaussianDpEvent(sums.noise_multiplier))
        assert evaluations.epsilon(split) == simulated.epsilon(split)
        assert evaluations.epsilon(split) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert evaluations.epsilon(split) == pytest.approx(1.0, rel=1e-7)
    with (
        pytest.raises(BudgetError, match=rf"budget for {split} scores is epsilon 1 .*policy\.evaluation_epsilon"),
        evaluations.spend(split, round=1, run="2"),
    ):
        pytest.fail("an evaluation beyond the budget")


def open_here(federation: Federation, ledger: Ledger, **policy: Any) -> Evaluations:
    """Of the same owners' validation and test records."""
    task = build_task("clauses", federation.tasks["clauses"])
    held: Any = {split: own(SCORED, {"clauses": None}, {"clauses": task}) for split in ("validation", "test")}
    return Evaluations(federation, evaluation_budget(Policy(**policy), federation), held, ledger)


def test_each_use_of_the_same_owners_has_its_own_budget(tiny_federation: MakeFederation, tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    evaluations = open_here(tiny_federation(**PRIVATE), ledger)
    dataset = evaluations.owned["test"].dataset
    assert dataset == evaluations.owned["validation"].dataset
    with evaluations.spend("test", round=0):
        pass
    assert ledger.spent(dataset, 1e-5).epsilon == ledger.spent(dataset, 1e-5, "validation").epsilon == 0
    assert ledger.spent(dataset, 1e-5, "test").epsilon > 0
    assert Ledger.open(tmp_path / "ledger.sqlite").head == evaluations.head


def test_what_ends_otherwise_counts_in_full(tiny_federation: MakeFederation, tmp_path: Path) -> None:
    evaluations = open_here(tiny_federation(**PRIVATE), Ledger.open(tmp_path / "ledger.sqlite"))
    with pytest.raises(RuntimeError), evaluations.spend("test", round=0):
        raise RuntimeError
    with evaluations.spend("test", round=0):
        pass
    assert evaluations.epsilon("test") == pytest.approx(1.0)
    with pytest.raises(BudgetError), evaluations.spend("test", round=2):
        pytest.fail("an evaluation beyond the budget")


@pytest.mark.parametrize(
    ("target", "records", "off"), [(1.0, 1000, 0.02), (1.0, 500, 0.04), (1.0, 200, 0.09), (3.0, 500, 0.02)]
)
def test_how_far_off_scores_are(target: float, records: int, off: float) -> None:
    """As docs/privacy.md says for 12 rounds and two labels; four of five are right here."""
    noise = noise_multiplier_for(target, 1e-5, 1.0, 12)
    tally, rng = LabelTally(("a", "b"), ("a", "b")), np.random.default_rng(0)
    rows = [tally.count({"label": "ab"[i % 2]}, "ab"[(i + (i % 5 == 0)) % 2]) for i in range(records)]
    exact = clipped_sum({"t": np.array(rows)}, {("t", i): str(i) for i in range(records)}, 1.0)
    assert np.allclose(exact, np.sum(rows, axis=0))
    told = [tally.scores(exact + noise * rng.standard_normal(6), noise)["accuracy"] for _ in range(400)]
    assert np.sqrt(np.mean((np.array(told) - 0.8) ** 2)) == pytest.approx(off, abs=0.006)
    assert target != 1.0 or noise == pytest.approx(12.9, abs=0.05)


def die_evaluating(federation: Federation, file: Path) -> None:
    """Be killed in the middle of an evaluation."""
    with open_here(federation, Ledger.open(file)).spend("validation", round=1):
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_evaluation_whose_process_was_killed_counts_in_full(
    tiny_federation: MakeFederation, in_a_fork: Callable[..., Any], tmp_path: Path
) -> None:
    federation, file = tiny_federation(**PRIVATE), tmp_path / "ledger.sqlite"
    for _ in range(2):
        assert in_a_fork(die_evaluating, federation, file).returncode == -signal.SIGKILL
    evaluations = open_here(federation, Ledger.open(file))
    none_left = r"budget for validation scores is epsilon 1 .*, of which 1\.000 is spent"
    with pytest.raises(BudgetError, match=none_left), evaluations.spend("validation", round=1):
        pytest.fail("an evaluation beyond the budget")
    spent = Ledger.open(file).spent(evaluations.owned["validation"].dataset, 1e-5, "validation")
    assert spent.open == 2
    assert spent.epsilon == pytest.approx(1.0)


def test_a_policy_may_be_stricter_and_counts_over_all_runs(tiny_federation: MakeFederation, tmp_path: Path) -> None:
    federation = tiny_federation(**PRIVATE)
    strict = evaluation_budget(Policy(evaluation_epsilon=0.5), federation)
    assert (strict.planned, strict.allowed) == ((0.5, 1e-5), (0.5, 1e-5))
    evaluations = open_here(federation, Ledger.open(tmp_path / "ledger.sqlite"), evaluation_epsilon=1.5)
    assert (evaluations.budget.planned, evaluations.budget.allowed) == ((1.0, 1e-5), (1.5, 1e-5))
    for run in ("1", "2"):  # 1.5 is more than sqrt(2) times 1
        for number in range(2):
            with evaluations.spend("test", round=number, run=run):
                pass
    with pytest.raises(BudgetError), evaluations.spend("test", round=0, run="3"):
        pytest.fail("an evaluation beyond the budget")


def test_somebody_must_say_what_scores_may_cost(tiny_federation: MakeFederation) -> None:
    with pytest.raises(ConfigError, match=r"Expected policy\.evaluation_epsilon"):
        evaluation_budget(Policy(metrics="private"), tiny_federation())
    own_word = evaluation_budget(Policy(metrics="private", evaluation_epsilon=2.0, delta=1e-6), tiny_federation())
    assert (own_word.planned, own_word.allowed, own_word.clip) == ((2.0, 1e-6), (2.0, 1e-6), 1.0)
