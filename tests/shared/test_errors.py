"""Sentences have bounds: at most 20 items and a count, and a length that is stated, whatever comes."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.rounds.handshake import describe, gaps
from server.rounds.replies import Holdings
from shared.config import Model, parse
from shared.errors import LONGEST_LINE, LONGEST_TEXT, MOST_LISTED, ConfigError, Reasons, joined, listed, plain, shown
from shared.federation import Federation
from shared.tasks import build_task

ROOT = Path(__file__).parents[2]
ROOMS = ("collegium", "server", "client", "shared")
MANY = [f"name-{number:05d}" for number in range(10_000)]
LONG = "x" * 100_000


def test_of_many_the_first_and_a_count() -> None:
    assert listed(["a", 7, None]) == "['a', 7, None]" == str(["a", 7, None])
    assert listed([]) == "[]"
    assert listed(MANY).endswith("'name-00019', and 9980 more]")
    assert listed(dict.fromkeys(MANY)) == listed(MANY)
    assert joined(MANY, "; ", most=2) == "name-00000; name-00001; and 9998 more"
    assert joined(MANY[:MOST_LISTED]) == ", ".join(MANY[:MOST_LISTED])


@pytest.mark.parametrize("make", [shown, plain, lambda text: listed([text])])
def test_of_a_long_one_the_beginning(make: Callable[[str], str]) -> None:
    assert len(make(LONG)) <= LONGEST_TEXT
    assert "..." in make(LONG)


def test_errors_of_a_file_are_told_in_bounds() -> None:
    class Wanted(Model):
        name: str

    with pytest.raises(ConfigError) as caught:
        parse(Wanted, {"name": LONG[:50], **dict.fromkeys(MANY, 1)}, where="a.toml")
    assert str(caught.value).count(" is not a known key") == MOST_LISTED
    assert str(caught.value).endswith("and 9980 more")


def test_errors_that_are_gathered_are_told_in_bounds() -> None:
    reasons = Reasons()
    for name in MANY[:500]:
        with reasons.gather():
            raise ConfigError(f"{name} is wrong.")
    with pytest.raises(ConfigError, match=r"and 480 more$"):
        reasons.end()


def test_a_federation_of_many_institutions_and_labels_is_refused_in_a_page(
    tiny_federation: Callable[..., Federation],
) -> None:
    labels = [f"label-{number}" for number in range(500)]
    federation = tiny_federation(
        MANY[:500], tasks={"topics": {"type": "text-classification", "labels": labels}}, rounds={"quorum": 500}
    )
    values: dict[str, Any] = federation.model_dump(mode="json", exclude_none=True)
    wrong = {
        "robust root": values | {"robust": {"filter": "fltrust", "root": "nobody"}},
        "repeated": values | {"rounds": values["rounds"] | {"institutions": [*MANY[:500], MANY[0]]}},
        "unknown keys": values | dict.fromkeys(MANY, 1),
        "tasks": values | {"tasks": {name: {"type": "nonsense"} for name in MANY}},
        "labels": values | {"tasks": {"topics": {"type": "text-classification", "labels": [*labels, labels[0]]}}},
    }
    for name, each in wrong.items():
        with pytest.raises(ConfigError) as caught:
            parse(Federation, each, where="federation.toml")
        assert len(str(caught.value)) <= 2 * LONGEST_LINE, name
    tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
    holdings = {name: Holdings({"topics": {"train": 1}}, {"topics": dict.fromkeys(labels, 0)}) for name in MANY[:500]}
    for line in [*describe(MANY[0], holdings[MANY[0]], tasks), *gaps(holdings, tasks)]:
        assert len(line) <= LONGEST_LINE


def test_a_long_key_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Model, {LONG: 1}, where="a.toml")
    assert len(str(caught.value)) < LONGEST_TEXT


def unbounded(code: str) -> list[str]:
    """Sentences that name all of a collection, however many there are: f"... {sorted(names)} ..." and such."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value in (part.value for part in node.values if isinstance(part, ast.FormattedValue)):
            called = value.func if isinstance(value, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("sorted", "list", "set", "tuple", "dict"):
                found.append(ast.unparse(node))
    return found


def test_no_sentence_of_the_code_lists_without_bounds() -> None:
    assert len(unbounded('f"one of {sorted(names)} or {listed(names)}"')) == 1
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert [line for file in files for line in unbounded(file.read_text(encoding="utf-8"))] == []
