"""Layers are left out one after the other, always that whose loss is the least."""

from collections.abc import Sequence

import pytest

from client.optimize.layers import keep
from shared.errors import ConfigError


def test_what_costs_least_goes_first_even_where_it_depends_on_what_has_gone() -> None:
    asked: list[tuple[int, ...]] = []

    def loss(kept: Sequence[int]) -> float:
        asked.append(tuple(kept))
        worth = {0: 9.0, 1: 1.0, 2: 3.0, 3: 3.5}
        apart = 5.0 if 2 not in kept and 1 not in kept else 0.0  # either of them is enough
        return apart - sum(worth[layer] for layer in kept)

    assert keep(4, 4, loss) == (0, 1, 2, 3)
    assert asked == []
    assert keep(4, 2, loss) == (0, 2)  # without 1; then 3 is worth more than 2, but 2 stands for both
    assert asked == [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2), (2, 3), (0, 3), (0, 2)]


@pytest.mark.parametrize("count", [0, 5])
def test_there_must_be_that_many(count: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to 4, which this BERT has, not {count}"):
        keep(4, count, lambda kept: 0.0)
