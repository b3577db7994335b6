"""What every verb of the command line has in common: how results, progress and errors reach the user."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from shared.errors import LONGEST_LINE, CollegiumError, plain, printable
from shared.process.machine import machine_errors
from shared.process.parent import tell_parent
from shared.watching import logs

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
"""The `--json` option of every verb."""

WatchOption = Annotated[bool, typer.Option("--watch", help="Keep showing it, as it changes, until Ctrl-C.")]
LogFormatOption = Annotated[
    Literal["text", "json"],
    typer.Option("--log-format", envvar=logs.VARIABLE, help="Lines for people, or one JSON object each."),
]
"""The `--log-format` option of the daemons."""


def verbs(help: str, *, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """A group of verbs of the command line.

    Args:
        help: What they are for, one sentence.
        cls: How verbs are found by name.
    """
    return typer.Typer(
        help=help,
        cls=cls,
        no_args_is_help=True,
        suggest_commands=False,  # click suggests by itself
        rich_markup_mode="markdown",  # under the default, `[secure_aggregation]` in a help text would be markup
        pretty_exceptions_enable=False,
    )


def announce(text: str) -> None:
    """Say what happens now: one line on stderr, with the time."""
    with _lock:
        said = logs.line(text) if logs.as_json() else f"{time.strftime('%H:%M:%S')}  {printable(text)}"
        print(said, file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_lines(text: str) -> None:
    """Print text on stdout in which others may have written: whatever would steer a terminal is a space."""
    print(printable(text))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None, wrapped: str | None = None
) -> None:
    """Print a table on stdout; numbers are right-aligned, None is a dash; only column `wrapped` breaks its lines."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column != wrapped)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def run(app: Callable[[], Any]) -> None:
    """Run the command line; a CollegiumError, or what the machine refuses, is one sentence on stderr and exit code 1.

    A character that the terminal's encoding lacks is written by its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with machine_errors():
            app()
    except CollegiumError as error:
        print(f"error: {plain(str(error), LONGEST_LINE)}", file=sys.stderr)
        tell_parent(error)
        raise SystemExit(1) from None


def cell(value: Any) -> Text:
    """A value in a table of rich, None as a dash: no markup in it, and nothing that steers a terminal."""
    if value is None:
        return Text("-")
    return Text(printable(f"{value:.3f}" if isinstance(value, float) else str(value)))


_lock = threading.Lock()
