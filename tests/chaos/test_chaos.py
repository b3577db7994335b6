"""A real deployment of two institutions whose processes die and whose network is cut goes on by itself."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simulations.chaos import killing
from simulations.chaos.killing import COORDINATOR, INSTITUTION, processes
from simulations.chaos.playing import CUT, Lengths, play, tiny_experiment


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whoever_dies_or_is_cut_off_the_runs_end_as_if_nothing_had(tmp_path: Path) -> None:
    kinds = [CUT, *random.Random(5).sample([*COORDINATOR, *INSTITUTION], 8)]
    lines, lengths = list[str](), Lengths(cut=40.0, pause=5.0)
    experiment = tiny_experiment(tmp_path / "records", ["hospital", "law_firm"])
    report = play(experiment, tmp_path / "deployed", kinds, lines.append, most_runs=12, lengths=lengths)
    assert report.faults == [], "\n".join(lines)
    assert [one.kind for one in reversed(report.happened)] == kinds, "\n".join(lines)


def test_processes_are_found_by_words_and_folder_with_all_that_they_started(tmp_path: Path) -> None:
    sleeping = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeping!r}]); {sleeping}"
    command = [sys.executable, "-c", code, "collegium client up", str(tmp_path)]
    with subprocess.Popen(command) as process:
        try:
            end = time.monotonic() + 20
            while len(found := processes("", tmp_path)) < 2 and time.monotonic() < end:
                time.sleep(0.05)
            assert len(found) == 2
            assert process.pid in found
            assert processes("collegium client up", tmp_path) == [process.pid]
            assert processes("collegium client up", tmp_path / "other") == []
            assert killing.kill("", tmp_path) == 2
        finally:
            process.kill()
    assert processes("", tmp_path) == []


def test_what_is_frozen_goes_on_afterwards(tmp_path: Path) -> None:
    code = "import sys, time\nwhile True: print('.', flush=True); time.sleep(0.01)"
    command = [sys.executable, "-u", "-c", code, "collegium client up", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.read(2)
            stat = Path(f"/proc/{process.pid}/stat")
            states = list[str]()

            class Over(threading.Event):
                def wait(self, timeout: float | None = None) -> bool:
                    end = time.monotonic() + 10  # a signal takes its time
                    while (state := stat.read_text().rpartition(")")[2].split()[0]) != "T" and time.monotonic() < end:
                        time.sleep(0.01)
                    states.append(state)
                    return super().wait(0.1)

            assert killing.freeze("", tmp_path, Over()) == 1
            assert states == ["T"]
            assert stat.read_text().rpartition(")")[2].split()[0] != "T"
        finally:
            process.kill()
