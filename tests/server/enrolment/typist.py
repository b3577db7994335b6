"""Types commands, each in a fork of one process that has loaded the libraries, and dies at a step; `python typist.py`.

A line of its input is a JSON list: the folder, the step at which SIGKILL comes (0: never), and the words after
`collegium`. A step is any change in the folder, and any request to the coordinator, before it and after its answer.
What is printed is a JSON list: the exit code (minus a signal), and what was said.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import client.cli  # noqa: F401
import client.enrolment.channel as channel
import client.enrolment.joining as joining
import client.enrolment.rotating as rotating
from collegium.__main__ import main

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


def die_at(number: int, folder: str) -> None:
    """Have this process killed at a step."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def changes(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(arguments[0]).startswith(folder):
            step()

    real = channel.enrolment_door

    @contextmanager
    def door(*about: Any) -> Iterator[Any]:
        with real(*about) as call:

            def counted(*request: Any) -> Any:
                step()
                answer = call(*request)
                step()
                return answer

            yield counted

    for module in (joining, rotating):
        vars(module)["enrolment_door"] = door
    sys.addaudithook(changes)


for line in sys.stdin:
    folder, number, *words = json.loads(line)
    with tempfile.TemporaryFile() as said:
        if (pid := os.fork()) == 0:
            code = 99
            try:
                for descriptor in (1, 2):
                    os.dup2(said.fileno(), descriptor)
                os.chdir(folder)
                sys.argv = ["collegium", *words]
                die_at(number, folder)
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        print(json.dumps([status, said.read().decode()]), flush=True)
