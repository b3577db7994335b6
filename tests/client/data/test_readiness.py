"""Readiness: every number of the report against data whose faults are counted by hand."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from client.data import readiness
from client.data.loading import load_data
from client.data.readiness import examine, summary, survey
from client.data.verdicts import judge
from client.institution import Data
from shared.errors import BackboneError
from shared.model.backbone import fingerprint, load_tokenizer
from shared.tasks import Record, Task, TaskSpec, build_task

MAX_LENGTH = 16
KEY = bytes(32)
SPECS: dict[str, dict[str, Any]] = {
    "clauses": {"type": "text-classification", "labels": ["payment", "liability", "notice"]},
    "entities": {"type": "token-classification", "types": ["Drug", "Party"]},
    "notes_qa": {"type": "question-answering"},
    "pairs": {"type": "text-pair-classification", "labels": ["yes", "no"]},
    "alike": {"type": "sentence-similarity"},
    "relations": {"type": "relation-extraction", "labels": ["none", "treats"]},
    "summaries": {"type": "extractive-summarization"},
    "masks": {"type": "fill-mask"},
    "order": {"type": "next-sentence-prediction"},
}
TASKS = {name: build_task(name, TypeAdapter(TaskSpec).validate_python(spec)) for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(tiny_bert), fingerprint(tiny_bert))


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def clause(text: str, label: str = "payment") -> dict[str, str]:
    return {"text": text, "label": label}


def measure(task: Task, records: list[Record], tokenizer: PreTrainedTokenizerFast) -> readiness.Lengths:
    lengths = examine(task, {"train": list(enumerate(records))}, tokenizer, MAX_LENGTH).splits["train"].lengths
    assert lengths is not None
    return lengths


def test_every_bad_row_of_every_task_is_counted_and_none_stops_the_survey(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [clause("a"), {"label": "payment"}, b"{oops", b'{"text": "caf\xe9", "label": "payment"}', clause("b", "x")]
    data = {
        "gossip": Data(train=tmp_path / "none.jsonl"),
        "clauses": Data(
            train=write(tmp_path / "a.jsonl", rows * 3),
            validation=write(tmp_path / "v.jsonl", []),
            test=tmp_path / "none.jsonl",
        ),
        "entities": Data(
            train=write(tmp_path / "e.jsonl", [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": []}])
        ),
    }
    report = survey(data, TASKS, tokenizer, MAX_LENGTH, KEY)
    files = report["clauses"].files
    assert (files["train"].rows, [number for number, _ in files["train"].bad]) == (
        15,
        [2, 3, 4, 5, 7, 8, 9, 10, *range(12, 16)],
    )
    assert [row.encoding for _, row in files["train"].bad[:4]] == [False, False, True, False]
    assert "'x' is not among" in files["train"].bad[3][1].what
    assert (files["validation"].rows, files["validation"].broken) == (0, None)
    assert "there is none" in (files["test"].broken or "")
    assert "no task 'gossip'" in (report["gossip"].refused or "")
    assert [number for number, _ in report["entities"].files["train"].bad] == [2]


def test_a_file_that_breaks_off_keeps_what_came_before(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    whole = gzip.compress(b"".join(json.dumps(clause(f"text {n}")).encode() + b"\n" for n in range(5000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    file = survey({"clauses": Data(train=tmp_path / "a.jsonl.gz")}, TASKS, tokenizer, MAX_LENGTH, KEY)["clauses"].files[
        "train"
    ]
    assert "Could not read" in (file.broken or "")
    assert 0 < file.rows < 5000


def test_it_looks_at_the_records_that_training_would_use(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.jsonl", [clause(f"text {n}", "payment" if n % 3 else "notice") for n in range(60)])
    data = {"clauses": Data(train=path, limit=40)}
    report = survey(data, TASKS, tokenizer, MAX_LENGTH, KEY)["clauses"]
    loaded = load_data(data, TASKS, tokenizer, MAX_LENGTH, KEY)["clauses"]
    assert report.files["train"].rows == 60
    assert "validation" not in report.files
    for split in ("train", "validation"):
        used = loaded[split].records
        assert report.splits[split].records == len(used)
        assert report.splits[split].labels["notice"] == sum(record["label"] == "notice" for record in used)


def test_duplicates_are_exact_and_overlap_ignores_case_and_white_space(tokenizer: PreTrainedTokenizerFast) -> None:
    train = [clause("We pay."), clause("we pay."), clause("We pay."), clause("We pay.", "notice"), clause("Other.")]
    test = [clause("WE \n pay. "), clause("other."), clause("New."), clause("New.")]
    rows = {"train": list(enumerate(train)), "test": list(enumerate(test))}
    report = examine(TASKS["clauses"], rows, tokenizer, MAX_LENGTH)  # type: ignore[arg-type]
    assert (report.splits["train"].duplicates, report.splits["train"].contradictions) == (2, 1)
    assert (report.splits["train"].overlap, report.splits["test"].overlap) == (0, 2)
    assert (report.splits["test"].duplicates, report.splits["test"].contradictions) == (1, 0)


def test_texts_that_only_join_alike_are_not_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [{"text_a": "a b", "text_b": "c", "label": "yes"}, {"text_a": "a", "text_b": "b c", "label": "no"}]
    report = examine(TASKS["pairs"], {"train": [(1, pairs[0])], "test": [(1, pairs[1])]}, tokenizer, MAX_LENGTH)
    assert report.splits["test"].overlap == 0


def test_two_pairs_of_entities_in_one_sentence_are_two_inputs(tokenizer: PreTrainedTokenizerFast) -> None:
    sentence = {"tokens": ["Aspirin", "eases", "pain"], "label": "treats"}
    records = [sentence | {"head": [0, 1], "tail": [2, 3]}, sentence | {"head": [2, 3], "tail": [0, 1]}]
    report = examine(TASKS["relations"], {"train": list(enumerate(records))}, tokenizer, MAX_LENGTH)
    assert report.splits["train"].duplicates == 0


def test_lengths_are_those_of_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["pay " * n for n in (1, 2, 3, 14, 15, 40)]
    lengths = measure(TASKS["clauses"], [clause(text) for text in texts], tokenizer)
    assert (lengths.measured, lengths.shortest, lengths.median, lengths.longest) == (6, 3, 10.5, 42)
    assert lengths.p95 == pytest.approx(17 + 0.75 * (42 - 17))
    assert (lengths.cut, lengths.windowed) == (2, 0)  # those of 17 and 42


WORDS = ["pay"] * 40
LONG: dict[str, tuple[Record, str]] = {
    "clauses": (clause(" ".join(WORDS)), "cut"),
    "pairs": ({"text_a": " ".join(WORDS), "text_b": "pay", "label": "yes"}, "cut"),
    "alike": ({"text_a": "pay", "text_b": " ".join(WORDS), "score": 1}, "cut"),
    "relations": ({"tokens": WORDS, "head": [0, 1], "tail": [1, 2], "label": "none"}, "cut"),
    "order": ({"sentences": [" ".join(WORDS), "pay"]}, "cut"),
    "entities": ({"tokens": WORDS, "tags": ["O"] * 40}, "windowed"),
    "notes_qa": ({"context": " ".join(WORDS), "question": "pay", "answers": []}, "windowed"),
    "summaries": ({"sentences": ["pay " * 9] * 4, "summary": ["pay"]}, "windowed"),
    "masks": ({"text": " ".join(WORDS)}, "windowed"),
}
SHORT: dict[str, Record] = {
    "clauses": clause("pay"),
    "pairs": {"text_a": "pay", "text_b": "pay", "label": "yes"},
    "alike": {"text_a": "pay", "text_b": "pay", "score": 1},
    "relations": {"tokens": ["pay", "it"], "head": [0, 1], "tail": [1, 2], "label": "none"},
    "order": {"sentences": ["pay", "it"]},
    "entities": {"tokens": ["pay"], "tags": ["O"]},
    "notes_qa": {"context": "pay", "question": "pay", "answers": []},
    "summaries": {"sentences": ["pay"], "summary": ["pay"]},
    "masks": {"text": "pay"},
}


@pytest.mark.parametrize("name", LONG)
def test_each_task_type_is_cut_or_windowed(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    record, fate = LONG[name]
    TASKS[name].check(record)
    lengths = measure(TASKS[name], [record], tokenizer)
    assert {"cut": lengths.cut, "windowed": lengths.windowed} == {"cut": 0, "windowed": 0} | {fate: 1}
    assert lengths.longest > MAX_LENGTH
    lengths = measure(TASKS[name], [SHORT[name]] * 3, tokenizer)
    assert (lengths.cut, lengths.windowed) == (0, 0)
    assert lengths.longest <= MAX_LENGTH


def test_of_many_records_a_fixed_choice_is_measured(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "MEASURED", 10)
    records: list[Record] = [clause("pay " * n) for n in range(1, 60)]
    first = measure(TASKS["clauses"], records, tokenizer)
    assert first.measured == 10
    assert first == measure(TASKS["clauses"], records, tokenizer)
    monkeypatch.setattr(readiness, "MEASURED_CHARACTERS", 200)
    assert 0 < measure(TASKS["clauses"], records, tokenizer).measured < 10
    monkeypatch.setattr(readiness, "MEASURED_CHARACTERS", 1)
    assert measure(TASKS["clauses"], records, tokenizer).measured == 1


def test_labels_and_troubles_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    records: list[Mapping[str, Any]] = [
        {"tokens": ["aspirin", "and", "ibuprofen", "plus"], "tags": ["B-Drug", "O", "B-Drug", "I-Drug"]},
        {"tokens": ["nothing", "here"], "tags": ["O", "O"]},
        {"tokens": ["caf\u00c3\u00a9", "\ufffd"], "tags": ["O", "B-Party"]},
    ]
    split = examine(TASKS["entities"], {"train": list(enumerate(records, 7))}, tokenizer, 64).splits["train"]
    assert split.labels == {"Drug": 2, "Party": 1}
    assert (split.unlabelled, split.non_ascii) == (1, 1)
    assert split.troubles == {"replacement characters": (9,), "mojibake": (9,)}


def test_the_summary_is_numbers_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [clause("Secret one."), clause("Secret one."), clause("Secret two.", "liability"), clause("pay " * 40), b"{"]
    data = {
        "clauses": Data(
            train=write(tmp_path / "a.jsonl", rows),
            validation=write(tmp_path / "v.jsonl", [clause("Fresh.")]),
            test=write(tmp_path / "t.jsonl", [clause("secret ONE."), clause("page\x0cbreak")]),
        ),
        "gossip": Data(train=tmp_path / "a.jsonl"),
    }
    numbers = summary(survey(data, TASKS, tokenizer, MAX_LENGTH, KEY))
    assert numbers["clauses"] == {
        "rows": 8,
        "bad_rows": 1,
        "duplicate_rate": pytest.approx(1 / 7),
        "cut_rate": pytest.approx(1 / 7),
        "windowed_rate": 0,
        "troubled_rate": pytest.approx(1 / 7),
        "validation_overlap_rate": 0,
        "test_overlap_rate": 0.5,
        "median_length": 5,
        "p95_length": pytest.approx(5 + 0.85 * 37),
        "labels_without_record": 1,
        "majority_share": 0.75,
    }
    assert all(type(number) is float for each in numbers.values() for number in each.values())
    assert not any(word in json.dumps(numbers).lower() for word in ("secret", "liability", str(tmp_path)))


def test_what_a_site_does_not_annotate_is_not_missed(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.jsonl", [{"tokens": ["x"], "tags": ["B-med"]}] * 3)
    source = Data(train=path, annotates=("Drug",), rename={"med": "Drug"})
    report = survey({"entities": source}, TASKS, tokenizer, MAX_LENGTH, KEY)["entities"]
    assert report.labels == ("Drug",)
    assert report.splits["train"].labels == {"Drug": 3}


def test_a_tokenizer_of_another_backbone_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(BackboneError, match="with fingerprint 0000"):
        load_tokenizer(str(tiny_bert), "0" * 64)


def test_owners_of_two_splits_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """In any task's train: a patient whose notes train one task is no judge of another."""
    notes = [clause(f"text {n}") | {"who": who} for n, who in enumerate(["P-1", "P-2", "P-3", "p-02"])]
    words = [{"tokens": [f"word{n}"], "tags": ["O"], "patient": who} for n, who in enumerate(["p-4", "p-5"])]
    data = {
        "clauses": Data(
            train=write(tmp_path / "n.jsonl", notes[:2]),
            validation=write(tmp_path / "v.jsonl", notes[1:]),
            group_by="who",
        ),
        "entities": Data(
            train=write(tmp_path / "w.jsonl", words),
            validation=write(tmp_path / "x.jsonl", [words[0] | {"patient": "P-1"}]),
            test=write(tmp_path / "t.jsonl", [words[0] | {"patient": "P-9"}]),
            group_by="patient",
        ),
        "masks": Data(train=write(tmp_path / "m.jsonl", [{"text": f"text {n}"} for n in range(30)])),
    }
    report = survey(data, TASKS, tokenizer, MAX_LENGTH, KEY)
    found = {
        (name, split): (each.owners, each.trained)
        for name, task in report.items()
        for split, each in task.owners.items()
    }
    assert found == {
        ("clauses", "train"): (2, ()),
        ("clauses", "validation"): (2, ("p-2",)),
        ("entities", "train"): (2, ()),
        ("entities", "validation"): (1, ("p-1",)),
        ("entities", "test"): (1, ()),
    }
    said = {(f.task, f.split, f.verdict): f.text for f in judge(report) if f.check == "owners"}
    assert said.keys() == {("clauses", "validation", "warning"), ("entities", "validation", "warning")}
    assert "1 of 2 owners are in train too ('p-2')" in said["clauses", "validation", "warning"]


def test_a_table_that_cannot_be_used_is_said(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.jsonl", [clause(f"text {n}") for n in range(30)])
    few = Data(train=path, limit=1e-9)
    report = survey({"clauses": few}, TASKS, tokenizer, MAX_LENGTH, KEY)["clauses"]
    assert "all 30 are held out or left out" in (report.refused or "")
    assert report.files["train"].rows == 30
    for limit, refused in ((20, True), (0.5, False)):
        data = {"clauses": Data(train=path, limit=limit)}
        report = survey(data, TASKS, tokenizer, MAX_LENGTH, KEY, private=True)["clauses"]
        assert ("share below 1 under [privacy]" in (report.refused or "")) == refused
