"""What a coordinator's processes take while a federation runs: memory of each at its peak, and of all together.

    python -m simulations.benchmarks.coordinator

Deploys the demonstration's federation as `collegium demo` does, for a few rounds, and looks at the coordinator's
processes ten times a second. Linux only. Memory is resident pages, shared ones divided among their processes (PSS).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from server.home import HOME_VARIABLE
from shared.process.console import announce, print_table
from simulations.demo import CONFIG, deploy
from simulations.experiment import load_experiment
from simulations.samples import SAMPLES
from simulations.watching import looking

PROCESSES = {
    "serverapp": b"server.service.serverapp",
    "superexec": b"server.service.superexec",
    "superlink": b"server.service.superlink",
}
"""By name, what stands in their command lines."""
PAUSE = 0.1


@dataclass
class Seen:
    """What has been seen of the coordinator's processes."""

    peaks: dict[str, float] = field(default_factory=dict)
    """By name, the most memory, in 10^6 bytes."""
    together: float = 0.0
    """The most at once."""
    torch: set[str] = field(default_factory=set)
    """Those that had loaded torch."""


def main(rounds: Annotated[int, typer.Option(min=1, help="Rounds of the federation.")] = 2) -> None:
    """Run the federation and print a table."""
    experiment = load_experiment(CONFIG, data=SAMPLES)
    agreed = experiment.federation
    agreed = agreed.model_copy(update={"rounds": agreed.rounds.model_copy(update={"count": rounds})})
    with TemporaryDirectory() as name, watched(Path(name) / "coordinator") as seen:
        deploy(experiment.model_copy(update={"federation": agreed}), Path(name), announce)
    rows = [[name, peak, "yes" if name in seen.torch else "no"] for name, peak in seen.peaks.items()]
    print_table(["process", "peak, MB", "torch"], [*rows, ["all at once", seen.together, ""]])


@contextmanager
def watched(home: Path) -> Iterator[Seen]:
    """Watch the processes of the coordinator in a folder while the block lasts."""
    seen = Seen()
    with looking(lambda: _look(home.resolve(), seen), every=PAUSE):
        yield seen


def _look(home: Path, seen: Seen) -> None:
    together = 0.0
    mine = f"{HOME_VARIABLE}={home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if mine not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes()
            name = next((name for name, mark in PROCESSES.items() if mark in command), "other")
            peak = proportional(folder)
            together += peak
            seen.peaks[name] = max(seen.peaks.get(name, 0.0), peak)
            if "libtorch" in (folder / "maps").read_text():
                seen.torch.add(name)
    seen.together = max(seen.together, together)


def proportional(folder: Path) -> float:
    """Memory of a process, by its folder in /proc, in 10^6 bytes; pages that others share are divided among them."""
    lines = (folder / "smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1e6


if __name__ == "__main__":
    typer.run(main)
