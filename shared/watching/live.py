"""One table on the terminal that changes in its place; what is printed meanwhile stands above it."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from shared.process.console import cell
from shared.watching.logs import as_json

LOOK_SECONDS = 1.0


def on_terminal() -> bool:
    """Whether somebody sees a table: not where lines are JSON, or go to a file or another program."""
    return sys.stdout.isatty() and sys.stderr.isatty() and not as_json()


@contextmanager
def live(view: Callable[[], RenderableType], console: Console | None = None) -> Iterator[Callable[[], None]]:
    """While the block lasts, the table stands on the terminal; what it gives looks again.

    Args:
        view: Makes the table.
        console: Where; stderr if not given.
    """
    last = 0.0
    with Live(view(), console=console or Console(stderr=True), auto_refresh=False) as shown:

        def look() -> None:
            nonlocal last
            if time.monotonic() - last >= LOOK_SECONDS:
                last = time.monotonic()
                shown.update(view(), refresh=True)

        yield look
        shown.update(view(), refresh=True)


def facts(title: str, rows: Mapping[str, object]) -> Table:
    """A table of names and values, of two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(cell(name), cell(value))
    return table
