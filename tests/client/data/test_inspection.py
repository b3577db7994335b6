"""What a file holds is guessed well enough that the table which is written reads it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.data.inspection import as_toml, inspect
from client.data.loading import check_rows
from client.data.sources import BadRow
from client.institution import Data
from collegium.__main__ import app
from shared.errors import DataError
from shared.tasks import build_task
from shared.tasks.token_classification import TokenClassificationSpec

TEN = Path(__file__).with_name("ten")
ENTITIES = build_task("e", TokenClassificationSpec(type="token-classification", types=("Drug", "Disease")))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("jsonl/records.jsonl", "jsonl"),
        ("json/records.json", "json"),
        ("csv/export.csv", "csv"),
        ("parquet/records.parquet", "parquet"),
        ("folder/parts", "folder"),
        ("datasets/saved", "datasets"),
        ("conll/notes.conll", "conll"),
        ("brat/notes", "brat"),
        ("doccano/all.jsonl", "doccano"),
        ("label-studio/project.json", "label-studio"),
    ],
)
def test_the_table_reads_the_file(file: str, kind: str) -> None:
    found = inspect(TEN / file)
    assert found.kind == kind
    assert len(found.rows) == 3
    assert not found.bad
    table = tomllib.loads(as_toml(found, "e"))["data"]["e"]
    if kind == "csv":  # what its columns are called nobody could guess but for the first
        assert (table["delimiter"], table["encoding"]) == (";", "cp1252")
        table["columns"] = {"tokens": "Words", "tags": "Marks"}
    data = Data.model_validate(table)
    rows = [row for _, row in check_rows(data.train, ENTITIES, data)]
    assert len(rows) == 10
    assert not any(isinstance(row, BadRow) for row in rows)


def test_questions_are_known() -> None:
    assert inspect(TEN / "squad/questions.json").task == "question-answering"
    assert inspect(TEN / "questions/questions.jsonl").task == "question-answering"
    assert inspect(TEN / "questions/questions.jsonl").table["group_by"] == "patient"


CASES: list[tuple[str, str, str | None, dict[str, Any]]] = [
    (
        "a.csv",
        "note_text|code|patient_id\nx|a|1\n",
        "text-classification",
        {"delimiter": "|", "group_by": "patient_id"},
    ),
    ("a.jsonl", '{"premise": "x", "hypothesis": "y", "gold_label": "z"}\n', "text-pair-classification", {}),
    ("a.jsonl", '{"text": "x", "labels": ["a"]}\n', "text-classification", {}),
    ("a.txt", "He O\nleft O\n\nParis S-LOC\n", "token-classification", {"format": "conll", "scheme": "BIOES"}),
    ("a.jsonl", '{"a": 1}\n', None, {}),
]


@pytest.mark.parametrize(("name", "text", "task", "keys"), CASES)
def test_guesses(tmp_path: Path, name: str, text: str, task: str | None, keys: dict[str, Any]) -> None:
    (tmp_path / name).write_text(text)
    found = inspect(tmp_path / name)
    assert found.task == task
    assert found.table.items() >= keys.items()


def test_what_tells_nothing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none; check the path"):
        inspect(tmp_path / "none")
    (tmp_path / "a.bin").write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match="a file that tells what it is"):
        inspect(tmp_path / "a.bin")


def test_the_command(tmp_path: Path) -> None:
    (file := tmp_path / "a.csv").write_text(f"text,label\n{'long ' * 100},b\nx\n")
    said = CliRunner().invoke(app, ["client", "inspect", str(file), "--task", "topics"]).output
    assert "it fits text-classification" in said
    assert "[data.topics]" in said
    assert "long " * 100 not in said
    assert "1 bad rows" in said
    told = json.loads(CliRunner().invoke(app, ["client", "inspect", str(file), "--json"]).output)
    assert told["table"]["TASK"]["train"] == str(file)
