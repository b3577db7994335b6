"""Batches: every example once, under the budget, with little padding, in a seeded order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.batching import evaluation_batches, pack, training_batches
from shared.model import PAD_MULTIPLE
from shared.tasks import Example

Lengths = st.lists(st.integers(1, 200), min_size=1, max_size=200)


def examples(lengths: list[int]) -> list[Example]:
    return [Example("t", i, [0] * n, [0] * n, {}) for i, n in enumerate(lengths)]


def padded(batch: list[int]) -> int:
    return max(-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in batch) * len(batch)


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


def test_bucketing_wastes_little() -> None:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.lognormal(3.2, 0.6, 3000).clip(4, 256)]
    batches = training_batches(examples(lengths), 2048, rng)
    spent = sum(padded([len(example) for example in batch]) for batch in batches)
    assert spent < 1.3 * sum(lengths)


def test_evaluation_covers_everything() -> None:
    batches = evaluation_batches(examples([5, 100, 7, 3]), 64)
    assert sorted(example.record for batch in batches for example in batch) == [0, 1, 2, 3]
    assert evaluation_batches([], 64) == []
