"""Ranks of layers: what is left travels, what comes back has its place, and what cannot go together is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from shared import codec
from shared.adapter import factor_name
from shared.codec import Arrays
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.model.allocation import cut, describe, fill, ranks_left, ranks_of, update_shapes
from shared.state import Update

HEAD = "head/clauses/linear.bias"


def state(rank: int = 4, **left: int) -> Arrays:
    """Layers of 6 inputs and 5 outputs with this many components left, and a head."""
    rng, arrays = np.random.default_rng(0), {HEAD: np.ones(3, np.float32)}
    for layer, kept in left.items():
        a, b = rng.normal(size=(rank, 6)), rng.normal(size=(5, rank))
        a[kept:], b[:, kept:] = 0, 0
        arrays[factor_name(layer, "A")], arrays[factor_name(layer, "B")] = a.astype(np.float32), b.astype(np.float32)
    return arrays


def test_what_is_left_travels_and_comes_back_whole() -> None:
    whole = state(first=4, second=2, third=0)
    ranks = ranks_left(whole)
    assert ranks == {"first": 4, "second": 2, "third": 0}
    told = codec.decode(codec.encode(cut(whole, ranks), "float32"), "float32")
    assert ranks_of(told) == ranks
    assert told[factor_name("second", "A")].shape == (2, 6)
    assert told[factor_name("third", "B")].shape == (5, 0)
    back = fill(told, {name: array.shape for name, array in whole.items()})
    assert back.keys() == whole.keys()
    assert all(np.array_equal(back[name], array) for name, array in whole.items())


def test_an_update_has_what_is_left_and_its_importance() -> None:
    shapes = update_shapes({name: array.shape for name, array in state(first=4).items()}, {"first": 3})
    assert shapes == Update(
        {HEAD: (3,), factor_name("first", "A"): (3, 6), factor_name("first", "B"): (5, 3)}, {}, {"first": (3,)}
    )


@pytest.mark.parametrize("factor", ["A", "B"])
def test_factors_of_different_ranks_are_refused(factor: Any) -> None:
    whole = state(first=4)
    told = cut(whole, {"first": 3})
    name = factor_name("first", factor)
    with pytest.raises(ProtocolError, match="both factors of 'first' with one rank of at most 4"):
        fill(told | {name: whole[name]}, {name: array.shape for name, array in whole.items()})
    with pytest.raises(ProtocolError, match="at most 2"):
        fill(whole, {name: array.shape for name, array in state(2, first=2).items()})


def test_ranks_are_described_in_a_few_words() -> None:
    assert describe({"first": 8, "second": 2, "third": 2}) == "ranks 2-8, mean 4.0"


PRUNED = {"type": "adalora", "rank": 4}
PRIVATE = {"rounds": {"weighting": "equal"}, "training": {"weight_decay": 0.0}}
SECURE = {"rounds": {"institutions": ["a", "b", "c"], "quorum": 3}}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"rounds": {"method": "fedex"}}, "rounds.method must be 'fedavg'"),
        ({"rounds": {"method": "rolora"}}, "not 'rolora'"),
        ({"adapter": {**PRUNED, "min_rank": 2}}, "adapter.min_rank must not be given"),
        ({"adapter": {**PRUNED, "target_rank": 5}}, "target_rank must be at most rank, 4, not 5"),
        ({"adapter": {"type": "lora", "target_rank": 2}}, "only type 'adalora' has one"),
        ({"adapter": {**PRUNED, "warmup_rounds": 5}}, "at most rounds.count, 6, together, not 5 and 2"),
        ({"privacy": {"noise_multiplier": 1.0}} | PRIVATE, r"\[privacy\] must not be given"),
        ({"secure_aggregation": {"threshold": 3}} | SECURE, r"\[secure_aggregation\] must not be given"),
        ({"personal": {"keep": ["B"]}}, "both factors of a component are pruned together"),
        ({"rounds": {"patience": 2}}, "rounds.patience must be 0"),
    ],
)
def test_what_cannot_work_with_it_is_refused(
    tiny_federation: Callable[..., Federation], tables: dict[str, Any], said: str
) -> None:
    base: dict[str, Any] = {"adapter": PRUNED, "rounds": {"count": 6}}
    tiny_federation(**base)
    for table, values in tables.items():
        base[table] = base.get(table, {}) | values
    with pytest.raises(ValidationError, match=said):
        tiny_federation(**base)


def test_the_method_is_fedavg_where_the_file_leaves_it_open(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation(adapter=PRUNED, rounds={"count": 6, "method": "auto"})
    assert federation.method_name == "fedavg"
    assert federation.adapter.target == 2
    assert tiny_federation(adapter={"type": "lora", "rank": 4}).adapter.target == 4
