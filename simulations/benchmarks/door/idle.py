"""What a federation costs while nothing is trained: processor time of every process, over a minute.

    python -m simulations.benchmarks.door.idle --seconds 60

The demonstration's coordinator and its three institutions, as real daemons over TLS, warm and without a run.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from server.service.operator import OperatorClient
from shared.process.console import announce, print_table
from simulations.demo import CONFIG, START_SECONDS, standing
from simulations.experiment import load_experiment
from simulations.samples import SAMPLES

SETTLE_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")
NAMES = {
    "server.service.superlink": "SuperLink",
    "server.service.superexec": "SuperExec",
    "client.service.supernode": "SuperNode",
    "client.service.executor": "executor",
    "server.service.serverapp": "ServerApp",
    " server up ": "coordinator's daemon",
    " client up ": "institution's daemon",
}
"""Processes, by a part of their command."""


def main(seconds: Annotated[float, typer.Option(min=1, help="How long it is measured.")] = 60.0) -> None:
    """Measure, and print a table."""
    rows = measure(seconds)
    print_table(list(rows[0]), [list(row.values()) for row in rows])


def measure(seconds: float, tell: Callable[[str], None] = announce) -> list[dict[str, Any]]:
    """One row per place and process: `place`, `process`, `cpu_seconds`, `percent_of_a_core`, `resident_mb`.

    A place's sum stands under `all`.
    """
    experiment = load_experiment(CONFIG, data=SAMPLES, limit=8)
    with tempfile.TemporaryDirectory(prefix="collegium-idle-") as folder:
        root = Path(folder)
        with standing(experiment, root, tell) as (home, check):
            with OperatorClient(home) as operator:
                _wait(lambda: all_ready(root, list(experiment.institutions)) and _online(operator, 3), check)
            time.sleep(SETTLE_SECONDS)
            before = processes(root)
            time.sleep(seconds)
            after = processes(root)
    places = ["coordinator", *experiment.institutions]
    rows = []
    for place in places:
        used = [
            (after[pid][1], after[pid][2] - before[pid][2], after[pid][3])
            for pid in after.keys() & before.keys()
            if after[pid][0] == place
        ]
        used += [("all", sum(cpu for _, cpu, _ in used), sum(mb for _, _, mb in used))]
        rows += [
            {
                "place": place,
                "process": name,
                "cpu_seconds": cpu,
                "percent_of_a_core": 100 * cpu / seconds,
                "resident_mb": mb,
            }
            for name, cpu, mb in used
        ]
    return rows


def all_ready(root: Path, institutions: list[str]) -> bool:
    """Whether every institution's daemon has said that it is ready."""
    logs = [root / "logs" / f"{name}.log" for name in institutions]
    return all(log.exists() and " is ready: " in log.read_text(encoding="utf-8") for log in logs)


def processes(root: Path) -> dict[int, tuple[str, str, float, float]]:
    """By process id, those of a deployment under `root`: place, name, CPU seconds so far and resident MB."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            pages = int((folder / "statm").read_text().split()[1])
        except OSError:
            continue
        name = next((name for part, name in NAMES.items() if part in command), None)
        place = next((part.split("/")[0] for part in command.split(f"{root}/")[1:]), None)
        if name is not None and place is not None:
            seconds = (int(stat[11]) + int(stat[12])) / TICKS
            found[int(folder.name)] = (place.split()[0], name, seconds, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return found


def _online(operator: OperatorClient, count: int) -> bool:
    return sum(node.status == "online" for node in operator.nodes()) == count


def _wait(done: Callable[[], bool], check: Callable[[], None]) -> None:
    end = time.monotonic() + 3 * START_SECONDS
    while not done():
        check()
        if time.monotonic() > end:
            raise SystemExit("The institutions did not come up.")
        time.sleep(1.0)


if __name__ == "__main__":
    typer.run(main)
