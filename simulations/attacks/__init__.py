"""Attacks on what Collegium promises, each by somebody who has its source: `python -m simulations.attacks`.

A module here tries to break one promise of docs/privacy.md, and lists what it tries in `ATTACKS`. An attack counts its
attempts and those that succeeded; a promise is kept where none did. `tests/attacks` asserts that for each of them.
Attacks are bounded in count and time, and send nothing beyond this machine's loopback addresses.
"""

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What an attack came to."""

    attempts: int
    succeeded: int
    """Attempts that got what they were after; 0 if the promise was kept."""
    note: str = ""
    """What was measured, where a number says more than a count."""


@dataclass(frozen=True)
class Attack:
    """One way to break one promise."""

    name: str
    """What is tried, in a few words."""
    by: str
    """Who tries: a stranger, an institution, a coordinator or a reader (of one update or model)."""
    promise: str
    """What it would break, as docs/privacy.md says it."""
    run: Callable[[Path], Outcome]
    """Tries it in an empty folder."""


def attacks() -> Iterator[Attack]:
    """All of them, module by module."""
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        if module != "__main__":
            yield from getattr(import_module(f"{__name__}.{module}"), "ATTACKS", ())
