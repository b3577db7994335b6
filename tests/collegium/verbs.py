"""Runs commands, each in a fork of one process that has loaded the libraries; `python verbs.py` reads one a line.

A line is a JSON list: the environment's changes, and the words after `collegium`. `FSIZE` is the length in bytes that a
file may have, as if the disk were full then. What is printed is a JSON list: the exit code, 99 for a traceback, and the
output.
"""

import json
import os
import resource
import signal
import sys
import traceback

from shared.process.memory import loading

with loading():  # a fork looks through nothing of it for garbage
    import client.opening
    import client.predict  # noqa: F401
    import server.doctor.examination
    import server.runs.steering
    import server.service.daemon  # noqa: F401
    import simulations.audit
    import simulations.simulate  # noqa: F401
    from collegium.__main__ import main

for line in sys.stdin:
    environment, words = json.loads(line)
    end, start = os.pipe()
    if (pid := os.fork()) == 0:
        code = 99
        try:
            for number in (1, 2):
                os.dup2(start, number)
            os.close(start)
            encoding = environment.pop("PYTHONIOENCODING", "utf-8")
            if length := int(environment.pop("FSIZE", 0)):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
            os.environ.update(environment)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding=encoding, errors="strict") for n in (1, 2))
            sys.argv = ["collegium", *words]
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(start)
    with os.fdopen(end, encoding="utf-8") as stream:
        printed = stream.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed]), flush=True)
