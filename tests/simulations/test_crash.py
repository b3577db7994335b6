"""An institution's whole process tree is killed in mid-round of a real deployment: it is back in the same round."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from client.institution import Data
from server.opening import open_store
from server.store import replies
from shared.federation import Federation
from simulations.demo import deploy
from simulations.experiment import Experiment

VICTIM = "law_firm"


def tree_of(words: str) -> list[int]:
    """The process whose command line holds `words`, and all its descendants."""
    parents, roots = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if words in command:
            roots.append(int(entry.name))
    tree = set(roots)
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sorted(tree)


class Killer:
    """Listens to a run's announcements; kills the victim a moment after round 1, while it trains in round 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed: list[int] = []
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith("Round 1 of"):
            threading.Timer(1.5, self.kill).start()

    def kill(self) -> None:
        self.killed = tree_of(f"client up {self.folder / VICTIM}")
        for pid in self.killed:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_institution_is_named_and_comes_back(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> None:
    federation = tiny_federation(
        rounds={"count": 8, "quorum": 1, "deadline_seconds": 120.0}, training={"epochs_per_round": 100}
    )
    held = {"hospital": ("clauses", "entities", "notes_qa"), VICTIM: ("clauses",)}  # long rounds: it has time to return
    institutions = {
        name: {task: Data(train=write_records(tmp_path / "data" / f"{name}.{task}.jsonl", task)) for task in tasks}
        for name, tasks in held.items()
    }
    killer = Killer(tmp_path / "deployed")
    home, run_id = deploy(Experiment(federation=federation, institutions=institutions), killer.folder, killer)

    assert len(killer.killed) >= 4, "the daemon, its SuperNode, its executor and their warden"
    with open_store(home.root) as store:
        assert store.run(run_id)["status"] == "completed"
        trained = [row for row in store.rows(replies, run_id) if row["kind"] == "train"]
    status = {(row["round"], row["institution"]): row["status"] for row in trained}
    reasons = [row["reason"] for row in trained if row["institution"] == VICTIM and row["status"] != "ok"]
    assert all(status[number, "hospital"] == "ok" for number in range(1, 9))
    assert status[1, VICTIM] == "ok"
    assert status[2, VICTIM] == "ok", (reasons, killer.lines)
    assert all(status[number, VICTIM] == "ok" for number in range(3, 9)), (reasons, killer.lines)
