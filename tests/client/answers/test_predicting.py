"""`collegium predict`: inputs alone are read, streams keep their order, what cannot be read is named by line."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from client.answers import streams
from client.answers.predicting import predict_stream, predict_text
from collegium.__main__ import app
from shared.errors import ConfigError, DataError
from shared.inference.model import ReleasedModel
from simulations.attacks.stage import EVERY_QUESTION, EVERY_TASK

LABELS = ("label", "labels", "tags", "answers", "summary", "oracle", "target", "score")


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def answered(model: ReleasedModel, path: Path, *tasks: str, **options: Any) -> list[dict[str, Any]]:
    """What a file's records are answered."""
    out = path.with_name("answers.jsonl")
    out.unlink(missing_ok=True)
    predict_stream(model, tasks, str(path), str(out), **options)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


@pytest.mark.parametrize("task", EVERY_TASK)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_labels_are_not_read(released: ReleasedModel, tmp_path: Path, task: str, suffix: str) -> None:
    plain = answered(released, write(tmp_path / f"new{suffix}", [EVERY_QUESTION[task]]), task)
    for label in (None, "something else", ["neither"], {"text": ["x"], "answer_start": [1]}):
        path = write(tmp_path / f"new{suffix}", [EVERY_QUESTION[task] | dict.fromkeys(LABELS, label)])
        assert answered(released, path, task) == plain


def test_a_csv_without_labels_is_read(released: ReleasedModel, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('\ufefftokens,tags\n"[""Aspirin"", ""helps""]",\n"[""No""]",not a list\n', encoding="utf-8")
    assert [list(row) for row in answered(released, path, "entities")] == [["entities"], ["entities"]]


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
def test_a_bad_row_is_named_and_the_others_are_answered(
    released: ReleasedModel, tmp_path: Path, task: str, record: dict[str, Any], said: str
) -> None:
    good = EVERY_QUESTION[task]
    path, out = write(tmp_path / "new.jsonl", [good, record, good, record]), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=f"2 of 4 rows of .*new.jsonl .*line 2: {said}.*; line 4: "):
        predict_stream(released, [task], str(path), str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(row) for row in rows] == [[task], ["error"], [task], ["error"]]
    assert rows[0] == rows[2]


def test_many_bad_rows_are_counted(released: ReleasedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [{"body": "x" * 1000}] * 2000)
    with pytest.raises(DataError, match=r"2000 of 2000 .*and 1995 more bad rows") as caught:
        answered(released, path, "topics")
    assert len(str(caught.value)) < 1000


def test_a_file_without_rows_has_no_answers(released: ReleasedModel, tmp_path: Path) -> None:
    assert answered(released, write(tmp_path / "new.jsonl", []), "topics") == []


def test_all_tasks_that_can_read_a_record_answer_it(released: ReleasedModel, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [{"text": "It is late."}, {"text": "It is late.", "question": "When?"}]
    records.append({"tokens": ["a"]})
    plain, asked, words = answered(released, write(tmp_path / "new.jsonl", records))
    assert set(plain) == {"clauses", "topics", "codes", "entities", "summaries", "writing"}
    assert {"pairs", "alike", "questions", "next"} <= set(asked) - set(plain)
    assert set(words) == {"entities"}
    alone = predict_text(released, (), "It is late.", None)
    assert alone.keys() == plain.keys()
    assert alone["topics"]["label"] == plain["topics"]["label"]
    assert alone["topics"]["score"] == pytest.approx(plain["topics"]["score"], rel=1e-5)


def test_an_answer_stands_beside_its_record(released: ReleasedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [{"id": 7, "text": "It is late."}])
    (row,) = answered(released, path, "topics", whole=True)
    assert (row["id"], row["text"], list(row["topics"])) == (7, "It is late.", ["label", "score"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_have_the_answers_of_the_lines(released: ReleasedModel, tmp_path: Path, suffix: str) -> None:
    records = [{"body": "none"}, {"text": "It is late."}, {"text": "Rent is due."}]
    path, out = write(tmp_path / "new.jsonl", records), tmp_path / f"out{suffix}"
    for target in (out, tmp_path / "out.jsonl"):
        with pytest.raises(DataError, match="1 of 3 rows"):
            predict_stream(released, ["topics", "entities"], str(path), str(target))
    rows = list(csv.DictReader(out.read_text().splitlines())) if suffix == ".csv" else pq.read_table(out).to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["error"] == lines[0]["error"]
    for row, line in zip(rows[1:], lines[1:], strict=True):
        assert row["topics.label"] == line["topics"]["label"]
        assert float(row["topics.score"]) == pytest.approx(line["topics"]["score"])
        assert json.loads(row["entities"]) == line["entities"]


def test_a_pipe_is_answered_line_by_line(
    released: ReleasedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    written = io.StringIO()

    def lines() -> Iterator[str]:
        for number in range(3):
            while number > len(written.getvalue().splitlines()):
                pass  # the next line comes when the last one has been answered
            seen.append(number)
            yield '{"text": "It is late."}\n'

    monkeypatch.setattr(sys, "stdin", lines())
    monkeypatch.setattr(sys, "stdout", written)
    predict_stream(released, ["topics"], "-", "-")
    assert seen == [0, 1, 2]
    assert len(written.getvalue().splitlines()) == 3


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_standard_input_is_read_as_a_file(
    released: ReleasedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    texts = {"csv": 'tokens\n"[""Aspirin""]"\nnot a list\n', "jsonl": '{"tokens": ["Aspirin"]}\n[]\n'}
    monkeypatch.setattr(sys, "stdin", io.StringIO(texts[format]))
    with pytest.raises(DataError, match="1 of 2 rows of standard input could not be answered: line"):
        predict_stream(released, ["entities"], "-", "-", read_as=format)  # type: ignore[arg-type]
    good, bad = capsys.readouterr().out.splitlines()
    assert (list(json.loads(good)), list(json.loads(bad))) == (["entities"], ["error"])


@pytest.mark.parametrize(
    ("task", "text", "second", "said"),
    [
        ("topics", "", None, "expected text in 'text'"),
        ("pairs", "One.", None, "add --second"),
        ("relations", "One.", None, "use --file"),
        ("masks", "One.", None, r"expected \[MASK\] in the text"),
        ("topic", "One.", None, "Expected a task among"),
    ],
)
def test_a_text_is_checked_too(released: ReleasedModel, task: str, text: str, second: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        predict_text(released, [task], text, second)


def test_a_broken_csv_is_refused_on_standard_input_as_in_a_file(
    released: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = 'text,more\nIt is late.,1\nToo many,1,2\nToo few\n"Never closed,1\n'
    (tmp_path / "a.csv").write_text(content)
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    said = []
    for source in ("-", str(tmp_path / "a.csv")):
        with pytest.raises(DataError, match="3 of 4 rows of") as raised:
            predict_stream(released, ["topics"], source, "-", read_as="csv" if source == "-" else None)
        said.append((str(raised.value).replace(source, "-").replace("standard input", "-"), capsys.readouterr().out))
    assert said[0] == said[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("text;more\na;b\n"))
    with pytest.raises(DataError, match="semicolons seem to stand between them"):
        predict_stream(released, ["topics"], "-", "-", read_as="csv")


def test_where_answers_go_is_checked_first(released: ReleasedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [{"text": "One."}])
    for target, said in ((path, "exists"), (tmp_path / "out.xlsx", "ends in"), (tmp_path / "out.jsonl.gz", "ends in")):
        with pytest.raises(ConfigError, match=said):
            predict_stream(released, ["topics"], str(path), str(target))
    with pytest.raises(ConfigError, match="name a file"):
        streams.read("-", "parquet", ())


def test_the_command_prints_a_line_per_record(everything: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "new.jsonl", [EVERY_QUESTION["codes"], EVERY_QUESTION["codes"] | {"labels": ["zzz"]}])
    run = CliRunner().invoke
    result = run(app, ["predict", str(everything), "--task", "codes", "--file", str(path), "--logits"])
    assert result.exit_code == 0, result.output
    assert [sorted(json.loads(line)) for line in result.stdout.splitlines()] == [["codes", "logits"]] * 2
    result = run(app, ["predict", str(everything), "--task", "topics", "--text", "It is late.", "--json"])
    assert sorted(json.loads(result.stdout)["topics"]) == ["label", "score"]
