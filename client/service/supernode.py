"""Flower's own SuperNode with shorter pauses: `python -m client.service.supernode --poll SECONDS -- OPTIONS`.

The options are those of `flower-supernode`, which pauses 3 s whenever the coordinator has no message for it, looks
every 0.5 s whether the executor's reply is there, and waits 1 s when it sees a message before all its arrays have
arrived at the coordinator: in a federation of quick rounds that is most of a round's time. Here the coordinator may
hold the question until there is a message (`shared.process.waiting`), as this process holds its executor's, and the
loop wakes when the reply is there. Messages come and go with their arrays in one request (`shared.process.carrying`).
`--poll` counts where the coordinator does not hold questions.

Every request is signed whole as well (`shared.signing`): Flower's own signature covers the time alone, and Collegium's
coordinator does not accept it unless configured to.

Three things more are mended. A task whose executor has died is given up as soon as the next one asks for a task, and a
SuperNode that was killed is taken leave of by the next one on its machine: Flower waits a minute for either. When its
loop ends by an error (a coordinator that answers with HTTP 500 is enough), its process lives on without ever asking for
a message again; here it ends, so that the daemon starts it anew.
"""

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from client.agreement.asking import Watch
from shared.errors import ConnectionFailedError
from shared.federation.offers import HEADER as AGREEMENT_HEADER
from shared.flower.constants import Status, console_handler
from shared.flower.http import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from shared.flower.messages import RunNotRunningException
from shared.flower.supernode import (
    ActivateNodeResponse,
    DeactivateNodeRequest,
    InMemoryNodeState,
    NodeAuthHttpInterceptor,
    NodeStateFactory,
    add_exit_handler,
    fleet_http_connection,
    flower_supernode,
    start_client_internal,
    supernode_main,
)
from shared.process.carrying import Carrier, Handlers
from shared.process.files import private_umask, write_synced
from shared.process.waiting import EXECUTOR_HEADER, LONGEST_SECONDS, Bell, GoneError, hold_request, seconds_asked
from shared.process.waiting import HEADER as WAIT_HEADER
from shared.signing import HEADER, sign_request

IDLE_SLEEP = 3
"""What Flower's loop passes to `time.sleep` when the coordinator has no message; it counts as the loop's mark."""
REPLY_SECONDS = 1.0
"""Longest pause between two looks for the executor's reply, or for the end of its task."""
IDLE_POLL = 1.0
LINGER = 60.0
"""Seconds after a message in which the next one is expected soon."""
DEFAULT_POLL = 0.25
PULL_PATH, CONFIRM_PATH = "/v1/fleet/pull-messages", "/v1/fleet/confirm-message-received"
ACTIVATE_PATH, DEACTIVATE_PATH = "/v1/fleet/activate-node", "/v1/fleet/deactivate-node"
OF_ONE_REQUEST = ("content-length", HEADER.lower(), "flwr-public-key", "flwr-signature", "flwr-timestamp")
"""Headers that another request has its own of."""
ACQUIRE_PATH = "/v1/runtime/acquire-task"
EXECUTOR_NAME = EXECUTOR_HEADER.encode("latin-1")
WAIT_NAME = WAIT_HEADER.encode("latin-1")
TASKS = "tasks"
"""What is rung for when a message has become a task."""
MOST_HELD = 8
"""Of the executor's requests; nobody has checked yet who sends them."""
RELEARN_SECONDS = 600.0
LONGEST_PAUSE = 60.0
CUT_BY_A_PROXY = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT})
BACKOFF = {"initial_backoff": 0.1, "backoff_cap": 1.0}
"""Seconds before asking again for an array that has not arrived yet, doubling to the cap; Flower: 1 to 10."""


class Patience:
    """How long the coordinator may hold this process's question: what lies between them may end it sooner.

    Such a cut halves the time, and for as long as RELEARN_SECONDS it stays so.

    Args:
        now: Seconds; a test may pass its own.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seconds, self._cut_at = LONGEST_SECONDS, -RELEARN_SECONDS
        self.held = False
        """Whether the coordinator holds questions at all, as it said with its last answer."""

    @property
    def seconds(self) -> float:
        """For the next question."""
        if self._now() - self._cut_at >= RELEARN_SECONDS:
            self._seconds = LONGEST_SECONDS
        return self._seconds

    def cut(self, seconds: float) -> None:
        """Note that a question ended without an answer, so many seconds after it was asked."""
        if seconds > 1.0:  # else nobody has held it
            self._seconds, self._cut_at = max(1.0, min(self._seconds, seconds) / 2), self._now()


class Pauses:
    """Stands in for the module `time` inside Flower's loop, which calls `sleep` only.

    Where the coordinator holds questions the next one follows at once. Elsewhere the loop pauses for `poll` seconds for
    a minute after the last message, and 1 s (or `poll`, if that is longer) once the federation is quiet.

    Args:
        poll: Seconds between two questions to the coordinator while a run is active.
        patience: Tells whether the coordinator holds questions.
        news: Set when the executor has told this process something.
        sleep: Replaced in tests.
        now: Replaced in tests.
    """

    def __init__(
        self,
        poll: float,
        patience: Patience,
        news: threading.Event,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poll, self._patience, self._news, self._sleep, self._now = poll, patience, news, sleep, now
        self._last_message = -LINGER
        self._last_pause = now()

    def sleep(self, seconds: float) -> None:
        """Pause as long as suits what the loop waits for."""
        if seconds == IDLE_SLEEP:
            waited = self._now() - self._last_pause >= IDLE_POLL
            active = self._now() - self._last_message < LINGER
            if not (self._patience.held and waited):  # a coordinator that is about to stop holds nothing
                self._sleep(self._poll if active else max(self._poll, IDLE_POLL))
            self._last_pause = self._now()
        else:  # only a message that is being worked on makes the loop wait for anything else
            self._last_message = self._now()
            self._news.wait(REPLY_SECONDS)
            self._news.clear()


class WholeRequestSigner:
    """Flower's signature of the time, and ours of the whole request.

    It also lets the coordinator hold the question for a message, and asks again later what came too fast.

    Args:
        private_key: The node's, on P-384.
        public_key: Its other half.
        patience: How long a question may be held.
        received: Called when a message is here with all its arrays.
        offered: Told the digest of the agreement that the coordinator offers, with every answer to a question.
        sleep: Replaced in tests.
        last: The number under which the coordinator knows this site, from the last time.
    """

    def __init__(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        public_key: ec.EllipticCurvePublicKey,
        patience: Patience,
        received: Callable[[], None] = lambda: None,
        offered: Callable[[str | None], None] = lambda digest: None,
        sleep: Callable[[float], None] = time.sleep,
        last: "LastNode | None" = None,
    ) -> None:
        self._key, self._flower = private_key, NodeAuthHttpInterceptor(private_key, public_key)
        self._patience, self._received, self._offered, self._sleep = patience, received, offered, sleep
        self._last = last

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign a request and pass it on."""
        bare = context.request.headers.copy()
        response = self._send(context, call_next)
        if context.request.url.path == ACTIVATE_PATH and self._last:
            if response.is_client_error and (number := self._last.read()) is not None:
                self._take_leave(number, context, call_next)
                context.request.headers = bare
                response = self._send(context, call_next)
            if response.is_success:
                self._last.write(ActivateNodeResponse.FromString(response.content).node_id)
        return response

    def _take_leave(self, number: int, context: ProtobufRequestContext, call_next: ProtobufCall) -> None:
        """Tell the coordinator that the last process, which it still counts as online, has gone."""
        mine = context.request
        request = httpx.Request(
            "POST",
            mine.url.copy_with(path=DEACTIVATE_PATH),
            headers={name: value for name, value in mine.headers.items() if name.lower() not in OF_ONE_REQUEST},
            content=DeactivateNodeRequest(node_id=number).SerializeToString(),
        )
        self._send(ProtobufRequestContext(rpc_method="", message=None, request=request), call_next)

    def _send(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        request = context.request
        if request.url.path == CONFIRM_PATH:
            self._received()
        bare = request.headers.copy()
        while True:
            request.headers = bare.copy()  # Flower's signature is made once for a request
            request.headers[HEADER] = sign_request(self._key, request.method, request.url.path, request.content)
            if request.url.path == PULL_PATH:
                return self._question(context, call_next)
            response = self._flower.intercept(context, call_next)
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                return response
            self._sleep(_retry_after(response))

    def _question(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        asked, began = self._patience.seconds, time.monotonic()
        context.request.headers[WAIT_HEADER] = f"{asked:g}"
        try:
            response = self._flower.intercept(context, call_next)
        except httpx.TransportError:
            self._patience.cut(time.monotonic() - began)
            raise
        self._patience.held = WAIT_HEADER in response.headers
        self._offered(response.headers.get(AGREEMENT_HEADER))
        if response.status_code in CUT_BY_A_PROXY:
            self._patience.cut(time.monotonic() - began)
        return response


class InTurn:
    """One interceptor before another, where Flower has a place for one."""

    def __init__(self, outer: ProtobufClientInterceptor, inner: ProtobufClientInterceptor) -> None:
        self._outer, self._inner = outer, inner

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Let a request pass through both."""
        return self._outer.intercept(context, lambda passed: self._inner.intercept(passed, call_next))


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("retry-after", "1")), 1.0), LONGEST_PAUSE)
    except ValueError:
        return 1.0


def holding(
    app: ASGIApp,
    tasks: Callable[[], bool],
    bell: Bell,
    news: threading.Event,
    abandon: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The SuperNode's interface for its executor: a request for a task is held until there is one.

    Args:
        app: Flower's.
        tasks: Whether a task waits.
        bell: Rung for TASKS.
        news: Set whenever the executor has told something.
        abandon: Gives up the tasks of the last executor; called when another one, whose secret Flower has checked, has
            asked for its first task.
    """
    executors: set[bytes] = set()

    async def ready() -> bool:
        return tasks()

    def noticing(name: bytes, send: Send) -> Send:
        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == httpx.codes.OK:
                if executors:
                    abandon()
                executors.add(name)
            await send(message)

        return sent

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        executor = _header(scope, EXECUTOR_NAME) if path == ACQUIRE_PATH else None
        if executor is not None and executor not in executors:
            send = noticing(executor, send)
        elif path == ACQUIRE_PATH and bell.count(TASKS) < MOST_HELD:
            asked = (_header(scope, WAIT_NAME) or b"").decode("latin-1") or None
            try:
                receive = await hold_request(bell, TASKS, ready, seconds=seconds_asked(asked), receive=receive)
            except GoneError:
                return
        await app(scope, receive, send)
        if path != ACQUIRE_PATH:
            news.set()

    return held


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


class LastNode:
    """The number under which the coordinator knew this site last, in a file.

    It counts only on the machine, since it was started, and in the folder where it was written: a copy of the folder
    may run elsewhere.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._here = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), str(file.resolve())]

    def read(self) -> int | None:
        """The number; None if there is none that counts."""
        try:
            number, *where = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return number if where == self._here and isinstance(number, int) else None

    def write(self, number: int) -> None:
        """Remember a number; where that fails, a SuperNode that is killed is away for a minute."""
        with suppress(OSError):
            write_synced(self._file, json.dumps([number, *self._here]).encode())


def give_up_tasks(state: InMemoryNodeState) -> None:
    """Have the tasks of executors expire now: their messages are answered with an error."""
    with state.lock_task_store:
        for claim in state.task_token_store.values():
            claim.active_until = datetime.now(UTC) - timedelta(seconds=1)


def main() -> None:
    """Run the SuperNode until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m client.service.supernode", description="Flower's SuperNode with shorter pauses."
    )
    parser.add_argument(
        "--poll", type=float, default=DEFAULT_POLL, help="seconds between questions (default %(default)s)"
    )
    parser.add_argument("--last", type=Path, metavar="FILE", help="remembers the site's number at the coordinator")
    parser.add_argument("--institution", type=Path, help="the site's file, by which it is asked what is approved")
    parser.add_argument("options", nargs="*", help="after `--`: options of flower-supernode")
    arguments = parser.parse_args()
    private_umask()
    console_handler.colored = False  # its output is a file
    watch = Watch(arguments.institution, partial(print, flush=True)) if arguments.institution else None
    last = LastNode(arguments.last) if arguments.last else None
    _take_part_in_flower(arguments.poll, last, watch.heard if watch else lambda digest: None)
    if watch:
        watch.start()
    sys.argv = ["flower-supernode", *arguments.options]
    try:
        flower_supernode()  # ends by SystemExit when all is well
    except Exception:
        traceback.print_exc()
    print("The SuperNode's loop ended by an error, see above.", file=sys.stderr, flush=True)
    os._exit(1)  # the thread of the Runtime API would keep the process alive


def _pull_objects(pull: Callable[..., dict[str, bytes]], *arguments: Any, **options: Any) -> dict[str, bytes]:
    """Flower's, with shorter pauses. A run that has ended meanwhile is an error like any other.

    Flower makes an exception of it and leaves the task behind, whose arrays the executor would wait for for minutes.
    """
    try:
        return pull(*arguments, **options, **BACKOFF)
    except RunNotRunningException as error:
        raise ConnectionFailedError("The run has ended meanwhile.") from error


def _take_part_in_flower(poll: float, last: LastNode | None, offered: Callable[[str | None], None]) -> None:
    """Put this module's parts in the place of Flower's."""
    bell, news, patience = Bell(), threading.Event(), Patience()
    create_app, factories = supernode_main.create_app, list[NodeStateFactory]()

    def create_holding_app(state_factory: NodeStateFactory, superexec_auth_secret: bytes | None) -> ASGIApp:
        def tasks() -> bool:
            return bool(state_factory.state().get_tasks(statuses=[Status.PENDING], limit=1))

        def abandon() -> None:
            state = state_factory.state()
            assert isinstance(state, InMemoryNodeState)
            give_up_tasks(state)
            news.set()

        factories.append(state_factory)
        app = create_app(state_factory, superexec_auth_secret)
        app.state.runtime_handlers = Handlers(app.state.runtime_handlers)
        return holding(app, tasks, bell, news, abandon)

    def sign_and_carry(
        private_key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey
    ) -> ProtobufClientInterceptor:
        received = partial(bell.ring, TASKS)
        signer = WholeRequestSigner(private_key, public_key, patience, received, offered=offered, last=last)
        return InTurn(Carrier(factories[0].state().object_store.get), signer)

    loop = vars(start_client_internal)
    loop["time"] = Pauses(poll, patience, news)
    loop["pull_objects"] = partial(_pull_objects, loop["pull_objects"])
    vars(supernode_main)["FastAPI"] = partial(FastAPI, openapi_url=None)  # no /docs and no /openapi.json
    vars(supernode_main)["create_app"] = create_holding_app
    vars(fleet_http_connection)["NodeAuthHttpInterceptor"] = sign_and_carry
    add_exit_handler(bell.close, run_before_force_exit=True)


if __name__ == "__main__":
    main()
