"""Plays faults to a real deployment at random moments of its runs, and looks whether anybody would have to help."""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from client.institution import Data
from server.home import ServerHome
from server.opening import open_store
from server.runs.steering import follow, start
from server.store import replies, rounds
from shared.errors import CollegiumError, ProcessError
from simulations.attacks.stage import TINY_RECORDS, tiny_federation, write_tiny_bert
from simulations.chaos.clock import HOUR, Clock
from simulations.chaos.disk import fill, small_disk
from simulations.chaos.killing import COORDINATOR, FROZEN, INSTITUTION, freeze, kill, left
from simulations.chaos.network import Line
from simulations.demo import Surroundings, standing
from simulations.experiment import Experiment

CUT = "an institution's network is cut"
CLOCKS = {
    "the coordinator's clock an hour ahead": ("coordinator", HOUR),
    "the coordinator's clock an hour behind": ("coordinator", -HOUR),
    "an institution's clock an hour ahead": ("", HOUR),
    "an institution's clock an hour behind": ("", -HOUR),
}
"""Whose clock jumps, by how much; it jumps back afterwards."""
HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}
"""Tasks of the institutions of a tiny deployment."""
DISKS = {"the coordinator's disk is full": "coordinator", "an institution's disk is full": ""}
CLOSE = 1e-4


@dataclass(frozen=True)
class Lengths:
    """How many seconds a network is cut, a clock is wrong, a disk is full, and nothing happens between two faults."""

    cut: float = 120.0
    clock: float = 40.0
    disk: float = 20.0
    pause: float = 15.0
    """At most; a fifth of it at least."""


AS_USUAL = Lengths()


@dataclass(frozen=True)
class Fault:
    """One thing that happened."""

    kind: str
    run: str
    round: int
    """That was in progress."""


@dataclass
class Report:
    """What became of the runs."""

    happened: list[Fault] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """The disturbed ones."""
    faults: list[str] = field(default_factory=list)
    """What a human would have had to mend."""


class Deployment:
    """What lies around the daemons of a deployment, where faults are played.

    Args:
        folder: The deployment's.
        institutions: Names of its institutions.
        kinds: Of the faults to come; a clock and a disk of its own are given only to whom one of them needs it.
        lengths: Of what lasts.
    """

    def __init__(self, folder: Path, institutions: Sequence[str], kinds: Sequence[str], lengths: Lengths) -> None:
        self._folder, self._institutions, self._lengths = folder, institutions, lengths
        self._kinds = frozenset(kinds)
        self._lines = dict[str, Line]()
        self._clocks = dict[str, Clock]()

    @contextmanager
    def around(self) -> Iterator[Surroundings]:
        """What the daemons are to be started in, while the block lasts."""
        everyone = ("coordinator", *self._institutions)
        with ExitStack() as ends:
            if self._kinds & DISKS.keys():
                for name in everyone:
                    ends.enter_context(small_disk(self._folder / name))
            if self._kinds & CLOCKS.keys():
                self._clocks = {name: Clock(self._folder / "clocks" / name) for name in everyone}

            def port(name: str, public: int) -> int:
                self._lines[name] = line = Line(public)
                ends.callback(line.close)
                return line.port

            def environment(name: str) -> Mapping[str, str]:
                return self._clocks[name].environment if self._clocks else {}

            yield Surroundings(port if CUT in self._kinds else Surroundings.port, environment)

    def play(self, kind: str, someone: str, over: threading.Event) -> bool:
        """Have something happen, to an institution where it concerns one; whether there was anything to hit."""
        if kind in FROZEN:
            words, place = FROZEN[kind]
            return freeze(words, self._folder / (place or someone), over) > 0
        if kind in COORDINATOR:
            return kill(COORDINATOR[kind], self._folder / "coordinator") > 0
        if kind in INSTITUTION:
            return kill(INSTITUTION[kind], self._folder / someone) > 0
        if kind in DISKS:
            fill(self._folder / (DISKS[kind] or someone), over, self._lengths.disk)
        elif kind in CLOCKS:
            place, seconds = CLOCKS[kind]
            self._clocks[place or someone].set(seconds)
            over.wait(self._lengths.clock)
            self._clocks[place or someone].set(0)
        else:
            self._lines[someone].cut()
            over.wait(self._lengths.cut)
            self._lines[someone].mend()
        return True


class Player:
    """Plays faults every few seconds while a round is in progress, until there are none left.

    Args:
        deployment: Where.
        institutions: Names of its institutions.
        kinds: Of the faults, the last one first.
        pause: The longest one between two faults, in seconds.
        rng: Chooses when, and whom.
        tell: Told what happens.
    """

    def __init__(
        self,
        deployment: Deployment,
        institutions: Sequence[str],
        kinds: Sequence[str],
        pause: float,
        rng: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self._deployment, self._institutions, self._rng, self._tell = deployment, institutions, rng, tell
        self._pause = pause
        self.left = list(kinds)
        self.happened: list[Fault] = []
        self.now = ("", 0)
        """The run and the round in progress."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chaos", daemon=True)

    def __enter__(self) -> "Player":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self.left and not self._over.wait(self._rng.uniform(self._pause / 5, self._pause)):
            run, number = self.now
            if not number:
                continue
            kind, someone = self.left[-1], self._rng.choice(self._institutions)
            self._tell(f"[{kind}: {someone}]")
            if self._deployment.play(kind, someone, self._over) and not self._over.is_set():
                self.left.pop()
                self.happened.append(Fault(kind, run, number))
            # else it is starting; another moment will do


def play(
    experiment: Experiment,
    folder: Path,
    kinds: Sequence[str],
    tell: Callable[[str], None],
    *,
    seed: int = 13,
    most_runs: int = 1000,
    lengths: Lengths = AS_USUAL,
    seconds: float = math.inf,
    store_url: str | None = None,
) -> Report:
    """Run a federation undisturbed, then until everything in `kinds` has happened once.

    Args:
        experiment: Its federation needs every institution in every round (`rounds.quorum`).
        folder: Empty; the deployment's.
        kinds: Of faults, in the order in which they happen, the last one first.
        tell: Told what happens.
        seed: Of the moments, and of which institution.
        most_runs: After so many disturbed runs it ends, whatever is left.
        lengths: Of what lasts.
        seconds: After so many no other run begins, whatever is left.
        store_url: Where the coordinator keeps runs, if not in its folder.

    Raises:
        CollegiumError: The deployment did not come up, or this machine cannot play such faults.
    """
    report, names, began = Report(), list(experiment.institutions), time.monotonic()
    deployment = Deployment(folder, names, kinds, lengths)
    with deployment.around() as around:
        around = replace(around, settings={"store_url": store_url} if store_url else {})
        with standing(experiment, folder, tell, around) as (home, check):
            calm = _run(home, tell, check)
            with Player(deployment, names, kinds, lengths.pause, random.Random(seed), tell) as player:
                for _ in range(most_runs):
                    if not player.left or time.monotonic() - began > seconds:
                        break
                    try:
                        run = _run(home, tell, check, player)
                    except CollegiumError as error:
                        report.faults.append(str(error))
                        break
                    report.runs.append(run)
                    report.faults += faults_of(home, calm, run, names)
            report.happened = player.happened
        report.faults += [f"process {pid} is left" for pid in left(folder)]
    return report


def _run(home: ServerHome, tell: Callable[[str], None], check: Callable[[], None], player: Player | None = None) -> str:
    """One run to its end; its id."""
    run = start(home.root).run_id

    def told(text: str) -> None:
        tell(text)
        if player and text.startswith(("Round ", "Having ")):
            player.now = run, int(text.split()[1]) + 1 if text.startswith("Round ") else 1

    result = follow(home.root, run, told, seen=0, check=check)
    if player:
        player.now = run, 0
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


def tiny_experiment(folder: Path, names: Sequence[str] = tuple(HELD)) -> Experiment:
    """Institutions with rounds of some seconds, all of which are needed."""
    held, institutions = {name: HELD[name] for name in names}, {}
    (folder / "bert").mkdir(parents=True)
    for name, tasks in held.items():
        (folder / name).mkdir()
        for task in tasks:
            lines = "".join(json.dumps(record) + "\n" for record in TINY_RECORDS[task])
            (folder / name / f"{task}.jsonl").write_text(lines, encoding="utf-8")
        institutions[name] = {task: Data(train=folder / name / f"{task}.jsonl") for task in tasks}
    federation = tiny_federation(
        write_tiny_bert(folder / "bert"),
        rounds={"count": 6, "quorum": len(held), "institutions": list(held), "deadline_seconds": 1800.0},
        training={"epochs_per_round": 20},
    )
    return Experiment(federation=federation, institutions=institutions)
