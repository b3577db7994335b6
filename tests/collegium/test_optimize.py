"""`collegium optimize` prints its table, and says what is wrong with what it was told."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collegium.everyone import app
from shared.errors import ConfigError


def test_the_table_is_printed(everything: Path, tmp_path: Path) -> None:
    records = tmp_path / "topics.jsonl"
    rows = [{"text": f"Parcel {n} is late.", "label": ("positive", "negative")[n % 2]} for n in range(4)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ask = ["optimize", str(everything), "--records", f"topics={records}", "--int8"]
    done = CliRunner().invoke(app, [*ask, "--out", str(tmp_path / "small")])
    assert done.exit_code == 0, done.exception
    head, *lines = done.stdout.splitlines()[1:]
    assert [word in head for word in ("MB", "texts/s, 32", "difference", "topics (macro_f1)")] == [True] * 4
    assert [line.split("│")[1].strip() for line in lines if "│" in line] == ["as released", "optimized"]
    assert "weights of eight bits" in done.stderr
    told = json.loads(CliRunner().invoke(app, [*ask, "--out", str(tmp_path / "again"), "--json"]).stdout)
    assert told["about"]["int8"]
    assert told["rows"]["optimized"]["megabytes"] < told["rows"]["as released"]["megabytes"]


@pytest.mark.parametrize("given", ["topics", "topics=", "=file", "topics=file"])
def test_records_are_given_by_task(everything: Path, tmp_path: Path, given: str) -> None:
    ask = ["optimize", str(everything), "--out", str(tmp_path / "out"), "--records", given, "--records", "topics=file"]
    done = CliRunner().invoke(app, ask)
    assert isinstance(done.exception, ConfigError)
    assert (
        f"Expected --records TASK=FILE, each task once, but {'topics=file' if given == 'topics=file' else given}"
        in str(done.exception)
    )
