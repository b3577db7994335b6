"""Lines of logs: text, or JSON with what they are about, and never the text of an exception."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.process.console import announce
from shared.watching import logs
from shared.watching.frame import framed


@pytest.fixture
def json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")


@pytest.mark.usefixtures("json_lines")
def test_a_line_names_what_its_block_is_about() -> None:
    with logs.about(run="3f2a", round=2):
        with logs.about(institution="hospital", round=3):
            inner = json.loads(logs.line("Said: \N{SNOWMAN}\n", level="error"))
        outer = json.loads(logs.line("x"))
    assert {key: inner[key] for key in inner if key != "time"} == {
        "level": "error",
        "run": "3f2a",
        "round": 3,
        "institution": "hospital",
        "event": "Said: \N{SNOWMAN}\n",
    }
    assert (outer["round"], "institution" in outer) == (2, False)
    assert "run" not in json.loads(logs.line("y"))
    assert inner["time"].endswith("+00:00")


@pytest.mark.usefixtures("json_lines")
def test_announcements_are_json_where_lines_are(capsys: pytest.CaptureFixture[str]) -> None:
    announce("The server is up.")
    assert json.loads(capsys.readouterr().err)["event"] == "The server is up."


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info: Any = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("collegium.client", logging.ERROR, "x.py", 1, message, (), info)


@pytest.mark.parametrize("formatter", [logs._JsonLines(), logs._WithoutMessages("%(levelname)s %(message)s")])
def test_the_text_of_an_exception_is_in_no_log(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("She takes aspirin daily.") from KeyError("She takes codeine.")
    except ValueError as error:
        shown = formatter.format(record("refused", error))
    assert "aspirin" not in shown.replace("raise ValueError", "").split("from KeyError")[-1]
    assert "ValueError" in shown
    assert "test_logs.py" in shown


@pytest.mark.usefixtures("json_lines")
def test_a_line_of_json_says_what_a_line_of_text_does() -> None:
    said = logs._JsonLines().format(record("ready"))
    assert logs.text_of(said) == " collegium.client: ready"
    assert logs.text_of(logs.line("SuperNode ID: 7")) == "SuperNode ID: 7"
    for other in ("INFO :      SuperNode ID: 7", '{"time": broken', '{"time": 1}'):
        assert logs.text_of(other) == other


@pytest.mark.parametrize(
    ("line", "level", "event", "logger"),
    [
        ("INFO :      Starting Flower", "info", "Starting Flower", None),
        ("ERROR :     it failed", "error", "it failed", None),
        ("2026-11-29 12:00:00,123 WARNING collegium.client: it is late", "warning", "it is late", "collegium.client"),
        ("Traceback (most recent call last):", "info", "Traceback (most recent call last):", None),
        ('{"time": broken', "info", '{"time": broken', None),
    ],
)
def test_what_others_print_becomes_an_object(line: str, level: str, event: str, logger: str | None) -> None:
    found = json.loads(framed(line, {"process": "executor"}, "now"))
    assert (found["level"], found["event"], found.get("logger"), found["process"]) == (level, event, logger, "executor")
    assert found["time"] == "now"


def test_what_is_an_object_stays_and_gets_the_fields_of_its_process() -> None:
    line = logs.line("Trained")
    assert json.loads(framed(line, {"institution": "bank"}, "now")) == {**json.loads(line), "institution": "bank"}


def test_the_frame_writes_to_the_end_whatever_comes(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(logs.FRAME), str(tmp_path / "log"), '{"process": "x"}']
    subprocess.run(command, input=b"one\r\n\n\xff two\nthree without an end", check=True, timeout=60)
    found = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert [each["event"] for each in found] == ["one", "\N{REPLACEMENT CHARACTER} two", "three without an end"]
