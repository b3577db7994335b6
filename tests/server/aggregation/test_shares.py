"""Counts that institutions tell, capped to a share of their sum."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import ClientUpdate, Context, Cut, fedavg, fednova
from server.aggregation.shares import capped, capped_mean, capped_updates
from shared.codec import Arrays
from shared.federation import Weighting

COUNTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=12)
SHARES = st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.4, 0.5, 0.7, 0.9, 1.0])


def oracle(counts: dict[str, float], max_share: float) -> dict[str, float]:
    """The level by bisection: of all levels within the share, the largest."""
    least, most = min(counts.values()), max(counts.values())

    def within(level: float) -> bool:
        return level <= max_share * sum(min(n, level) for n in counts.values()) * (1 + 1e-12)

    if not within(least):
        return dict.fromkeys(counts, least)
    low, high = float(least), float(most)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return {name: min(n, high) for name, n in counts.items()}


@settings(max_examples=300, deadline=None)
@given(COUNTS, SHARES)
def test_it_is_the_largest_level_within_the_share(values: list[int], max_share: float) -> None:
    counts = {str(i): float(n) for i, n in enumerate(values)}
    used = capped(counts, max_share)
    right = oracle(counts, max_share)
    for name, n in used.items():
        assert n == pytest.approx(right[name], rel=1e-6)
        assert n / sum(used.values()) <= max(max_share, 1 / len(used)) + 1e-9


def test_by_hand() -> None:
    assert capped({"a": 30, "b": 20, "c": 10}, 0.5) == {"a": 30, "b": 20, "c": 10}
    assert capped({"a": 1e9, "b": 20, "c": 10}, 0.5) == {"a": 30, "b": 20, "c": 10}
    assert capped({"a": 140, "b": 20}, 0.5) == {"a": 20, "b": 20}, "two weigh the same by default"
    assert capped({"a": 140, "b": 20}, 0.75) == {"a": pytest.approx(60), "b": 20}
    assert capped({"a": 140}, 0.5) == {"a": 140}, "whoever is alone is the whole"
    assert capped({"a": 140, "b": 20}, 1.0) == {"a": 140, "b": 20}
    assert capped({"a": 9, "b": 5, "c": 4}, 0.25) == {"a": 4, "b": 4, "c": 4}, "too few for the share"


def test_a_mean_says_what_it_cut() -> None:
    mean, cuts = capped_mean({"a": (0.0, 10**9), "b": (1.0, 20), "c": (1.0, 10)}, 0.5, "clauses")
    assert mean == pytest.approx(0.5)
    assert cuts == [Cut("a", "clauses", 10**9, 30.0)]


def updates(seed: int, many: int) -> list[ClientUpdate]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(many):
        held = [task for task in ("t", "u") if rng.random() < 0.7] or ["t"]
        examples = {task: int(10 ** rng.uniform(0, 6)) for task in held}
        names = ["adapter/q.lora_A.weight", *(f"head/{task}/w" for task in held)]
        arrays: Arrays = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in names}
        made.append(ClientUpdate(f"i{i}", examples, arrays, steps=int(rng.integers(1, 50))))
    return made


STATE: Arrays = {name: np.zeros((2, 3), np.float32) for name in ("adapter/q.lora_A.weight", "head/t/w", "head/u/w")}


@pytest.mark.parametrize("max_share", [0.2, 0.35, 0.5, 0.8])
@pytest.mark.parametrize("weighting", ["tasks", "examples"])
def test_a_stream_ends_as_if_all_counts_had_been_known(max_share: float, weighting: Weighting) -> None:
    for seed in range(20):
        came = updates(seed, 9)
        cuts: list[Cut] = []
        passed = capped_updates(iter(came), weighting=weighting, max_share=max_share, cuts=cuts)
        new, _, diagnostics = fedavg.apply(STATE, passed, Context(weighting=weighting))
        used = {
            task: capped({u.institution: u.examples[task] for u in came if task in u.examples}, max_share)
            for task in ("t", "u")
        }
        for task, counts in used.items():
            mean = sum(n * {u.institution: u for u in came}[i].arrays[f"head/{task}/w"] for i, n in counts.items())
            np.testing.assert_allclose(new[f"head/{task}/w"], mean / sum(counts.values()), rtol=1e-4, atol=1e-5)
        weights = {
            u.institution: sum(used[t][u.institution] / sum(used[t].values()) for t in u.examples) / 2 for u in came
        }
        if weighting == "examples":
            totals = capped({u.institution: sum(u.examples.values()) for u in came}, max_share)
            weights = {name: n / sum(totals.values()) for name, n in totals.items()}
        assert diagnostics.weights == pytest.approx(weights)
        told = {(cut.institution, cut.task): cut for cut in cuts}
        for task, counts in used.items():
            for u in came:
                if task in u.examples:
                    cut = told.get((u.institution, task))
                    assert (cut.used if cut else u.examples[task]) == pytest.approx(counts[u.institution])


def test_few_are_held_back() -> None:
    waiting: list[str] = []

    def come() -> Iterator[ClientUpdate]:
        for i in range(200):
            waiting.append(f"i{i}")
            yield ClientUpdate(f"i{i}", {"t": 10 + i % 7, "u": 3}, {})

    for update in capped_updates(come(), weighting="examples", max_share=0.5, cuts=[]):
        waiting.remove(update.institution)
        assert len(waiting) <= 1 + 3 * 2


def test_equal_weights_and_filtered_ones_are_left_alone() -> None:
    came = [ClientUpdate("a", {"t": 10**9}, {}, trust={"t": 0.0}), ClientUpdate("b", {"t": 30}, {}, trust={"t": 1.0})]
    assert list(capped_updates(came, weighting="equal", max_share=0.5, cuts=[])) == came
    cuts: list[Cut] = []
    assert list(capped_updates(came, weighting="tasks", max_share=0.5, cuts=cuts)) == came
    assert cuts == []


def test_the_second_update_of_an_institution_is_not_swallowed() -> None:
    twice = [ClientUpdate("a", {"t": 5}, {}), ClientUpdate("b", {"t": 5}, {}), ClientUpdate("a", {"t": 5}, {})]
    passed = capped_updates(twice, weighting="tasks", max_share=0.5, cuts=[])
    assert sorted(update.institution for update in passed) == ["a", "a", "b"]


def test_steps_told_without_end_do_not_stretch_the_mean() -> None:
    name = "adapter/q.lora_A.weight"
    step: Arrays = {name: np.ones((2, 3), np.float32)}
    told = {"a": 10, "b": 10, "c": 10**6}
    came = [ClientUpdate(who, {"t": 10}, step, steps=steps) for who, steps in told.items()]
    new, *_ = fednova.apply(STATE, came, Context(weighting="tasks", max_share=0.5))
    assert np.abs(new[name]).max() < 2.0
    believed, *_ = fednova.apply(STATE, came, Context(weighting="tasks"))
    assert np.abs(believed[name]).max() > 1000.0, "what it would be without the cap"
