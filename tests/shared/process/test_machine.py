"""What the machine refuses: one sentence with the path and what to do."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from shared.errors import MachineError
from shared.process import console
from shared.process.machine import EXPLAINED, explain, machine_errors


@pytest.mark.parametrize("number", [*EXPLAINED, errno.ELOOP, errno.ENOEXEC])
def test_every_refusal_names_the_path_and_the_reason(number: int) -> None:
    said = explain(OSError(number, os.strerror(number), "/some/where"))
    assert "/some/where" in said
    assert os.strerror(number) in said
    assert said.endswith(".")
    assert "\n" not in said
    assert "None" not in explain(OSError(number, os.strerror(number)))


def test_an_error_without_a_number_is_told_as_it_is() -> None:
    assert explain(OSError("two\nlines")) == "The machine refused what this command needs: two lines."
    assert explain(OSError()) == "The machine refused what this command needs: OSError."


def test_only_what_nothing_else_explains_is_translated(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"Expected to find .*absent, but .*No such file") as caught,
        machine_errors(),
    ):
        (tmp_path / "absent").read_bytes()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ValueError, match="other"), machine_errors():
        raise ValueError("other")


def test_the_command_line_ends_with_the_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        console.run(lambda: (tmp_path / "absent" / "file").write_text("", encoding="utf-8"))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: Expected to find ")


def test_what_a_terminal_cannot_show_is_written_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    console.run(lambda: console.print_json({"name": "Zürich \U0001f600 \udc80"}))
    sys.stdout.flush()
    assert b'"Z\\xfcrich \\U0001f600 \\udc80"' in written.getvalue()
