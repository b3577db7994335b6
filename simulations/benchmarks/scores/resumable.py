"""Rows of a table that take long: what is done is kept in a file, and an interrupted run goes on where it stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import ConfigError, listed
from shared.process.console import announce

T = TypeVar("T")


def finish(
    known: Mapping[str, T], out: Path, only: Sequence[str] | None, run: Callable[[str, T], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Run what is not in the file yet, one row after the other.

    Args:
        known: All rows by name, with what `run` needs of each.
        out: JSON Lines file; a line is added for every row that is finished.
        only: The rows to run; all if None.
        run: Makes a row.

    Returns:
        All finished rows in the order of `known`, each with its name under `row`.

    Raises:
        ConfigError: `only` names a row that there is not.
    """
    if unknown := sorted(set(only or ()) - known.keys()):
        raise ConfigError(f"Expected --only to name rows among {listed(known)}, not {listed(unknown)}.")
    done = {row["row"]: row for row in map(json.loads, out.read_text().splitlines())} if out.exists() else {}
    for name in only or known:
        if name in done:
            continue
        announce(name)
        done[name] = {"row": name, **run(name, known[name])}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[name]) + "\n")
    return [done[name] for name in known if name in done]
