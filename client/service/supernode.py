"""Flower's own SuperNode with shorter pauses: `python -m client.service.supernode --poll SECONDS -- OPTIONS`.

The options are those of `flower-supernode`, which pauses 3 s whenever the coordinator has no message for it, looks
every 0.5 s whether the executor's reply is there, and waits 1 s when it sees a message before all its arrays have
arrived at the coordinator: in a federation of quick rounds that is most of a round's time.

Every request is signed whole as well (`shared.signing`): Flower's own signature covers the time alone, and Collegium's
coordinator does not accept it unless configured to.

One thing more is mended. When Flower's loop ends by an error (a coordinator that answers with HTTP 500 is enough), its
process lives on without ever asking for a message again; here it ends, so that the daemon starts it anew.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from shared.flower.http import ProtobufCall, ProtobufRequestContext
from shared.flower.supernode import (
    NodeAuthHttpInterceptor,
    fleet_http_connection,
    flower_supernode,
    start_client_internal,
    supernode_main,
)
from shared.process.files import private_umask
from shared.signing import HEADER, sign_request

IDLE_SLEEP = 3
"""What Flower's loop passes to `time.sleep` when the coordinator has no message; it counts as the loop's mark."""
REPLY_POLL = 0.05
"""Seconds between two looks for the executor's reply. They stay in this process: no request is made."""
IDLE_POLL = 1.0
LINGER = 60.0
"""Seconds after a message in which the next one is expected soon."""
DEFAULT_POLL = 0.25
BACKOFF = {"initial_backoff": 0.1, "backoff_cap": 1.0}
"""Seconds before asking again for an array that has not arrived yet, doubling to the cap; Flower: 1 to 10."""


class Pauses:
    """Stands in for the module `time` inside Flower's loop, which calls `sleep` only.

    Between messages it pauses for `poll` seconds for a minute after the last message, and 1 s (or `poll`, if that is
    longer) once the federation is quiet: one small request per pause reaches the coordinator.

    Args:
        poll: Seconds between two questions to the coordinator while a run is active.
        sleep: Replaced in tests.
        now: Replaced in tests.
    """

    def __init__(
        self, poll: float, *, sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._poll, self._sleep, self._now = poll, sleep, now
        self._last_message = -LINGER

    def sleep(self, seconds: float) -> None:
        """Pause as long as suits what the loop waits for."""
        if seconds == IDLE_SLEEP:
            active = self._now() - self._last_message < LINGER
            self._sleep(self._poll if active else max(self._poll, IDLE_POLL))
        else:  # only a message that is being worked on makes the loop wait for anything else
            self._last_message = self._now()
            self._sleep(min(seconds, REPLY_POLL))


class WholeRequestSigner:
    """Flower's signature of the time, and ours of the whole request.

    Args:
        private_key: The node's, on P-384.
        public_key: Its other half.
    """

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey) -> None:
        self._key, self._flower = private_key, NodeAuthHttpInterceptor(private_key, public_key)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign a request and pass it on."""
        request = context.request
        request.headers[HEADER] = sign_request(self._key, request.method, request.url.path, request.content)
        return self._flower.intercept(context, call_next)


def main() -> None:
    """Run the SuperNode until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m client.service.supernode", description="Flower's SuperNode with shorter pauses."
    )
    parser.add_argument(
        "--poll", type=float, default=DEFAULT_POLL, help="seconds between questions (default %(default)s)"
    )
    parser.add_argument("options", nargs="*", help="after `--`: options of flower-supernode")
    arguments = parser.parse_args()
    private_umask()
    loop = vars(start_client_internal)
    loop["time"] = Pauses(arguments.poll)
    loop["pull_objects"] = partial(loop["pull_objects"], **BACKOFF)
    vars(supernode_main)["FastAPI"] = partial(FastAPI, openapi_url=None)  # no /docs and no /openapi.json
    vars(fleet_http_connection)["NodeAuthHttpInterceptor"] = WholeRequestSigner
    sys.argv = ["flower-supernode", *arguments.options]
    try:
        flower_supernode()  # ends by SystemExit when all is well
    except Exception:
        traceback.print_exc()
    print("The SuperNode's loop ended by an error, see above.", file=sys.stderr, flush=True)
    os._exit(1)  # the thread of the Runtime API would keep the process alive


if __name__ == "__main__":
    main()
