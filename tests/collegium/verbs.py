"""Runs commands, each in a fork of one process that has loaded the libraries: `python verbs.py`, one JSON list a line.

A line is the path that stdout and stderr go to, the environment's changes, and the words after `collegium`. What is
printed is the exit code; 99 is a traceback.
"""

import json
import os
import sys
import traceback

import client.opening
import client.predict  # noqa: F401
import server.running  # noqa: F401
import simulations.experiment  # noqa: F401
from collegium.__main__ import main

for line in sys.stdin:
    output, environment, words = json.loads(line)
    if (pid := os.fork()) == 0:
        code = 99
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            encoding = environment.pop("PYTHONIOENCODING", "utf-8")
            os.environ.update(environment)
            for number in (1, 2):
                os.dup2(descriptor, number)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(encoding=encoding, errors="strict")  # type: ignore[union-attr]
            sys.argv = ["collegium", *words]
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
