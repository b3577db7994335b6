"""Scores of rounds rest on the same institutions and tasks, whoever was away."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from server.rounds.comparing import compare

METRICS = {"clauses": "macro_f1", "codes": "macro_f1"}


def row(number: int, institution: str, task: str, value: float, examples: int = 10, **other: Any) -> dict[str, Any]:
    base = {"round": number, "split": "validation", "institution": institution, "task": task, "metric": "macro_f1"}
    return base | {"value": value, "examples": examples} | other


def test_the_absence_of_the_hardest_task_wins_no_round() -> None:
    rows = [row(n, "bank", "clauses", 0.8 + n / 100) for n in range(1, 5)]
    rows += [row(n, "clinic", "codes", 0.2 + n / 10) for n in (1, 2, 4)]
    found = compare(rows, METRICS, 1.0)
    assert {n: one.score for n, one in found.items()} == pytest.approx({1: 0.555, 2: 0.61, 3: 0.615, 4: 0.72})
    assert {n: dict(one.carried) for n, one in found.items() if one.carried} == {3: {("clinic", "codes"): 2}}
    assert found[3].describe() == "clinic's codes as in round 2"
    assert found[4].describe() == ""


def test_who_comes_later_counts_in_earlier_rounds_with_its_first_score() -> None:
    rows = [row(1, "bank", "clauses", 0.8), row(2, "bank", "clauses", 0.8), row(2, "clinic", "codes", 0.1)]
    found = compare(rows, METRICS, 1.0)
    assert found[1].score == found[2].score == pytest.approx(0.45)
    assert found[1].carried == {("clinic", "codes"): 2}


def test_other_splits_and_metrics_and_rounds_without_scores_do_not_count() -> None:
    rows = [row(1, "bank", "clauses", 0.8), row(1, "bank", "clauses", 0.1, metric="accuracy")]
    rows += [row(2, "bank", "clauses", 0.1, split="test"), row(2, "bank", "gone", 0.1)]
    assert {n: one.score for n, one in compare(rows, METRICS, 1.0).items()} == {1: 0.8}
    assert compare([], METRICS, 1.0) == {}


def oracle(values: Mapping[tuple[int, str, str], tuple[float, int]], number: int) -> float:
    """Step by step: remember everybody's last score, and look ahead for who has none yet."""
    seen: dict[tuple[str, str], tuple[float, int]] = {}
    for n in sorted({n for n, *_ in values}, reverse=True):
        seen |= {(i, t): v for (m, i, t), v in values.items() if m == n >= number}
    for n in range(number + 1):
        seen |= {(i, t): v for (m, i, t), v in values.items() if m == n}
    means = []
    for task in {t for _, t in seen}:
        mine = [v for (_, t), v in seen.items() if t == task]
        means.append(sum(v * n for v, n in mine) / sum(n for _, n in mine))
    return sum(means) / len(means)


def test_equal_to_remembering_step_by_step() -> None:
    draw = random.Random(3)
    for _ in range(50):
        keys = [(n, i, t) for n in range(1, 7) for i in "abc" for t in METRICS if draw.random() < 0.5]
        values = {key: (draw.random(), draw.randint(1, 30)) for key in keys}
        rows = [row(*key, *value) for key, value in values.items()]
        found = compare(rows, METRICS, 1.0)
        assert set(found) == {n for n, *_ in values}
        assert {n: one.score for n, one in found.items()} == pytest.approx({n: oracle(values, n) for n in found})
