"""Following a run from the command line, until it has ended."""

from pathlib import Path

import typer

from server.runs.steering import Queued, follow
from shared.process.console import announce, print_json


def tell_of(home: Path, queued: Queued, text: str, as_json: bool) -> None:
    """Tell of a run until it has ended; the exit code is 0 only if it completed."""
    announce(text.format(queued.run_id))
    if queued.note:
        announce(queued.note)
    try:
        result = follow(home, queued.run_id, announce, seen=queued.seen)
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
