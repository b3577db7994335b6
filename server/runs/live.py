"""A run on the terminal while it goes on: bars of its rounds and of the round, and a line for each institution."""

import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.dashboard.reader import Picture, Reader
from server.opening import open_store
from server.runs.status import remaining
from server.runs.steering import follow
from server.runs.tables import about
from shared.process.console import announce, cell
from shared.watching.live import live, on_terminal

BAR = 30
"""Columns."""
WORDS = {"train": "training", "evaluate": "scoring", "query": "asking what they hold"}
"""What is asked for, in words."""


def view(picture: Picture, now: datetime | None = None) -> RenderableType:
    """The run as it is; everything that an institution wrote stays text.

    Args:
        picture: What is known of it.
        now: In UTC.
    """
    now = now or datetime.now(UTC)
    bars = Table.grid(padding=(0, 2, 0, 0))
    done, count = len(picture.rounds), picture.federation.rounds.count
    left = about(remaining(picture.row, picture.rounds, count))
    bars.add_row(
        Text(f"Run {picture.row['run']}", style="bold"),
        ProgressBar(total=count, completed=done, width=BAR),
        Text(f"{done} of {count} rounds, {_status(picture)}" + (f", about {left} left" if left else "")),
    )
    if asking := picture.asking:
        asked, answered = len(asking["names"]), len(asking["names"]) - len(picture.waiting_for)
        until = (datetime.fromisoformat(asking["until"]) - now).total_seconds()
        since = (now - datetime.fromisoformat(asking["since"])).total_seconds()
        waits = ", ".join(picture.waiting_for) or "nobody"
        word = WORDS.get(asking["kind"], str(asking["kind"]))
        times = f"after {about(max(0.0, since))}; waits for {waits}, {about(max(0.0, until))} at most"
        bars.add_row(
            Text(word if asking["round"] is None else f"Round {asking['round']}, {word}"),
            ProgressBar(total=max(1, asked), completed=answered, width=BAR),
            cell(f"{answered} of {asked} {times}"),
        )
    return Group(bars, _institutions(picture))


def watch(folder: Path, run: str | None) -> None:
    """Show a run, the latest if not named, until it has ended; without a terminal, tell its events line by line.

    Raises:
        ConfigError: There is none.
    """
    with open_store(folder) as store:
        row = store.run(run)
    show(folder, row["run"], lambda look: follow(folder, row["run"], announce, seen=None, check=look))


def show(folder: Path, run: str, until: Callable[[Callable[[], None] | None], object]) -> None:
    """Do something that looks again and again, with the run's table on the terminal if there is one."""
    if not on_terminal():
        until(None)
        return
    with open_store(folder) as store:
        reader = Reader(store, run)
        with live(lambda: view(reader.read()[0])) as look:
            until(look)


def _status(picture: Picture) -> str:
    row = picture.row
    return f"{row['status']}, to pause" if row["pausing"] else str(row["status"])


def _institutions(picture: Picture) -> RenderableType:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    private = picture.federation.privacy is not None
    numbers = ("last round", "seconds", "missed", "MB up", "MB down", *(["epsilon"] * private))
    for name in ("institution", "now", *numbers, "why"):
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name != "why")
    for name in picture.federation.rounds.institutions:
        seat = picture.seat(name)
        epsilon = [_number(seat.epsilon, 2)] if private else []
        cells = (
            name,
            _now(picture, name),
            _number(seat.last_round, 0),
            _number(seat.seconds, 1),
            str(len(seat.missed)),
            _number(seat.bytes_up / 1e6, 1),
            _number(seat.bytes_down / 1e6, 1),
            *epsilon,
            seat.trouble or "",
        )
        table.add_row(*map(cell, cells))
    curve = [each["score"] for each in picture.rounds if each["score"] is not None]
    if curve:
        table.caption = f"validation score {curve[-1]:.3f}, best {max(curve):.3f}, mean {statistics.fmean(curve):.3f}"
        table.caption_justify = "left"
    return table


def _now(picture: Picture, name: str) -> str:
    if not picture.asking or name not in picture.asking["names"]:
        return "-"
    return picture.answered.get(name, "works")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
