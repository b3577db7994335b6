"""Verdicts: each threshold from both sides, and a sentence that says what to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.data.loading import FileReport
from client.data.readiness import Lengths, SplitReport, TaskReport
from client.data.sources import BadRow
from client.data.verdicts import Finding, judge
from shared.fields import Split

GOOD = SplitReport(
    records=100,
    duplicates=0,
    contradictions=0,
    overlap=0,
    non_ascii=0,
    labels={"a": 60, "b": 40},
    unlabelled=0,
    lengths=Lengths(measured=100, shortest=3, median=10, p95=20, longest=30, cut=0, windowed=0),
    troubles={},
)
FILE = FileReport(Path("data.jsonl"), 100, ())


def report(split: Split = "train", file: FileReport = FILE, max_length: int = 256, **changes: Any) -> TaskReport:
    return TaskReport(("a", "b"), max_length, {split: replace(GOOD, **changes)}, {split: file})


def find(task: TaskReport, check: str) -> list[Finding]:
    return [finding for finding in judge({"mine": task}) if finding.check == check]


def lengths(**changes: Any) -> dict[str, Any]:
    assert GOOD.lengths is not None
    return {"lengths": replace(GOOD.lengths, **changes)}


@pytest.mark.parametrize(
    ("check", "task", "verdict", "said"),
    [
        ("rows", report(), "ok", "every row is a record"),
        ("rows", report(file=FileReport(FILE.path, 0, ())), "error", "the file is empty; put"),
        ("rows", report(file=FileReport(FILE.path, 100, ((3, BadRow("x")),))), "error", "1 of 100 rows (1.0%)"),
        ("rows", report(file=FileReport(FILE.path, 0, (), "Gone.")), "error", "Gone."),
        ("encoding", report(file=FileReport(FILE.path, 9, ((3, BadRow("x", True)),))), "error", "the whole file"),
        ("encoding", report(file=FileReport(FILE.path, 9, ((3, BadRow("x", True)),)), non_ascii=7), "error", "mixed"),
        ("text", report(), "ok", "reads as text"),
        ("text", report(troubles={"mojibake": (4,)}), "warning", "(lines 4); export"),
        ("text", report(troubles={"few letters": (4,)}), "ok", "1 of 100 rows (1.0%) have few letters"),
        ("text", report(troubles={"few letters": (4, 5)}), "warning", "(lines 4, 5); see"),
        ("duplicates", report(duplicates=1), "warning", "keep one of each"),
        ("duplicates", report(duplicates=1, records=101), "ok", "1 of 101 rows"),
        ("duplicates", report(duplicates=1, contradictions=1, records=101), "warning", "under another label; decide"),
        ("overlap", report("test", overlap=1, records=101), "ok", "1 of 101 rows"),
        ("overlap", report("test", overlap=1), "warning", "take them out of train"),
        ("overlap", report("validation", overlap=50), "error", "name a validation file of other records"),
        ("length", report(), "ok", "every row fits 256"),
        ("length", report(**lengths(cut=4)), "ok", "are cut to 256"),
        ("length", report(**lengths(cut=5)), "warning", "a larger backbone.max_length"),
        ("length", report(max_length=512, **lengths(cut=5)), "warning", "; put what decides first"),
        ("length", report(**lengths(windowed=100)), "ok", "in several windows of 256"),
        ("labels", report(), "ok", "all 2 labels occur"),
        ("labels", report(labels={"a": 8, "b": 1}), "ok", "89%"),
        ("labels", report(labels={"a": 9, "b": 1}), "warning", "90% of the labels are 'a'; bring"),
    ],
)
def test_a_check_says_one_thing_with_its_verdict(check: str, task: TaskReport, verdict: str, said: str) -> None:
    (finding,) = find(task, check)
    assert finding.verdict == verdict
    assert said in finding.text
    assert finding.text.endswith(".")
    assert finding.split == (None if verdict == "ok" else next(iter(task.splits)))


def test_a_label_without_a_row_is_named() -> None:
    first, second = find(report(labels={"a": 9}), "labels")
    assert "no row bears 'b'" in first.text
    assert "100%" in second.text


def test_an_overlap_of_a_held_out_split_is_a_matter_of_repeated_rows() -> None:
    held_out = replace(report(), splits={"train": GOOD, "validation": replace(GOOD, overlap=100)})
    (finding,) = find(held_out, "overlap")
    assert (finding.verdict, finding.split) == ("warning", "validation")
    assert "take what is repeated out of that file" in finding.text


def test_the_only_label_that_a_site_annotates_is_no_majority() -> None:
    (finding,) = find(replace(report(labels={"a": 9}), labels=("a",)), "labels")
    assert finding.verdict == "ok"


def test_labels_are_judged_by_train_and_overlap_by_the_others() -> None:
    assert find(report("test", labels={}), "labels") == []
    assert find(report("train"), "overlap") == []


def test_what_passes_everywhere_is_said_once() -> None:
    splits: dict[Split, SplitReport] = {"train": GOOD, "validation": GOOD, "test": replace(GOOD, overlap=0, records=5)}
    findings = judge({"mine": TaskReport(("a", "b"), 256, splits)})
    assert [(f.check, f.split, f.verdict) for f in findings] == [
        (check, None, "ok") for check in ("text", "duplicates", "overlap", "length", "labels")
    ]
    (finding,) = find(TaskReport(("a", "b"), 256, {**splits, "test": replace(GOOD, **lengths(cut=1))}), "length")
    assert finding.text == (
        "train, validation: every row fits 256 sub-tokens; test: 1 of 100 rows (1.0%) are cut to 256 sub-tokens."
    )


def test_a_refused_table_and_an_empty_split_say_no_more_than_that() -> None:
    (finding,) = judge({"mine": TaskReport((), 256, {}, refused="No such task.")})
    assert (finding.verdict, finding.check, finding.text) == ("error", "table", "No such task.")
    (finding,) = judge({"mine": report(file=FileReport(FILE.path, 0, ()), records=0, lengths=None, labels={})})
    assert finding.check == "rows"
