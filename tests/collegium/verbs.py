"""Runs commands, each in a fork of one process that has loaded the libraries; `python verbs.py` reads one a line.

A line is a JSON list: the environment's changes, and the words after `collegium`. `FSIZE` is the length in bytes that a
file may have, as if the disk were full then; `TERMINAL` is the terminal that has the errors. What is printed is a JSON
list: the exit code, 99 for a traceback, what went to stdout, and what to stderr.
"""

import json
import os
import resource
import signal
import sys
import traceback
from threading import Thread

import client.opening
import client.predict  # noqa: F401
import server.runs.steering  # noqa: F401
import simulations.experiment  # noqa: F401
from collegium.__main__ import main


def play(environment: dict[str, str], words: list[str]) -> int:
    """The command's exit code, in a process of its own."""
    encoding = environment.pop("PYTHONIOENCODING", "utf-8")
    if terminal := environment.pop("TERMINAL", ""):
        os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), 2)
    if length := int(environment.pop("FSIZE", 0)):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
    os.environ.update(environment)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding=encoding, errors="strict") for n in (1, 2))
    sys.argv = ["collegium", *words]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def run(environment: dict[str, str], words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    pipes = [os.pipe() for _ in (1, 2)]
    if (pid := os.fork()) == 0:
        code = 99
        try:
            for number, (_, start) in enumerate(pipes, 1):
                os.dup2(start, number)
                os.close(start)
            code = play(environment, words)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    said = ["", ""]

    def read(number: int, end: int) -> None:
        with os.fdopen(end, encoding="utf-8") as stream:
            said[number] = stream.read()

    for _, start in pipes:
        os.close(start)
    readers = [Thread(target=read, args=(number, end)) for number, (end, _) in enumerate(pipes)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said[0], said[1]


for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
