"""Every process of the coordinator is killed in a run of a real deployment, which goes on without a human."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from server.opening import open_store
from server.runs.steering import follow, start
from server.store import replies, rounds
from simulations.demo import standing
from simulations.experiment import Experiment

KILLED = {
    2: "flwr-serverapp",
    3: "server.service.superlink",
    4: "flower-superexec",
    5: "collegium server up",
}
"""After the round before this one, what dies."""


def processes(words: str, home: Path) -> list[int]:
    """Ids of processes whose command line has the words and, as theirs or their environment's, the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            around = command + (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words in command and str(home) in around:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_process_of_the_coordinator_may_die(tmp_path: Path, experiment: Experiment) -> None:
    lines: list[str] = []
    killed: list[tuple[str, int]] = []

    with standing(experiment, tmp_path / "deployed", lines.append) as (home, check):

        def kill(words: str) -> None:
            for pid in processes(words, home.root):
                os.kill(pid, signal.SIGKILL)
                killed.append((words, pid))

        def disturb(text: str) -> None:
            lines.append(f"{time.strftime('%H:%M:%S')} {text}")
            number = int(text.split()[1]) + 1 if text.startswith("Round ") else 0
            if number in KILLED and KILLED[number] not in dict(killed):
                threading.Timer(0.5, kill, [KILLED[number]]).start()

        calm = start(home.root).run_id
        assert follow(home.root, calm, lines.append, seen=0, check=check)["status"] == "completed"
        wild = start(home.root).run_id
        result = follow(home.root, wild, disturb, seen=0, check=check)
        story = "\n".join(lines)
        assert result["status"] == "completed", story
        assert set(dict(killed)) == set(KILLED.values()), story
        with open_store(home.root) as store:
            assert [row["round"] for row in store.rows(rounds, wild)] == list(range(1, 7))
            trained = [row for row in store.rows(replies, wild) if row["kind"] == "train" and row["status"] == "ok"]
            assert {(row["round"], row["institution"]) for row in trained} == {
                (number, name) for number in range(1, 7) for name in experiment.institutions
            }, story
            undisturbed, disturbed = (store.load_checkpoint(run, 6).model for run in (calm, wild))
    for name, array in undisturbed.items():
        np.testing.assert_allclose(disturbed[name], array, atol=1e-4, err_msg=name)
    assert not [pid for words in KILLED.values() for pid in processes(words, home.root)]
