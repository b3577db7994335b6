"""What starting costs: CPU seconds and peak memory of fresh processes, one of each kind in every turn.

With `python -m simulations.benchmarks.start --before DIR`, another checkout of Collegium, each turn starts everything
there too, so that both sides meet the same machine. Linux only: the peak is that of the program alone (`VmHWM`),
without that of the process it came from.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import announce, print_table
from simulations.benchmarks.measured import Asked, Cell, Findings, Table

HELP = "import runpy; sys.argv = ['collegium', '--help']; runpy.run_module('collegium', run_name='__main__')"
EXECUTOR = "from shared.process.memory import loading\nwith loading(): import client.app"
STARTS = {"server.app": "import server.app", "client.app": EXECUTOR, "collegium --help": HELP}
"""What is measured, as Python."""
TOLD = """
import atexit, json, resource, sys
def tell():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    sys.stderr.write(json.dumps([usage.ru_utime + usage.ru_stime, 1024 * int(peak) / 1e6]) + "\\n")
atexit.register(tell)
"""
"""What stands before it, so that it says at its end what it took."""
HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Start:
    """What one start took."""

    seconds: float
    """Of the processor, of all threads together."""
    megabytes: float
    """At the peak, 10^6 bytes."""


def main(
    turns: Annotated[int, typer.Option(min=1, help="How often each is started.")] = 5,
    before: Annotated[Path | None, typer.Option(help="Another checkout, to compare with.")] = None,
) -> None:
    """Start everything in turns and print a table."""
    checkouts = {"now": HERE, **({"before": before} if before else {})}
    rows: list[list[Cell]] = [
        [name, which, *summary([start.seconds for start in starts]), *summary([start.megabytes for start in starts])]
        for (name, which), starts in measure(turns, checkouts).items()
    ]
    print_table(["start", "checkout", "CPU s", "least", "most", "MB", "least", "most"], rows)


def findings(asked: Asked) -> Findings:
    """The table, of this checkout."""
    rows: list[list[Cell]] = [
        [name, *summary([start.seconds for start in starts]), *summary([start.megabytes for start in starts])]
        for (name, _), starts in measure(asked.turns).items()
    ]
    columns = ["start", "CPU s", "least", "most", "MB", "least", "most"]
    title = f"Each started {asked.turns} times, in turns"
    return Findings(tables=[Table(title=title, columns=columns, rows=rows)])


def measure(turns: int = 5, checkouts: Mapping[str, Path] | None = None) -> dict[tuple[str, str], list[Start]]:
    """By what was started and the name of the checkout, what every turn's start took.

    Args:
        turns: Starts of each.
        checkouts: Folders of Collegium by name; by default this one, as "now".
    """
    found: dict[tuple[str, str], list[Start]] = {}
    for turn in range(turns):
        announce(f"Turn {turn + 1} of {turns}")
        for name, code in STARTS.items():
            for which, checkout in (checkouts or {"now": HERE}).items():
                found.setdefault((name, which), []).append(start(code, checkout))
    return found


def start(code: str, checkout: Path = HERE) -> Start:
    """Run Python code in a fresh process that imports Collegium from this checkout."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{TOLD}\n{code}"],
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Start(*json.loads(ended.stderr.strip().splitlines()[-1]))


def summary(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


if __name__ == "__main__":
    typer.run(main)
