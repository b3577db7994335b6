"""Prediction reads inputs alone: labels are ignored, and what cannot be read is named by file and line."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from client.predict import Predictor, open_bundle, records_of
from collegium.__main__ import app
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.model.multitask import build_model

TASKS: dict[str, dict[str, Any]] = {
    "topics": {"type": "text-classification", "labels": ["positive", "negative"]},
    "codes": {"type": "text-classification", "labels": ["A01", "B02"], "multi_label": True},
    "entities": {"type": "token-classification", "types": ["Drug", "Disease"]},
    "pairs": {"type": "text-pair-classification", "labels": ["yes", "no"]},
    "alike": {"type": "sentence-similarity"},
    "questions": {"type": "question-answering"},
    "relations": {"type": "relation-extraction", "labels": ["treats", "none"], "no_relation": "none"},
    "summaries": {"type": "extractive-summarization", "summary_sentences": 1},
    "writing": {"type": "text-generation", "max_target_tokens": 4, "beams": 1},
    "masks": {"type": "fill-mask"},
    "next": {"type": "next-sentence-prediction"},
}


@pytest.fixture(scope="module")
def bundle(tiny_federation: Callable[..., Federation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained release with every type of task."""
    federation = tiny_federation(tasks=TASKS)
    folder = tmp_path_factory.mktemp("release") / "bundle"
    state = get_state(build_model(federation))
    return write_bundle(folder, federation, state, {}, metrics={"settings": {}}, readme="untrained")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return open_bundle(bundle)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


GOOD: Mapping[str, dict[str, Any]] = {
    "topics": {"text": "It is late."},
    "codes": {"text": "It is late."},
    "entities": {"tokens": ["Aspirin", "helps"]},
    "pairs": {"text_a": "One.", "text_b": "Two."},
    "alike": {"text_a": "One.", "text_b": "Two."},
    "questions": {"context": "Rent is due on Monday.", "question": "When?"},
    "relations": {"tokens": ["Aspirin", "treats", "pain"], "head": [0, 1], "tail": [2, 3]},
    "summaries": {"sentences": ["One.", "Two."]},
    "writing": {"source": "One."},
    "masks": {"text": "The [MASK] came late."},
    "next": {"text_a": "One.", "text_b": "Two."},
}
LABELS = ("label", "labels", "tags", "answers", "summary", "oracle", "target", "score")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("label", [None, "something else", ["neither"], {"text": ["x"], "answer_start": [1]}], ids=repr)
def test_labels_are_not_read(predictor: Predictor, tmp_path: Path, task: str, suffix: str, label: Any) -> None:
    plain = predictor.predict(task, [GOOD[task]])
    path = write(tmp_path / f"new{suffix}", [GOOD[task] | dict.fromkeys(LABELS, label)])
    records = records_of(predictor, task, text=None, second=None, file=path)
    assert predictor.predict(task, records) == plain
    assert predictor.predict(task, [GOOD[task] | dict.fromkeys(LABELS, label)]) == plain


def test_a_csv_without_labels_is_read(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('\ufefftokens,tags\n"[""Aspirin"", ""helps""]",\n"[""No""]",not a list\n', encoding="utf-8")
    records = records_of(predictor, "entities", text=None, second=None, file=path)
    assert [len(tags) for tags in predictor.predict("entities", records)] == [2, 1]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("topics", {"body": "It is late."}, "expected text in 'text', but None came"),
    ("topics", {"text": " "}, "expected text in 'text', but ' ' came"),
    ("topics", {"Text": "It is late."}, ".*its column is called 'Text', so rename it to 'text'"),
    ("entities", {"tokens": "Aspirin helps"}, "expected a list of words in 'tokens', but 'Aspirin helps' came"),
    ("entities", {"tokens": ["Aspirin", 7]}, "expected a word at token 1, but 7 came"),
    ("pairs", {"text_a": "One."}, "expected text in 'text_b', but None came"),
    ("questions", {"context": "Rent is due.", "question": None}, "expected text in 'question', but None came"),
    ("relations", {"tokens": ["a"], "head": [0, 1]}, r"expected token positions \[start, end\) in 'tail'"),
    ("summaries", {"sentences": ["", "Two."]}, "expected text at sentence 0 of 'sentences', but '' came"),
    ("writing", {"target": "One."}, "expected text in 'source', but None came"),
    ("next", {"sentences": ["One."]}, "expected a list of at least two sentences in 'sentences'"),
    ("next", {"text_a": "One."}, "expected text in 'text_b', but None came"),
]


@pytest.mark.parametrize(("task", "record", "said"), WRONG)
def test_a_bad_row_is_named_by_file_and_line(
    predictor: Predictor, tmp_path: Path, task: str, record: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "new.jsonl", [GOOD[task], record, GOOD[task], record])
    with pytest.raises(DataError, match=f"new.jsonl .*line 2: {said}.*; line 4: "):
        records_of(predictor, task, text=None, second=None, file=path)
    with pytest.raises(DataError, match=f"Task {task}, record 2: "):
        predictor.predict(task, [GOOD[task], record])


def test_many_bad_rows_are_counted(predictor: Predictor, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [{"body": "x" * 1000}] * 5000)
    with pytest.raises(DataError, match="and 4995 more bad rows") as caught:
        records_of(predictor, "topics", text=None, second=None, file=path)
    assert len(str(caught.value)) < 1000


def test_a_file_without_rows_has_no_predictions(predictor: Predictor, tmp_path: Path) -> None:
    assert records_of(predictor, "topics", text=None, second=None, file=write(tmp_path / "new.jsonl", [])) == []
    assert predictor.predict("topics", []) == []


@pytest.mark.parametrize(
    ("task", "text", "second", "error", "said"),
    [
        ("topics", "", None, ConfigError, "expected text in 'text'"),
        ("pairs", "One.", None, ConfigError, "add --second"),
        ("relations", "One.", None, ConfigError, "use --file"),
        ("topic", "One.", None, ConfigError, "Expected a task among"),
    ],
)
def test_a_text_is_checked_too(
    predictor: Predictor, task: str, text: str, second: str | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        records_of(predictor, task, text=text, second=second, file=None)


def test_the_command_prints_a_line_per_record(bundle: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [GOOD["codes"], GOOD["codes"] | {"labels": ["zzz"]}])
    result = CliRunner().invoke(app, ["predict", str(bundle), "--task", "codes", "--file", str(path)])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2


def test_a_backbone_that_lies_elsewhere_is_no_reason_for_a_warning(
    bundle: Path, tiny_bert: Path, tmp_path: Path, predictor: Predictor
) -> None:
    elsewhere = shutil.copytree(tiny_bert, tmp_path / "bert")
    moved = open_bundle(bundle, backbone=str(elsewhere))  # a warning is an error in tests
    text = [{"text": "The buyer pays within 30 days."}]
    assert moved.predict("clauses", text) == predictor.predict("clauses", text)
