"""Batches: every example once, under the budget, with little padding, in a seeded order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.train.batching import (
    PACKED_PASS,
    PADDED_PASS,
    cut_by_length,
    evaluation_batches,
    micro_batches,
    pack,
    padded_length,
    sample_by_temperature,
    training_batches,
)
from shared.tasks import Example

Lengths = st.lists(st.integers(1, 200), min_size=1, max_size=200)


def examples(lengths: list[int]) -> list[Example]:
    return [Example("t", i, [0] * n, [0] * n, {}) for i, n in enumerate(lengths)]


def padded(batch: list[int]) -> int:
    return max(padded_length(n) for n in batch) * len(batch)


@given(Lengths, st.integers(16, 1000))
def test_packing_keeps_order_and_budget(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert [position for batch in batches for position in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or padded([lengths[i] for i in batch]) <= budget


@given(Lengths, st.integers(16, 1000), st.integers(0, 2**32))
def test_an_epoch_holds_every_example_once(lengths: list[int], budget: int, seed: int) -> None:
    batches = training_batches(examples(lengths), budget, np.random.default_rng(seed))
    assert sorted(example.record for batch in batches for example in batch) == list(range(len(lengths)))


def test_the_seed_decides_the_order() -> None:
    rows = examples([10] * 50)

    def order(seed: int) -> list[int]:
        return [e.record for batch in training_batches(rows, 80, np.random.default_rng(seed)) for e in batch]

    assert order(1) == order(1)
    assert order(1) != order(2)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(50, 1000))
def test_batches_are_of_about_the_same_size(lengths: list[int], budget: int) -> None:
    batches = training_batches(examples(lengths), budget, np.random.default_rng(0))
    assert len(batches) <= -(-sum(lengths) // budget)
    for batch in batches:
        assert sum(len(example) for example in batch) <= sum(lengths) / len(batches) + 100


def test_a_batch_is_a_random_sample_whatever_the_lengths() -> None:
    rows = examples([10] * 200 + [100] * 200)
    rng = np.random.default_rng(0)
    batches = [batch for _ in range(50) for batch in training_batches(rows, 2200, rng)]
    long = np.array([sum(len(example) == 100 for example in batch) / len(batch) for batch in batches])
    assert long.mean() == pytest.approx(0.5, abs=0.02)
    assert long.std() < 0.12  # of 40 drawn records, 0.08


def test_padded_passes_waste_little() -> None:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.lognormal(3.2, 0.6, 3000).clip(4, 256)]
    batches = training_batches(examples(lengths), 2048, rng)
    parts = [part for batch in batches for part in cut_by_length([[example] for example in batch])]
    assert sum(padded([len(example) for group in part for example in group]) for part in parts) < 1.3 * sum(lengths)


@pytest.mark.parametrize("pass_cost", [PADDED_PASS, PACKED_PASS])
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_batches_are_cut_where_that_is_cheapest(lengths: list[int], pass_cost: int) -> None:
    def cost(parts: list[list[int]]) -> int:
        return sum(padded(part) + pass_cost for part in parts)

    def cuts(row: list[int]) -> list[list[list[int]]]:
        heads = [[[row]]] + [[[row[:i], *rest] for rest in cuts(row[i:])] for i in range(1, len(row))]
        return [cut for head in heads for cut in head]

    cut = cut_by_length([[example] for example in examples(lengths)], pass_cost)
    found = [[example for group in part for example in group] for part in cut]
    assert pass_cost == PADDED_PASS or found == micro_batches(examples(lengths))
    assert sorted(example.record for part in found for example in part) == list(range(len(lengths)))
    least = min(map(cost, cuts(sorted(lengths))))
    assert cost([[len(example) for example in part] for part in found]) == least


def of_tasks(**sizes: int) -> list[Example]:
    return [Example(task, i, [0], [0], {}) for task, size in sizes.items() for i in range(size)]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 100.0])
def test_temperature_decides_how_often_a_task_is_drawn(temperature: float) -> None:
    sizes = {"large": 900, "middle": 90, "small": 10}
    rng = np.random.default_rng(0)
    drawn = Counter(e.task for _ in range(40) for e in sample_by_temperature(of_tasks(**sizes), temperature, rng))
    powers = {task: size ** (1 / temperature) for task, size in sizes.items()}
    for task, power in powers.items():
        assert drawn[task] / 40_000 == pytest.approx(power / sum(powers.values()), abs=0.01)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_a_sampled_epoch_is_as_long_and_repeats_no_record_before_all_were_shown(a: int, b: int, seed: int) -> None:
    drawn = sample_by_temperature(of_tasks(a=a, b=b), 2.0, np.random.default_rng(seed))
    assert len(drawn) == a + b
    for task, size in (("a", a), ("b", b)):
        shown = Counter(example.record for example in drawn if example.task == task)
        assert not shown or max(shown.values()) - (min(shown.values()) if len(shown) == size else 0) <= 1


def test_one_task_alone_is_sampled_like_an_epoch() -> None:
    drawn = sample_by_temperature(of_tasks(a=20), 2.0, np.random.default_rng(3))
    assert sorted(example.record for example in drawn) == list(range(20))
    assert [example.record for example in drawn] != list(range(20))


def test_evaluation_covers_everything() -> None:
    batches = evaluation_batches(examples([5, 100, 7, 3]), 64)
    assert sorted(example.record for batch in batches for example in batch) == [0, 1, 2, 3]
    assert evaluation_batches([], 64) == []
