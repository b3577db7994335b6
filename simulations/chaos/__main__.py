"""Plays faults to a real deployment at random moments of its runs, and looks whether anybody would have to help.

    python -m simulations.chaos --kills 30 --cuts 1 --cut-seconds 360

A federation of the tiny BERT runs once undisturbed; then runs follow each other in which something happens every few
seconds, until there was enough of it. Each run must complete by itself, with every institution in every round and the
final state of the undisturbed one. The table says how often what happened.
"""

import math
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import announce, print_table
from shared.process.machine import machine_errors
from shared.process.parent import VARIABLE
from simulations.chaos.killing import COORDINATOR, FROZEN, INSTITUTION
from simulations.chaos.playing import CLOCKS, CUT, DISKS, Lengths, play, tiny_experiment


def main(
    folder: Annotated[Path | None, typer.Option(help="Empty; a temporary one if not given.")] = None,
    kills: Annotated[int, typer.Option(help="How many processes die.")] = 30,
    seed: Annotated[int, typer.Option(help="Of what happens when.")] = 13,
    frozen: Annotated[int, typer.Option(help="How often of each kind something is frozen for 65 s.")] = 0,
    cuts: Annotated[int, typer.Option(help="How often an institution's network is cut.")] = 0,
    cut_seconds: Annotated[float, typer.Option(help="How long it is.")] = Lengths.cut,
    clocks: Annotated[int, typer.Option(help="How often each side's clock jumps an hour, and back; needs cc.")] = 0,
    minutes: Annotated[float, typer.Option(help="After so many no other run begins.")] = math.inf,
    disks: Annotated[int, typer.Option(help="How often each side's disk is full; needs the right to mount.")] = 0,
) -> None:
    """Play faults to a tiny federation at random moments."""
    os.environ.pop(VARIABLE, None)
    root = folder or Path(tempfile.mkdtemp(prefix="collegium-chaos-"))
    rng = random.Random(seed)
    kinds = [rng.choice([*COORDINATOR, *INSTITUTION]) for _ in range(kills)]
    kinds += [*FROZEN] * frozen + [CUT] * cuts + [*CLOCKS] * clocks + [*DISKS] * disks
    rng.shuffle(kinds)
    began = time.monotonic()
    with machine_errors():
        experiment = tiny_experiment(root / "records")
        report = play(
            experiment,
            root / "deployed",
            kinds,
            announce,
            seed=seed,
            lengths=Lengths(cut=cut_seconds),
            seconds=60 * minutes,
        )
    counts = Counter(one.kind for one in report.happened)
    print_table(
        ["what happened", "times"],
        [[kind, count] for kind, count in sorted(counts.items())],
        title=f"{len(report.happened)} in {len(report.runs)} runs and {time.monotonic() - began:.0f} s",
    )
    for fault in report.faults:
        announce(fault)
    if report.faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
