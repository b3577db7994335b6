"""Clients of a server, played by Locust in a process of their own: a connection each, a request at a time.

Reads one JSON object from standard input (`url`, `path`, `texts`, `clients`), has every text answered once, and prints
one: `seconds` from the first question to the last answer, `each` question's seconds, and `refused`, the status of those
that were not answered with 200. Locust replaces Python's sockets and threads by gevent's: so it is no part of a process
that does anything else.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any


def main() -> None:
    """Ask."""
    locust = import_module("locust")
    event = import_module("gevent.event").Event
    given = json.load(sys.stdin)
    left, each, refused = list(reversed(given["texts"])), list[float](), list[int]()
    ready, over, ended = event(), event(), list[float]()

    def ask(user: Any) -> None:
        ready.wait()
        while left:
            body = json.dumps({"inputs": left.pop()})
            started = time.perf_counter()
            answer = user.client.post(given["path"], data=body, headers={"content-type": "application/json"})
            each.append(time.perf_counter() - started)
            if answer.status_code != 200:
                refused.append(answer.status_code)
        ended.append(time.perf_counter())
        if len(ended) == given["clients"]:
            over.set()
        raise import_module("locust.exception").StopUser

    client = type(
        "Client", (locust.FastHttpUser,), {"host": given["url"], "tasks": [ask], "wait_time": locust.constant(0)}
    )
    environment = import_module("locust.env").Environment(user_classes=[client])
    runner = environment.create_local_runner()
    runner.start(given["clients"], spawn_rate=given["clients"], wait=True)
    started = time.perf_counter()
    ready.set()
    over.wait()
    print(json.dumps({"seconds": max(ended) - started, "each": each, "refused": refused}), flush=True)
    runner.quit()


if __name__ == "__main__":
    main()
