"""Kills processes of a real deployment at random moments of its runs, and looks whether anybody would have to help.

    python -m simulations.chaos --kills 30 --folder /tmp/chaos

A federation of the tiny BERT runs once undisturbed; then runs follow each other in which a process dies every few
seconds, by SIGKILL, until there were enough kills. Each run must complete by itself, with every institution in every
round and the final state of the undisturbed one. The table says how often each kind of process died.
"""

import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from client.institution import Data
from server.home import ServerHome
from server.opening import open_store
from server.runs.steering import follow, start
from server.store import replies, rounds
from shared.errors import CollegiumError, ProcessError
from shared.process.console import announce, print_table
from shared.process.parent import VARIABLE
from simulations.attacks.stage import TINY_RECORDS, tiny_federation, write_tiny_bert
from simulations.demo import standing
from simulations.experiment import Experiment

COORDINATOR = {
    "ServerApp": "flwr-serverapp",
    "SuperLink": "server.service.superlink",
    "SuperExec": "server.service.superexec",
    "server up": "collegium server up",
}
INSTITUTION = {
    "executor": "client.service.executor",
    "SuperNode": "client.service.supernode",
    "client up": "collegium client up",
    "a whole institution": "",
}
"""Words in the command line of each kind of process; none for `client up` and all that it has started."""
FROZEN = {
    "a frozen SuperLink": ("server.service.superlink", "coordinator"),
    "a frozen SuperNode": ("client.service.supernode", ""),
    "a frozen institution": ("", ""),
}
"""What gets no processor time for FROZEN_SECONDS: its words, and its folder where it is not one of the institutions'.

To the other side that is a network that is cut: connections stay open, and nothing comes through them.
"""
FROZEN_SECONDS = 65.0
"""Longer than Flower counts a silent node as online."""
LEAST_PAUSE, LONGEST_PAUSE = 3.0, 15.0
"""Seconds between two kills."""
CLOSE = 1e-4


@dataclass(frozen=True)
class Kill:
    """One process that died."""

    kind: str
    run: str
    round: int
    """That was in progress."""


@dataclass
class Report:
    """What became of the runs."""

    kills: list[Kill] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """The disturbed ones."""
    faults: list[str] = field(default_factory=list)
    """What a human would have had to mend."""


def processes(words: str, folder: Path) -> list[int]:
    """Ids of processes that have the words in their command line, and the folder there or in their environment.

    Without words, those of `collegium client up`, and all their descendants.
    """
    parents, roots = dict[int, int](), set[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            around = command + (entry / "environ").read_bytes().decode(errors="replace")
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if (words or INSTITUTION["client up"]) in command and str(folder) in around:
            roots.add(int(entry.name))
    while not words and (more := {child for child, parent in parents.items() if parent in roots} - roots):
        roots |= more
    return sorted(roots)


def kill(words: str, folder: Path) -> int:
    """Kill such processes; how many there were."""
    return _signal(processes(words, folder), signal.SIGKILL)


def freeze(words: str, folder: Path, over: threading.Event, seconds: float = FROZEN_SECONDS) -> int:
    """Stop such processes for so many seconds, or until it is over; how many there were."""
    found = processes(words, folder)
    _signal(found, signal.SIGSTOP)
    if found:
        over.wait(seconds)
    return _signal(found, signal.SIGCONT)


def _signal(found: Sequence[int], number: int) -> int:
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(found)


class Killer:
    """Kills something at random every few seconds, while there is anything left to kill.

    Args:
        folder: The deployment's.
        institutions: Names of its institutions.
        kinds: What may die, and how often in all.
        rng: Chooses what and when.
    """

    def __init__(self, folder: Path, institutions: Sequence[str], kinds: Sequence[str], rng: random.Random) -> None:
        self._folder, self._institutions, self._rng = folder, institutions, rng
        self.left = list(kinds)
        self.kills: list[Kill] = []
        self.now = ("", 0)
        """The run and the round in progress."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="killer", daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self.left and not self._over.wait(self._rng.uniform(LEAST_PAUSE, LONGEST_PAUSE)):
            run, number = self.now
            if not number:
                continue
            kind = self.left[-1]
            someone = self._rng.choice(self._institutions)
            if kind in FROZEN:
                words, place = FROZEN[kind]
                died = freeze(words, self._folder / (place or someone), self._over)
            elif kind in COORDINATOR:
                died = kill(COORDINATOR[kind], self._folder / "coordinator")
            else:
                died = kill(INSTITUTION[kind], self._folder / someone)
            if died and not self._over.is_set():  # else it is starting; another moment will do
                self.left.pop()
                self.kills.append(Kill(kind, run, number))


def play(
    experiment: Experiment,
    folder: Path,
    kinds: Sequence[str],
    tell: Callable[[str], None],
    *,
    seed: int = 13,
    most_runs: int = 1000,
) -> Report:
    """Run a federation undisturbed, then until everything in `kinds` has died once.

    Args:
        experiment: Its federation needs every institution in every round (`rounds.quorum`).
        folder: Empty; the deployment's.
        kinds: Of processes, in the order in which they die, the last one first.
        tell: Told what happens.
        seed: Of the moments, and of which institution.
        most_runs: After so many disturbed runs it ends, whoever is left.

    Raises:
        CollegiumError: The deployment did not come up.
    """
    report, names = Report(), list(experiment.institutions)
    with standing(experiment, folder, tell) as (home, check):
        calm = _run(home, tell, check)
        with Killer(folder, names, kinds, random.Random(seed)) as killer:
            for _ in range(most_runs):
                if not killer.left:
                    break
                try:
                    run = _run(home, tell, check, killer)
                except CollegiumError as error:
                    report.faults.append(str(error))
                    break
                report.runs.append(run)
                report.faults += faults_of(home, calm, run, names)
        report.kills = killer.kills
    everything = filter(None, (*COORDINATOR.values(), *INSTITUTION.values()))
    report.faults += [f"process {pid} is left" for words in everything for pid in processes(words, folder)]
    return report


def _run(home: ServerHome, tell: Callable[[str], None], check: Callable[[], None], killer: Killer | None = None) -> str:
    """One run to its end; its id."""
    run = start(home.root).run_id

    def told(text: str) -> None:
        tell(text)
        if killer and text.startswith(("Round ", "Having ")):
            killer.now = run, int(text.split()[1]) + 1 if text.startswith("Round ") else 1

    result = follow(home.root, run, told, seen=0, check=check)
    if killer:
        killer.now = run, 0
    if result["status"] != "completed":
        how = f"{result['status']}: {result['reason']}"
        raise ProcessError(f"Expected run {run} to complete by itself, but it is {how}")
    return run


def faults_of(home: ServerHome, calm: str, run: str, names: Sequence[str]) -> list[str]:
    """What is wrong with a run, beside the undisturbed one."""
    with open_store(home.root) as store:
        count = store.agreement(run).rounds.count
        done = [row["round"] for row in store.rows(rounds, run)]
        took_part = {
            (row["round"], row["institution"])
            for row in store.rows(replies, run)
            if (row["kind"], row["status"]) == ("train", "ok")
        }
        first, second = (store.load_checkpoint(of, count).model for of in (calm, run))
    faults = [] if done == list(range(1, count + 1)) else [f"run {run} has the rounds {done}"]
    faults += [
        f"run {run} lacks {name} in round {number}"
        for number in range(1, count + 1)
        for name in names
        if (number, name) not in took_part
    ]
    far = max(float(np.abs(second[name] - array).max(initial=0.0)) for name, array in first.items())
    return [*faults, *([f"run {run} ended {far:.2g} from the undisturbed one"] if far > CLOSE else [])]


def tiny_experiment(folder: Path) -> Experiment:
    """Three institutions with rounds of some seconds, all of which are needed."""
    held = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}
    institutions = {}
    (folder / "bert").mkdir(parents=True)
    for name, tasks in held.items():
        (folder / name).mkdir()
        for task in tasks:
            lines = "".join(json.dumps(record) + "\n" for record in TINY_RECORDS[task])
            (folder / name / f"{task}.jsonl").write_text(lines, encoding="utf-8")
        institutions[name] = {task: Data(train=folder / name / f"{task}.jsonl") for task in tasks}
    federation = tiny_federation(
        write_tiny_bert(folder / "bert"),
        rounds={"count": 6, "quorum": 3, "institutions": list(held)},
        training={"epochs_per_round": 20},
    )
    return Experiment(federation=federation, institutions=institutions)


def main(
    folder: Annotated[Path | None, typer.Option(help="Empty; a temporary one if not given.")] = None,
    kills: Annotated[int, typer.Option(help="How many.")] = 30,
    seed: Annotated[int, typer.Option(help="Of what dies when.")] = 13,
    frozen: Annotated[int, typer.Option(help="How often of each kind something is frozen for 65 s, besides.")] = 0,
) -> None:
    """Kill processes of a tiny federation at random moments."""
    os.environ.pop(VARIABLE, None)
    root = folder or Path(tempfile.mkdtemp(prefix="collegium-chaos-"))
    rng = random.Random(seed)
    kinds = [rng.choice([*COORDINATOR, *INSTITUTION]) for _ in range(kills)] + [*FROZEN] * frozen
    rng.shuffle(kinds)
    began = time.monotonic()
    report = play(tiny_experiment(root / "records"), root / "deployed", kinds, announce, seed=seed)
    counts = Counter(one.kind for one in report.kills)
    print_table(
        ["what died", "times"],
        [[kind, count] for kind, count in sorted(counts.items())],
        title=f"{len(report.kills)} in {len(report.runs)} runs and {time.monotonic() - began:.0f} s",
    )
    for fault in report.faults:
        announce(fault)
    if report.faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
