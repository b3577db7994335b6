"""Training processes die at any moment: the ledger never shows less than was spent, and keeps what was settled."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.hashchain import Head
from client.privacy import chain
from client.privacy.accounting import Mechanism, rdp_epsilon
from client.privacy.book import Book, read_book
from client.privacy.ledger import Ledger

KILLS = 200
ROOT = Path(__file__).parents[3]


class Trainings:
    """The process that forks those that are killed: the libraries are imported once."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("trainings.py"))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )

    def start(self, *commands: str) -> list[int]:
        """Process ids."""
        assert self.process.stdin
        self.process.stdin.write(";".join(commands) + "\n")
        return [self._number() for _ in commands]

    def end(self, *commands: str) -> list[int]:
        """Exit codes, negative for a signal."""
        self.start(*commands)
        return [self._number() for _ in commands]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self._number() == -signal.SIGKILL

    def _number(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    trainings = Trainings()
    yield trainings
    with trainings.process as process:
        process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing that the kernel has, and does not wait."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


def check(folder: Path) -> Book:
    """Hold the ledger against what was really spent, and return it."""
    log = folder / "spent.log"
    notes = [line.split() for line in log.read_text().split("\n")[:-1]] if log.exists() else []
    spent = {int(each[1]): int(each[2]) for each in notes if each[0] == "began"}
    settled = [int(each[1]) for each in notes if each[0] == "settled"]
    known = [Head(int(each[3]), each[4]) for each in notes if each[0] == "settled"]
    Ledger.open(folder / "ledger.sqlite", known=known[-1:])
    with chain.transaction(folder / "ledger.sqlite", write=False) as found:
        book = read_book(found.entries)
    for number in settled:
        assert not book.charges[number].open
        assert book.charges[number].mechanism.steps == spent[number]
    for number, steps in spent.items():
        assert book.charges[number].mechanism.steps >= steps
    shown = rdp_epsilon([charge.mechanism for charge in book.charges.values()], 1e-5)
    assert shown >= rdp_epsilon([Mechanism(1.0, 0.1, steps) for steps in spent.values()], 1e-5)
    return book


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(trainings: Trainings, folder: Path) -> None:
    rng = random.Random(1)
    charges, left_open, place = 0, 0, folder
    for kill in range(KILLS):
        if kill % 25 == 0:
            place = folder / str(kill)
            place.mkdir()
        (pid,) = trainings.start(f"loop {place} {kill}")
        time.sleep(rng.uniform(0, 0.06))
        trainings.kill(pid)
        book = check(place)
        if kill % 25 == 24:
            charges += len(book.charges)
            left_open += sum(charge.open for charge in book.charges.values())
    assert charges > KILLS / 2, "training went on between the kills"
    assert left_open > KILLS / 20, "kills hit trainings"


def test_a_kill_before_every_statement(trainings: Trainings, folder: Path) -> None:
    settled, statements = False, 0
    while not settled:
        statements += 1
        place = folder / str(statements)
        place.mkdir()
        (code,) = trainings.end(f"stop {place} {statements}")
        assert code in (0, -signal.SIGKILL)
        settled = code == 0
        if (place / "ledger.sqlite").exists():
            check(place)
        assert trainings.end(f"once {place}") == [0], "training goes on after it"
        check(place)
    assert statements > 30


def test_a_death_in_the_middle_of_every_write(trainings: Trainings, folder: Path) -> None:
    before = folder / "before"
    before.mkdir()
    assert trainings.end(f"once {before}") == [0]
    (before / "spent.log").unlink()
    torn, code, size = 0, -signal.SIGXFSZ, (before / "ledger.sqlite").stat().st_size
    assert size > 5 * 4096
    for limit in range(512, size + 8 * 4096, 1024):
        place = folder / str(limit)
        shutil.copytree(before, place)
        (code,) = trainings.end(f"fill {place} {limit}")
        torn += (place / "ledger.sqlite-journal").exists()
        check(place)
        assert trainings.end(f"once {place}") == [0]
        check(place)
        if code == 0:
            break
    assert code == 0
    assert torn > 10, "some died in a commit, and the next process rolled it back"


def test_two_processes_at_once(trainings: Trainings, folder: Path) -> None:
    assert trainings.end(f"many {folder} 12", f"many {folder} 12") == [0, 0]
    assert len(check(folder).charges) == 24
