"""Every process of an institution is killed while it trains; nobody does anything, and no round lacks it."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from server.opening import open_store
from server.runs.steering import follow, start
from server.store import replies
from simulations.demo import standing
from simulations.experiment import Experiment

KILLED = {2: "client.service.executor", 3: "client.service.supernode", 4: "collegium client up"}
"""After the round before this one, what dies."""


def processes(words: str, site: Path) -> list[int]:
    """Ids of processes whose command line has the words and the site's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in command and str(site) in command:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_process_of_an_institution_may_die_in_a_round(tmp_path: Path, experiment: Experiment) -> None:
    lines: list[str] = []
    killed: list[str] = []
    with standing(experiment, tmp_path / "deployed", lines.append) as (home, check):

        def kill(words: str) -> None:
            for pid in processes(words, tmp_path / "deployed" / "law_firm"):
                os.kill(pid, signal.SIGKILL)
                killed.append(words)

        def disturb(text: str) -> None:
            lines.append(f"{time.strftime('%H:%M:%S')} {text}")
            number = int(text.split()[1]) + 1 if text.startswith("Round ") else 0
            if number in KILLED and KILLED[number] not in killed:
                threading.Timer(0.5, kill, [KILLED[number]]).start()

        calm = start(home.root).run_id
        assert follow(home.root, calm, lines.append, seen=0, check=check)["status"] == "completed"
        wild = start(home.root).run_id
        result = follow(home.root, wild, disturb, seen=0, check=check)
        story = "\n".join(lines)
        assert result["status"] == "completed", story
        assert set(killed) == set(KILLED.values()), story
        with open_store(home.root) as store:
            trained = [row for row in store.rows(replies, wild) if row["kind"] == "train"]
            assert {(row["round"], row["institution"]): row["status"] for row in trained} == {
                (number, name): "ok" for number in range(1, 7) for name in experiment.institutions
            }, story
            undisturbed, disturbed = (store.load_checkpoint(run, 6).model for run in (calm, wild))
    for name, array in undisturbed.items():
        np.testing.assert_allclose(disturbed[name], array, atol=1e-4, err_msg=name)
