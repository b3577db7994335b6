"""A real deployment whose clocks jump and whose disks are full goes on by itself."""

from pathlib import Path

import pytest

from simulations.chaos.clock import has_compiler
from simulations.chaos.disk import may_mount
from simulations.chaos.playing import CLOCKS, DISKS, Lengths, play, tiny_experiment


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_the_machine_lacks_the_runs_end_as_if_nothing_had(tmp_path: Path) -> None:
    kinds = [*(CLOCKS if has_compiler() else []), *(DISKS if may_mount() else [])]
    if not kinds:
        pytest.skip("clocks need a C compiler, and disks the right to mount one")
    lines: list[str] = []
    lengths = Lengths(clock=7.0, disk=6.0, pause=3.0)
    experiment = tiny_experiment(tmp_path / "records", ["hospital"])
    report = play(experiment, tmp_path / "deployed", kinds, lines.append, most_runs=12, lengths=lengths)
    assert report.faults == [], "\n".join(lines)
    assert [one.kind for one in reversed(report.happened)] == kinds, "\n".join(lines)
    if not {*CLOCKS, *DISKS} <= {*kinds}:
        pytest.skip("the rest passed, but clocks need a C compiler, and disks the right to mount one")
