"""Commands, run quickly: hundreds of them would each load the libraries anew."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Verbs:
    """Runs commands in a folder, each in a process of its own."""

    def __init__(self, folder: Path, *wrapper: str) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, str(Path(__file__).with_name("verbs.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def say(self, *words: str | Path, **environment: str) -> tuple[int, str, str]:
        """Exit code, what went to stdout, and what to stderr."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([environment, [str(word) for word in words]]) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what was printed."""
        code, out, err = self.say(*words, **environment)
        return code, out + err


@pytest.fixture(scope="session")
def verbs_in() -> Iterator[Callable[..., Verbs]]:
    """Starts what runs commands in a folder, behind a program that starts others if one is named."""
    with ExitStack() as stack:

        def start(folder: Path, *wrapper: str) -> Verbs:
            verbs = Verbs(folder, *wrapper)
            stack.callback(verbs.process.communicate)
            return verbs

        yield start
