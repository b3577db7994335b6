"""Every rule of what goes with what refuses what it should, and all breaches are reported at once."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation import Federation
from shared.federation.methods import METHODS
from shared.federation.rules import RULES, Rule, holds, shown, value_of, violations

THREE = ["hospital", "law_firm", "bank"]
GIVEN: dict[str, Any] = {
    "privacy": {"privacy": {"epsilon": 3.0}},
    "secure_aggregation": {"secure_aggregation": {"threshold": 3}},
    "robust": {"robust": {"filter": "norm-bound"}},
    "adapter.min_rank": {"adapter": {"min_rank": 2}},
    "training.scaffold": {"training": {"scaffold": True}},
    "training.proximal_mu": {"training": {"proximal_mu": 0.1}},
    "training.max_seconds": {"training": {"max_seconds": 60.0}},
    "rounds.normalize_steps": {"rounds": {"normalize_steps": True}},
}
"""How a condition without values is met."""
OTHER: dict[str, Any] = {
    "training.combine": "dwa",
    "training.sampling": "temperature",
    "training.adversarial_epsilon": 0.1,
    "training.weight_decay": 0.01,
    "training.head_dropout": 0.1,
    "adapter.dropout": 0.1,
    "training.optimizer": "adamw",
    "training.momentum": 0.9,
    "rounds.weighting": "tasks",
    "rounds.patience": 2,
    "personal.fine_tune_epochs": 1,
    "wire.up": "int8",
    "adapter.type": "adalora",
}
"""A value that no rule which needs another one accepts."""


def tables_of(condition: str) -> dict[str, Any]:
    """Tables of a federation file in which a condition holds."""
    path, _, values = condition.partition("=")
    if not values:
        return GIVEN[path] if path in GIVEN else {path: OTHER[path]}
    first: Any = values.split("|")[0]
    table, key = path.split(".")
    return {table: {key: [first] if path == "personal.keep" else int(first) if first.isdigit() else first}}


def breach_of(rule: Rule) -> dict[str, Any]:
    """Tables that break a rule while its `when` holds."""
    if rule.forbids:
        return tables_of(rule.forbids)
    path, *allowed = rule.needs
    table, key = path.split(".")
    value = next(name for name in METHODS if name not in allowed) if path == "rounds.method" else OTHER[path]
    assert value not in allowed
    return {table: {key: value}}


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Tables merged key by key."""
    whole: dict[str, Any] = {}
    for part in parts:
        for table, keys in part.items():
            whole[table] = whole.get(table, {}) | keys
    return whole


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.when} {rule.forbids or rule.needs[0]}")
def test_every_rule_refuses_its_breach(tiny_federation: Callable[..., Federation], rule: Rule) -> None:
    tables = joined({"rounds": {"quorum": 2}}, tables_of(rule.when), breach_of(rule))
    with pytest.raises(ValidationError) as error:
        tiny_federation(THREE, **tables)
    path = rule.forbids.partition("=")[0] or rule.needs[0]
    assert f"with {shown(rule.when)}, {shown(path)} must" in str(error.value)
    assert rule.because in str(error.value)


def test_all_breaches_are_reported_at_once(tiny_federation: Callable[..., Federation]) -> None:
    with pytest.raises(ValidationError) as error:
        tiny_federation(privacy={"epsilon": 3.0}, secure_aggregation={"threshold": 1}, training={"scaffold": True})
    with pytest.raises(ValidationError) as error:
        tiny_federation(privacy={"epsilon": 3.0}, secure_aggregation={"threshold": 3}, training={"scaffold": True})
    for breach in (
        "with [privacy], rounds.weighting must be 'equal'",
        "with [secure_aggregation], rounds.institutions must name at least 3",
        "with training.scaffold, [secure_aggregation] must not be given",
        "with training.scaffold, training.optimizer must be 'sgd'",
    ):
        assert breach in str(error.value)


def test_a_federation_of_defaults_breaks_no_rule(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation()
    assert violations(federation) == []
    assert value_of("privacy.epsilon", federation) is None
    assert value_of("rounds.method", tiny_federation(rounds={"method": "auto"})) == "rolora"
    assert holds("rounds.method=fedavg|ffa", federation)
    assert not holds("personal.keep=B", federation)


def test_a_condition_is_shown_as_the_file_has_it() -> None:
    assert shown("training.epochs_per_round=0") == "training.epochs_per_round = 0"
    assert shown("wire.down=int8|int4") == "wire.down = 'int8' or 'int4'"
    assert shown("privacy") == "[privacy]"


def test_every_rule_says_one_thing() -> None:
    for rule in RULES:
        assert bool(rule.forbids) != bool(rule.needs), rule
        assert rule.because, rule
