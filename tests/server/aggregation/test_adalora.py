"""The budget's schedule, the choice of components against a loop, and the mean of what institutions tell."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from server.aggregation import ClientUpdate, context_of
from server.aggregation.adalora import allocate, budget, mean_importance, noted, prune
from server.store import Store
from shared.adapter import factor_name
from shared.codec import Arrays
from shared.federation import Adapter, Federation
from shared.model.allocation import ranks_left
from shared.state import State

RANK = 4
SHAPES = {"first": (5, 6), "second": (7, 3), "third": (4, 4)}


def state(seed: int = 0) -> Arrays:
    rng, arrays = np.random.default_rng(seed), {"head/clauses/linear.bias": np.ones(2, np.float32)}
    for layer, (outputs, inputs) in SHAPES.items():
        arrays[factor_name(layer, "A")] = rng.normal(size=(RANK, inputs)).astype(np.float32)
        arrays[factor_name(layer, "B")] = rng.normal(size=(outputs, RANK)).astype(np.float32)
    return arrays


def scores(seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    return {layer: rng.random(RANK) for layer in SHAPES}


@pytest.mark.parametrize(("warmup", "final", "rounds"), [(1, 2, 8), (3, 1, 9), (1, 1, 2), (4, 4, 8)])
def test_the_budget_begins_full_and_ends_at_the_target(warmup: int, final: int, rounds: int) -> None:
    adapter = Adapter(type="adalora", rank=8, target_rank=3, warmup_rounds=warmup, final_rounds=final)
    spent = [budget(adapter, round, rounds=rounds, layers=12) for round in range(1, rounds + 1)]
    assert spent[:warmup] == [96] * warmup
    assert spent[-final:] == [36] * final
    assert all(36 <= components < 96 for components in spent[warmup:-final])
    assert spent == sorted(spent, reverse=True)


def test_the_budget_falls_as_a_cube() -> None:
    adapter = Adapter(type="adalora", rank=8, target_rank=4, warmup_rounds=2, final_rounds=3)
    spent = [budget(adapter, round, rounds=8, layers=100) for round in range(1, 9)]
    assert spent == [800, 800, 400 + int(400 * 0.75**3), 450, 400 + int(400 * 0.25**3), 400, 400, 400]


@pytest.mark.parametrize("components", [0, 1, 5, 11, 12, 20])
def test_the_most_important_components_over_all_layers_stay(components: int) -> None:
    before, importance = state(), scores()
    after = prune(before, importance, components)
    left = [(layer, k) for layer in SHAPES for k in range(RANK)]
    while len(left) > components:  # one at a time, the least important goes
        left.remove(min(left, key=lambda at: importance[at[0]][at[1]]))
    for layer in SHAPES:
        kept = [k for at, k in left if at == layer]
        a, b = (factor_name(layer, factor) for factor in ("A", "B"))
        np.testing.assert_array_equal(after[a][: len(kept)], before[a][kept])
        np.testing.assert_array_equal(after[b][:, : len(kept)], before[b][:, kept])
        assert not after[a][len(kept) :].any()
        assert not after[b][:, len(kept) :].any()
        assert after[a].shape == before[a].shape
    assert sum(ranks_left(after).values()) == min(components, 12)
    assert after["head/clauses/linear.bias"] is before["head/clauses/linear.bias"]


def test_pruning_what_was_pruned_takes_from_what_is_left() -> None:
    once = prune(state(), scores(), 8)
    left = {name: scores(2)[name][: ranks_left(once)[name]] for name in scores()}
    twice = prune(once, left, 5)
    assert sum(ranks_left(twice).values()) == 5
    assert all(rank <= ranks_left(once)[layer] for layer, rank in ranks_left(twice).items())


def test_equally_important_components_are_taken_in_order() -> None:
    even = {name: np.ones(RANK) for name in scores()}
    assert ranks_left(prune(state(), even, 6)) == {"first": 4, "second": 2, "third": 0}


def test_importance_is_the_mean_by_weight_of_those_who_count() -> None:
    told = {name: scores(seed) for seed, name in enumerate(("hospital", "law_firm", "filtered"))}
    mean = mean_importance(told, {"hospital": 0.75, "law_firm": 0.25})
    for name, array in mean.items():
        np.testing.assert_allclose(array, 0.75 * told["hospital"][name] + 0.25 * told["law_firm"][name], rtol=1e-12)


def test_what_comes_with_updates_is_noted_while_they_pass() -> None:
    updates = [ClientUpdate(name, {"clauses": 1}, {}, importance=scores()) for name in ("hospital", "law_firm")]
    told: dict[str, Arrays] = {}
    assert [update.institution for update in noted(iter(updates), told)] == ["hospital", "law_firm"]
    assert told.keys() == {"hospital", "law_firm"}


@pytest.mark.parametrize("told", [{}, {"hospital": {name: np.zeros(RANK) for name in scores()}}])
def test_where_no_component_is_known_to_matter_nothing_is_pruned(
    tiny_federation: Callable[..., Federation], told: dict[str, Arrays]
) -> None:
    federation = tiny_federation(adapter={"type": "adalora"}, rounds={"count": 6})
    before = state()
    after = allocate(before, told, dict.fromkeys(told, 1.0), context_of(federation, 5))
    assert all(after[name] is array for name, array in before.items())


def test_only_a_round_after_which_ranks_are_at_the_target_is_the_best(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    federation = tiny_federation(adapter={"type": "adalora", "final_rounds": 2}, rounds={"count": 5})
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as store:
        run = store.create_run(federation)
        for number, score in enumerate((0.9, 0.8, 0.3, 0.5, 0.4), start=1):
            store.save_checkpoint(run, number, State({}))
            store.add_round(run, number, 1.0, {number: score})
        assert store.best_round(run) == 4
