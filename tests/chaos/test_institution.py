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

KILLED = {2: "client.service.executor", 3: "client.service.supernode", 4: "collegium client up", 5: "all of them"}
"""After the round before this one, what dies."""


def processes(words: str, site: Path) -> list[int]:
    """Ids of processes whose command line has the words and the site's folder, or with all their descendants."""
    whole = words == "all of them"
    parents, roots = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if ("collegium client up" if whole else words) in command and str(site) in command:
            roots.append(int(entry.name))
    tree = set(roots)
    while whole and (more := {child for child, parent in parents.items() if parent in tree} - tree):
        tree |= more
    return sorted(tree)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_process_of_an_institution_may_die_in_a_round(tmp_path: Path, experiment: Experiment) -> None:
    lines: list[str] = []
    killed: list[str] = []
    with standing(experiment, tmp_path / "deployed", lines.append) as (home, check):

        def kill(words: str) -> None:
            for pid in processes(words, tmp_path / "deployed" / "law_firm"):
                os.kill(pid, signal.SIGKILL)
                killed.append(words)  # once for each process

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
        assert killed.count("all of them") >= 4, "the daemon, its SuperNode, its executor and their warden"
        with open_store(home.root) as store:
            trained = [row for row in store.rows(replies, wild) if row["kind"] == "train"]
            assert {(row["round"], row["institution"]): row["status"] for row in trained} == {
                (number, name): "ok" for number in range(1, 7) for name in experiment.institutions
            }, story
            undisturbed, disturbed = (store.load_checkpoint(run, 6).model for run in (calm, wild))
    for name, array in undisturbed.items():
        np.testing.assert_allclose(disturbed[name], array, atol=1e-4, err_msg=name)
