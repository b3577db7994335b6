"""Following a run from the command line, until it has ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from server.runs.steering import Queued, follow
from shared.process.console import announce, print_json
from shared.watching.live import on_terminal


def _followed(home: Path, queued: Queued, *, plain: bool) -> dict[str, Any]:
    """What `follow` returns, with the run's table on the terminal meanwhile if there is one."""
    found: dict[str, Any] = {}

    def until(look: Callable[[], None] | None) -> None:
        found.update(follow(home, queued.run_id, announce, seen=queued.seen, check=look))

    if plain or not on_terminal():
        until(None)
    else:
        from server.runs.live import show

        show(home, queued.run_id, until)
    return found


def tell_of(home: Path, queued: Queued, text: str, as_json: bool) -> None:
    """Tell of a run until it has ended; the exit code is 0 only if it completed."""
    announce(text.format(queued.run_id))
    if queued.note:
        announce(queued.note)
    try:
        result = _followed(home, queued, plain=as_json)
    except KeyboardInterrupt:
        announce(
            f"Run {queued.run_id} goes on without this window: `collegium server follow {home}` shows it again, "
            f"`collegium server stop {home}` ends it."
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json(result)
    if result["status"] != "completed":
        raise typer.Exit(1)
