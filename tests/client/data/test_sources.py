"""Sources: the same records from every format, and a bad row named by file and line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.data.loading import load_data, read_records
from client.data.sources import BadRow, read_rows, scan_rows
from client.institution import Data
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import build_task
from shared.tasks.text_classification import TextClassificationSpec

RECORDS = [{"text": "We pay, in euros.", "label": "payment"}, {"text": "No liability ÄÖ.", "label": "liability"}]
TASK = build_task("clauses", TextClassificationSpec(type="text-classification", labels=("payment", "liability")))


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    elif path.suffix == ".csv":
        rows = "".join(f'"{r["text"]}",{r["label"]}\n' for r in records)
        path.write_text("text,label\n" + rows, encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    assert [record for _, record in read_rows(write(tmp_path / name, RECORDS))] == RECORDS


def test_lists_stand_in_csv_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('tokens,tags\n"[""He"", ""left""]","[""O"", ""O""]"\n', encoding="utf-8")
    assert next(scan_rows(path, ("tokens", "tags"))) == (2, {"tokens": ["He", "left"], "tags": ["O", "O"]})


def test_all_other_cells_are_text_and_an_empty_one_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label,note\n"[1] see below",a,\n', encoding="utf-8")
    assert list(read_rows(path)) == [(2, {"text": "[1] see below", "label": "a"})]


def test_null_is_absent_in_every_format(tmp_path: Path) -> None:
    (lines := tmp_path / "a.jsonl").write_text('{"text": "x", "query": null}\n', encoding="utf-8")
    pq.write_table(pa.table({"text": ["x"], "query": pa.array([None], pa.string())}), tmp_path / "a.parquet")
    assert list(read_rows(lines)) == list(read_rows(tmp_path / "a.parquet")) == [(1, {"text": "x"})]


def test_a_cell_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'long ' * 50_000},a\n", encoding="utf-8")
    ((_, row),) = read_rows(path)
    assert len(row["text"]) == 250_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{oops}\n', "line 2: expected a JSON object"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object, but a list came"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: expected UTF-8, but byte 0xff came"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"line 1: expected text, but .*surrogate U\+D83D"),
        ("a.csv", b"text,label\nok,a\ncaf\xe9,b\n", "line 3: expected UTF-8, but byte 0xe9 .* 'é'"),
        ("a.csv", b'"text"x,label\n', "line 1: expected CSV"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "it is UTF-16; convert"),
        ("a.jsonl.gz", b"not gzip", "Could not read"),
        ("a.csv", b"text,label\nx\n", "line 2: expected 2 columns"),
        ("a.parquet", b"nonsense", "Could not read"),
        ("a.xml", b"", "ends in one of"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(read_rows(tmp_path / name))


def test_a_scan_goes_on_after_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,label\n"a"b,c\nd\ncaf\xe9,e\nf,g\n')
    rows = list(scan_rows(tmp_path / "a.csv"))
    assert [number for number, _ in rows] == [2, 3, 4, 5]
    assert [row.encoding for _, row in rows if isinstance(row, BadRow)] == [False, False, True]
    assert rows[-1][1] == {"text": "f", "label": "g"}
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"text": "\xe9"}\n[2]\n{oops}\n{"b": 2}\n')
    rows = list(scan_rows(tmp_path / "a.jsonl"))
    assert [isinstance(row, BadRow) for _, row in rows] == [False, True, True, True, False]


def test_the_marks_that_windows_writes_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (2, {"a": 2})]


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is none; check the path"):
        list(read_rows(tmp_path / "none.jsonl"))


def test_every_bad_row_is_named_and_none_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [RECORDS[0], {"text": "x", "label": "gossip"}, {"label": "payment"}])
    with pytest.raises(DataError) as caught:
        read_records(path, TASK)
    message = str(caught.value)
    assert "line 2" in message
    assert "'gossip'" in message
    assert "line 3" in message


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read_records(write(tmp_path / "a.jsonl", []), TASK)


@pytest.fixture
def model(tiny_federation: Callable[..., Federation]) -> MultiTaskModel:
    return build_model(tiny_federation())


def test_a_tenth_is_held_out_for_validation_and_the_limit_holds(
    tmp_path: Path, model: MultiTaskModel, write_records: Callable[..., Path]
) -> None:
    path = write_records(tmp_path / "a.jsonl", "clauses")
    data = load_data({"clauses": Data(train=path, limit=20)}, model.tasks, model.tokenizer, 64, bytes(32))["clauses"]
    assert len(data["train"].records) + len(data["validation"].records) == 20
    assert data["validation"].records
    texts = {record["text"] for record in data["train"].records}
    assert not texts & {record["text"] for record in data["validation"].records}


def test_a_task_that_the_federation_lacks_is_an_error(tmp_path: Path, model: MultiTaskModel) -> None:
    with pytest.raises(ConfigError, match="it has no task 'gossip'"):
        load_data({"gossip": Data(train=tmp_path / "a.jsonl")}, model.tasks, model.tokenizer, 64, bytes(32))
