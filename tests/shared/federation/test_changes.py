"""Differences of two federation files in words: no key differs without being named, and few changes are additions."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation import Federation
from shared.federation.changes import describe_changes, only_adds

PRIVATE = {
    "privacy": {"epsilon": 3.0},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
    "rounds": {"weighting": "equal"},
}


def edited(federation: Federation, **tables: Any) -> Federation:
    values = json.loads(federation.model_dump_json(exclude_none=True))
    for table, changes in tables.items():
        values[table] = values.get(table, {}) | changes if isinstance(changes, dict) else changes
    return Federation.model_validate(values)


def others(value: Any) -> Iterator[Any]:
    """Values in the place of one, of which some may be allowed."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value / 2, 0, 1, 2)
    elif isinstance(value, str):
        yield from (
            "int8",
            "float32",
            "sgd",
            "constant",
            "equal",
            "rolora",
            "other",
            "0" * 64,
            "all-linear",
            "top-1",
            "cls",
        )
    elif isinstance(value, list):
        yield from (value[::-1], value[:1], [*value, "added"])


def variants(federation: Federation) -> Iterator[tuple[str, Federation]]:
    """Every key of the file with another value, one at a time, where there is an allowed one."""
    values = json.loads(federation.model_dump_json())

    def walk(table: dict[str, Any], at: str) -> Iterator[tuple[str, Federation]]:
        for key, kept in table.items():
            path = f"{at}{key}"
            if isinstance(kept, dict):
                yield from walk(kept, f"{path}.")
                continue
            for other in others(kept) if kept is not None else (1, 2, 0.5, "hospital"):
                table[key] = other
                try:
                    changed = Federation.model_validate(values)
                except (ValidationError, TypeError):
                    continue
                finally:
                    table[key] = kept
                if changed.digest != federation.digest:
                    yield path, changed
                    break

    yield from walk(values, "")


def test_every_key_that_differs_is_named(tiny_federation: Callable[..., Federation]) -> None:
    named = {"rounds.count": "rounds ", "rounds.institutions": "institution"}
    for tables in ({}, PRIVATE):
        federation = tiny_federation(("hospital", "bank", "clinic"), **tables)
        found = dict(variants(federation))
        assert len(found) > 45
        for path, changed in found.items():
            lines = describe_changes(federation, changed)
            begins = named.get(path, f"{path}: "), f"{path} are "
            assert any(line.startswith(begins) for line in lines), (path, lines)
            assert describe_changes(changed, federation)
    assert describe_changes(federation, federation) == []


def test_what_protects_owners_stands_first(tiny_federation: Callable[..., Federation]) -> None:
    old = tiny_federation(("hospital", "bank"), **PRIVATE)
    new = edited(
        old,
        privacy={"epsilon": 9.0},
        tasks=json.loads(old.model_dump_json(exclude_none=True))["tasks"] | {"codes": {"type": "question-answering"}},
        rounds={"count": 12, "institutions": ["hospital", "clinic"]},
        name="other",
    )
    lines = describe_changes(old, new)
    assert lines[0] == "privacy.epsilon: 3.0 -> 9.0"
    assert lines[1] == "task 'codes' is added"
    assert lines[-4:] == [
        "name: 'tiny' -> 'other'",
        "rounds 2 -> 12",
        "institution 'clinic' joins",
        "institution 'bank' leaves",
    ]
    gone = old.model_copy(update={"privacy": None})
    assert "[privacy] is dropped" in describe_changes(old, gone)[:1]


def test_words_cannot_be_forged(tiny_federation: Callable[..., Federation]) -> None:
    old = tiny_federation()
    tasks = json.loads(old.model_dump_json(exclude_none=True))["tasks"]
    labels = ["payment", "liability", "pаyment", "x\x1b[2J\nrounds 2 -> 3", "a\u202eb", "n\u00e9"]  # noqa: RUF001
    lines = describe_changes(old, edited(old, tasks=tasks | {"clauses": tasks["clauses"] | {"labels": labels}}))
    assert len(lines) == 1
    assert lines[0].startswith("tasks.clauses.labels: adds ")
    assert r"(spelt 'p\u0430yment')" in lines[0]
    assert lines[0].isprintable()
    assert "\u202e" not in lines[0]


def test_a_difference_far_into_a_text_is_shown(tiny_federation: Callable[..., Federation]) -> None:
    old = tiny_federation()
    long = "/models/" + "a" * 400
    before = edited(old, backbone={"name": long + "x" + "b" * 300})
    (line,) = describe_changes(before, edited(old, backbone={"name": long + "y" + "b" * 300}))
    assert line.startswith("backbone.name: ... '")
    assert "ax" in line
    assert "ay" in line
    assert len(line) < 400


def test_additions_are_institutions_and_rounds_alone(tiny_federation: Callable[..., Federation]) -> None:
    old = tiny_federation(("hospital", "bank"))
    assert only_adds(old, edited(old, rounds={"institutions": ["hospital", "bank", "clinic"]}))
    assert only_adds(old, edited(old, rounds={"count": 9}))
    assert only_adds(old, edited(old, rounds={"count": 9, "institutions": ["hospital", "bank", "clinic"]}))
    assert not only_adds(old, old)
    assert not only_adds(old, edited(old, rounds={"count": 1}))
    for institutions in (["bank", "hospital"], ["hospital"], ["hospital", "clinic"], ["clinic", "hospital", "bank"]):
        assert not only_adds(old, edited(old, rounds={"institutions": institutions}))
    allowed = {path for path, changed in variants(old) if only_adds(old, changed)}
    assert allowed <= {"rounds.count", "rounds.institutions"}
    for path, changed in variants(old):
        grown = changed.rounds.model_copy(update={"count": changed.rounds.count + 1})
        both = changed.model_copy(update={"rounds": grown})
        assert path in ("rounds.count", "rounds.institutions") or not only_adds(old, both), path


def test_additions_that_change_something_else_are_none(tiny_federation: Callable[..., Federation]) -> None:
    private = tiny_federation(("hospital", "bank"), **PRIVATE)
    assert not only_adds(private, edited(private, rounds={"count": 9})), "the noise follows the rounds"
    assert only_adds(private, edited(private, rounds={"institutions": ["hospital", "bank", "clinic"]}))
    names = [f"site{n}" for n in range(10)]
    automatic = tiny_federation(names, rounds={"method": "auto"}, adapter={"rank": 8})
    more = edited(automatic, rounds={"institutions": [*names, "site10"]})
    assert (automatic.method_name, more.method_name) == ("fedex", "rolora")
    assert not only_adds(automatic, more)
    assert describe_changes(automatic, more)[0].endswith("chooses: fedex -> rolora")


@pytest.mark.parametrize("table", ["privacy", "secure_aggregation", "personal", "robust"])
def test_a_table_that_comes_or_goes_is_named(tiny_federation: Callable[..., Federation], table: str) -> None:
    tables: dict[str, Any] = {
        "privacy": PRIVATE,
        "secure_aggregation": {"secure_aggregation": {"threshold": 3}, "rounds": {"quorum": 3}},
        "personal": {"personal": {"keep": ["heads"]}},
        "robust": {"robust": {"filter": "norm-bound"}, "rounds": {"weighting": "equal", "quorum": 3}},
    }
    given = tables[table]
    names = ("hospital", "bank", "clinic")
    without, with_it = tiny_federation(names), tiny_federation(names, **given)
    assert f"[{table}] is added" in describe_changes(without, with_it)
    assert f"[{table}] is dropped" in describe_changes(with_it, without)
