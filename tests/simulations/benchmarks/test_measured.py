"""Sides take turns, and what is told is the ratio within a turn."""

import json

import pytest

from simulations.benchmarks.measured import Comparison, Goal, Result, cpu_seconds, in_turns, machine


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = in_turns({"ours": lambda: side("ours"), "theirs": lambda: side("theirs")}, 3)
    assert order == ["ours", "theirs"] * 3
    assert found == {"ours": [1.0, 3.0, 5.0], "theirs": [2.0, 4.0, 6.0]}


def compare(goal: Goal | None) -> Comparison:
    return Comparison(subject="we", against="they", unit="s", ours=[2.0, 9.0, 4.0], theirs=[1.0, 3.0, 8.0], goal=goal)


@pytest.mark.parametrize(
    ("kind", "value", "reached"),
    [
        ("at least", 2, True),
        ("at least", 2.1, False),
        ("at most", 2, True),
        ("at most", 1.9, False),
        ("below", 2, False),
    ],
)
def test_the_median_of_the_turns_ratios_is_held_against_the_goal(kind: str, value: float, reached: bool) -> None:
    comparison = compare(Goal.model_validate({"kind": kind, "value": value}))
    assert comparison.ratio.model_dump() == {"min": 0.5, "median": 2.0, "max": 3.0}
    assert comparison.reached is reached
    assert compare(None).reached is None


def test_a_result_is_read_as_it_was_written() -> None:
    result = Result(name="one", machine=machine(), comparisons=[compare(Goal(kind="below", value=3))])
    written = json.loads(result.model_dump_json())
    assert written["ratio"] == written["comparisons"][0]["ratio"] == {"min": 0.5, "median": 2.0, "max": 3.0}
    assert {"cpu", "cores", "threads", "dtype", "load", "torch"} <= written["machine"].keys()
    assert Result.model_validate_json(result.model_dump_json()).model_dump_json() == result.model_dump_json()
    assert Result(name="none", machine={}).ratio is None


def test_cpu_seconds_are_of_the_work() -> None:
    assert 0 <= cpu_seconds(lambda: None) < cpu_seconds(lambda: sum(range(10**6)))
