"""Processes that pretend to train under a ledger, for test_crashes.py to kill.

`python trainings.py` reads one command a line, forks a process that carries it out, and prints its id and, once it has
ended, its exit status. What is really spent is written to `spent.log` beside the ledger, on disk before it is spent.

    loop FOLDER SEED    trains for ever
    once FOLDER         trains once
    stop FOLDER N       the same, and kills itself before its Nth SQL statement
    fill FOLDER BYTES   trains once on other data, and dies in the write that would make any file longer than that
    many FOLDER N       trains N times beside another process
"""

import contextlib
import os
import random
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

# Without a limit nothing is computed, and without opacus, which brings torch, a process is forked ten times as fast.
for name in ("opacus", "opacus.accountants", "opacus.accountants.analysis"):
    sys.modules |= {name: Mock(), f"{name}.prv": Mock(), f"{name}.rdp": Mock()}

from client.data.identity import hash_texts  # noqa: E402
from client.privacy import chain  # noqa: E402
from client.privacy.accounting import Mechanism  # noqa: E402
from client.privacy.dataset import Dataset, describe_dataset  # noqa: E402
from client.privacy.ledger import Ledger  # noqa: E402

FIRST, SECOND = (
    describe_dataset({str(n): [hash_texts([f"text {n}"])] for n in numbers}, "patient_id")
    for numbers in (range(150), range(1000, 1150))
)
LOG = "spent.log"


def train(ledger: Ledger, folder: Path, dataset: Dataset, rng: random.Random) -> None:
    steps = rng.randint(1, 20)
    asked = {"delta": 1e-5, "max_epsilon": None, "federation": "f" * 64, "run": "1", "round": 1}
    reservation = ledger.reserve(dataset, Mechanism(1.0, 0.1, steps), **asked)  # type: ignore[arg-type]
    taken = rng.randint(0, steps)
    note(folder, "began", reservation.sequence, taken)
    ledger.commit(reservation, taken)
    note(folder, "settled", reservation.sequence, taken, ledger.head.sequence, ledger.head.sha256)


def note(folder: Path, *words: object) -> None:
    file = os.open(folder / LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, " ".join(map(str, words)).encode() + b"\n")
    os.fsync(file)
    os.close(file)


def carry_out(command: str, folder: Path, number: int) -> None:
    if command == "stop":
        chain.sqlite3 = Traced(number)  # type: ignore[attr-defined, assignment]
    if command == "fill":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    rng = random.Random(number)
    ledger = Ledger.open(folder / "ledger.sqlite")
    for _ in times(command, number):
        train(ledger, folder, SECOND if command == "fill" else FIRST, rng)


def times(command: str, number: int) -> Iterator[int]:
    if command == "loop":
        return iter(int, 1)
    return iter(range(number if command == "many" else 1))


class Traced:
    """sqlite3, whose connections kill the process before the Nth statement."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __getattr__(self, name: str) -> object:
        return getattr(sqlite3, name)

    def connect(self, *args: object, **options: object) -> sqlite3.Connection:
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        connection = connect(*args, **options)
        connection.set_trace_callback(self.count)
        return connection

    def count(self, statement: str) -> None:
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    running: dict[int, str] = {}
    for line in sys.stdin:
        for each in line.split(";"):
            command, folder, *number = each.split()
            if (pid := os.fork()) == 0:
                with contextlib.suppress(KeyboardInterrupt):
                    carry_out(command, Path(folder), int(number[0]) if number else 0)
                os._exit(0)
            running[pid] = command
            print(pid, flush=True)
        for pid in running:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        running.clear()


if __name__ == "__main__":
    main()
