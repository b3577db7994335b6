"""Whatever a terminal is told, no word of others steers it."""

import pytest

from shared.process.console import announce, print_lines, print_table

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202e\rb\nc[bold]"


def test_lines_stay_and_nothing_else_steers(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(EVIL)
    announce(EVIL)
    print_table(["who", "why"], [["bank", EVIL]], wrapped="why")
    told = capsys.readouterr()
    assert told.out.startswith("a ]0;owned  [2J  b\nc[bold]\n")
    assert told.err.endswith("  a ]0;owned  [2J  b\nc[bold]\n")
    assert told.out.count("[bold]") == 2
    assert not [c for c in told.out + told.err if c != "\n" and not c.isprintable()]
