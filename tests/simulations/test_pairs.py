"""Every feature of a federation file with every other that the rules allow: a round that trains and is scored.

A federation has several pairs at once, so that fifty federations and not three hundred are enough. If one fails, the
first pair that it is about does; whether it is this pair that fails, a run of this test alone with MOST = 2 says.
"""

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from client.institution import Data, Institution
from client.opening import build_site
from client.preflight import Kept
from server.store import Store, replies, scores
from shared.adapter import get_state
from shared.federation import Federation
from shared.federation.filters import FilterName
from shared.federation.methods import MethodName
from shared.model.multitask import build_model
from simulations.engine import LocalGrid, run_on
from simulations.nodekeys import node_key

HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities", "clauses")}
SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1e-2}
EQUAL = {"weighting": "equal"}
FEATURES: dict[str, dict[str, Any]] = {
    "privacy": {"privacy": {"epsilon": 8.0}, "training": {"weight_decay": 0.0}, "rounds": EQUAL},
    "secure aggregation": {"secure_aggregation": {"threshold": 3}, "rounds": {"quorum": 3}},
    "scaffold": {"training": SGD | {"scaffold": True}, "rounds": EQUAL},
    "fedprox": {"training": {"proximal_mu": 0.1}},
    "fednova": {"rounds": {"normalize_steps": True}},
    "adalora": {"adapter": {"type": "adalora", "warmup_rounds": 1, "final_rounds": 1}, "rounds": {"count": 2}},
    "fedadam": {"server_optimizer": {"type": "fedadam"}},
    "top-k": {"wire": {"up": "top-k"}},
    "int8": {"wire": {"up": "int8", "down": "int8"}},
    "heads at home": {"personal": {"keep": ["heads"]}},
    "fine-tune": {"personal": {"fine_tune_epochs": 1}},
    "gradnorm": {"training": {"combine": "gradnorm"}},
    "pcgrad": {"training": {"combine": "pcgrad"}},
    "temperature": {"training": {"sampling": "temperature"}},
    "adversarial": {"training": {"adversarial_epsilon": 0.1}},
    "patience": {"rounds": {"patience": 1}},
    "median": {"robust": {"filter": "median"}, "rounds": EQUAL | {"quorum": 3}},
    "norm-bound": {"robust": {"filter": "norm-bound"}, "rounds": EQUAL | {"quorum": 3}},
    **{method: {"rounds": {"method": method}} for method in get_args(MethodName)},
}


def contradict(one: str, other: str) -> bool:
    """Whether both set a key, to different values: then only one of them would be in the file."""
    return any(
        FEATURES[other].get(table, {}).get(key, value) != value
        for table, keys in FEATURES[one].items()
        for key, value in keys.items()
    )


PAIRS = [pair for pair in combinations(FEATURES, 2) if not contradict(*pair)]
MOST = 7
"""Features of one federation: it stands for all pairs of them."""
worked: set[tuple[str, str]] = set()
"""Pairs that have been in a federation that worked."""


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {"rounds": {"count": 1, "method": "auto"}}
    for part in parts:
        for table, keys in part.items():
            whole[table] = whole.get(table, {}) | keys
    return whole


def test_the_filters_and_methods_are_known() -> None:
    assert {"median", "norm-bound"} < set(get_args(FilterName))
    assert set(get_args(MethodName)) < FEATURES.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[" + ".join(pair) for pair in PAIRS])
def test_what_is_allowed_together_works_together(
    one: str,
    other: str,
    tiny_federation: Callable[..., Federation],
    split_data: Callable[..., dict[str, Data]],
    store: Store,
) -> None:
    if (one, other) in worked:
        return
    features = [one, other]
    if (federation := made(tiny_federation, features)) is None:
        return  # a rule forbids it: tests/shared/federation/test_rules.py
    for more in FEATURES:
        wanted = set(pairs_of([*features, more])) - set(pairs_of(features)) - worked
        if len(features) == MOST or not wanted or more in features or not wanted <= set(PAIRS):
            continue
        if all(made(tiny_federation, list(pair)) for pair in wanted) and (
            larger := made(tiny_federation, [*features, more])
        ):
            features, federation = [*features, more], larger
    check(federation, split_data, store)
    worked.update(pairs_of(features))


def pairs_of(features: Iterable[str]) -> list[tuple[str, str]]:
    """In the order of FEATURES, as in PAIRS."""
    return list(combinations(sorted(features, key=list(FEATURES).index), 2))


def made(tiny_federation: Callable[..., Federation], features: list[str]) -> Federation | None:
    """The federation with these features; None if a rule forbids them together."""
    try:
        return tiny_federation(HELD, **joined(*map(FEATURES.__getitem__, features)))
    except ValidationError:
        return None


def check(federation: Federation, split_data: Callable[..., dict[str, Data]], store: Store) -> None:
    """All institutions take part in every step, and are scored."""
    model, sites = build_model(federation), {}
    for name, tasks in HELD.items():
        sites[name] = build_site(
            Institution(name=name, data=split_data(name, tasks)), federation, model, Kept(node_key=node_key(name))
        )
    run_id = run_on(LocalGrid(sites), federation, get_state(model), store)
    assert all(row["status"] == "ok" for row in store.rows(replies, run_id))
    told = [row["value"] for row in store.rows(scores, run_id)]
    assert told
    assert np.isfinite(told).all()
