"""What a federation that goes on for hundreds of rounds takes: memory of both sides and bytes on disk, on the way.

    python -m simulations.benchmarks.growth --rounds 500 --method rolora

Deploys the demonstration's federation over a random BERT of two layers, all processes real, and looks at them after
every tenth of the rounds. Linux only. Memory is resident pages, shared ones divided among their processes (PSS); disk
is what files take, a database's log included.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from server.home import ServerHome
from server.opening import open_store
from server.store import rounds as rounds_of
from server.upkeep.retention import sizes
from shared.config import parse
from shared.errors import CollegiumError
from shared.federation.rounds import Rounds
from shared.model.backbone import fingerprint
from shared.process.console import announce, print_table
from simulations.attacks.stage import write_tiny_bert
from simulations.benchmarks.coordinator import proportional
from simulations.demo import CONFIG, deploy
from simulations.experiment import Experiment, load_experiment
from simulations.samples import SAMPLES
from simulations.watching import looking

PAUSE = 1.0
PARTS = ("store", "flower", "checkpoints", "logs")


@dataclass(frozen=True)
class Look:
    """What was seen after a round; memory in 10^6 bytes, disk in bytes."""

    round: int
    coordinator: float
    institutions: float
    disk: dict[str, int] = field(default_factory=dict)


def main(
    rounds: Annotated[int, typer.Option(min=10, help="Rounds of the federation.")] = 500,
    method: Annotated[str, typer.Option(help="rounds.method; fedex keeps all checkpoints.")] = "rolora",
) -> None:
    """Run the federation and print a table."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        experiment = long_experiment(folder, rounds, method)
        with watched(folder, every=max(1, rounds // 10)) as looks:
            deploy(experiment, folder, announce)
    mib = [[look.disk[part] / 2**20 for part in (*PARTS, "institutions")] for look in looks]
    rows = [[look.round, look.coordinator, look.institutions, *disk] for look, disk in zip(looks, mib, strict=True)]
    columns = [*(f"{part}, MiB" for part in PARTS), "institutions' folders, MiB"]
    print_table(["after round", "coordinator, MB", "institutions, MB", *columns], rows)


def long_experiment(folder: Path, rounds: int, method: str) -> Experiment:
    """The demonstration's federation over a tiny BERT, for this many rounds, none of them the last by patience."""
    backbone = folder / "backbone"
    backbone.mkdir()
    write_tiny_bert(backbone)
    experiment = load_experiment(CONFIG, data=SAMPLES)
    agreed = experiment.federation
    own = agreed.rounds.model_dump() | {"count": rounds, "patience": 0, "method": method}
    changed = {
        "backbone": agreed.backbone.model_copy(update={"name": str(backbone), "sha256": fingerprint(backbone)}),
        "rounds": parse(Rounds, own, where="--method"),
    }
    return experiment.model_copy(update={"federation": agreed.model_copy(update=changed)})


@contextmanager
def watched(folder: Path, *, every: int) -> Iterator[list[Look]]:
    """Look at the processes and files below a folder after every so many rounds while the block lasts."""
    looks: list[Look] = []

    def look() -> None:
        with suppress(CollegiumError):  # it is not there yet
            done = _rounds_done(folder)
            if done and done >= (looks[-1].round if looks else 0) + every:
                looks.append(_look(folder, done))

    with looking(look, every=PAUSE):
        yield looks


def _rounds_done(folder: Path) -> int:
    with open_store(folder / "coordinator") as store:
        return max((row["round"] for row in store.rows(rounds_of)), default=0)


def _look(folder: Path, done: int) -> Look:
    home = ServerHome(folder / "coordinator")
    memory = {True: 0.0, False: 0.0}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            places = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if str(folder).encode() in places and int(process.name) != os.getpid():
                memory[str(home.root).encode() in places] += proportional(process)
    states = (file for file in folder.rglob("*") if not file.is_relative_to(home.root) and file.is_file())
    institutions = 0
    for file in states:
        with suppress(OSError):
            institutions += file.stat().st_size
    return Look(done, memory[True], memory[False], {**sizes(home), "institutions": institutions})


if __name__ == "__main__":
    typer.run(main)
