"""Flower's own SuperNode with shorter pauses: `python -m client.service.supernode --poll SECONDS -- OPTIONS`.

The options are those of `flower-supernode`, which pauses 3 s whenever the coordinator has no message for it, looks
every 0.5 s whether the executor's reply is there, and waits 1 s when it sees a message before all its arrays have
arrived at the coordinator: in a federation of quick rounds that is most of a round's time. Here the coordinator may
hold the question until there is a message (`shared.process.waiting`), as this process holds its executor's, and the
loop wakes when the reply is there. Messages come and go with their arrays in one request (`shared.process.carrying`).
`--poll` counts where the coordinator does not hold questions.

Every request is signed whole as well (`shared.signing`): Flower's own signature covers the time alone, and Collegium's
coordinator does not accept it unless configured to.

Both clocks need not agree: a signature that the coordinator takes for out of date is made again by its time. Nor need
this one be steady: no task has taken less than no time.

Some things more are mended. A task whose executor has died is given up as soon as the next one asks for a task, and a
SuperNode that was killed is taken leave of by the next one on its machine: Flower waits a minute for either. When its
loop ends by an error (a coordinator that answers with HTTP 500 is enough), its process lives on without ever asking for
a message again; here it ends, so that the daemon starts it anew. No answer ends its heartbeats, which Flower stops for
good at HTTP 500. After a network was cut it is back within seconds, with what it had to send. A message whose run was
over before it was received in full is no task, and no reply stays behind because another was sent in its place.
"""

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from client.agreement.asking import Watch
from client.service.endings import Over, read_header
from client.service.once import OVER_HEADER
from client.service.requests import InTurn, LastNode, Patience, WholeRequestSigner
from shared.errors import ConnectionFailedError
from shared.flower.constants import Status, console_handler
from shared.flower.http import ProtobufClientInterceptor
from shared.flower.messages import RunNotRunningException
from shared.flower.supernode import (
    InMemoryNodeState,
    NodeStateFactory,
    add_exit_handler,
    exponential,
    fleet_http_connection,
    flower_supernode,
    heartbeat,
    http_retry,
    start_client_internal,
    supernode_main,
)
from shared.process.carrying import Carrier, Handlers
from shared.process.files import private_umask
from shared.process.waiting import EXECUTOR_HEADER, Bell, GoneError, hold_request, seconds_asked
from shared.process.waiting import HEADER as WAIT_HEADER

IDLE_SLEEP = 3
"""What Flower's loop passes to `time.sleep` when the coordinator has no message; it counts as the loop's mark."""
REPLY_SECONDS = 1.0
"""Longest pause between two looks for the executor's reply, or for the end of its task."""
IDLE_POLL = 1.0
LINGER = 60.0
"""Seconds after a message in which the next one is expected soon."""
DEFAULT_POLL = 0.25
ACQUIRE_PATH = "/v1/runtime/acquire-task"
EXECUTOR_NAME = EXECUTOR_HEADER.encode("latin-1")
WAIT_NAME, OVER_NAME = WAIT_HEADER.encode("latin-1"), OVER_HEADER.encode("latin-1")
TASKS = "tasks"
"""What is rung for when a message has become a task."""
MOST_HELD = 8
"""Of the executor's requests; nobody has checked yet who sends them."""
LONGEST_RETRY = 5
"""Seconds between two tries to reach the coordinator, at most; Flower: 20."""
BACKOFF = {"initial_backoff": 0.1, "backoff_cap": 1.0}
"""Seconds before asking again for an array that has not arrived yet, doubling to the cap; Flower: 1 to 10."""


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


class Leaving:
    """What ends a SuperNode whose site has answered its round (`client.service.once`)."""

    def __init__(self) -> None:
        self.over: Over | None = None

    def push(self, push: Callable[..., None], *, send: Callable[..., Any], **options: Any) -> None:
        """Flower's, which sends a reply. After the last one nothing more is asked for, until the daemon ends this."""
        arrived = False

        def sending(*arguments: Any) -> Any:
            nonlocal arrived
            try:
                sent = send(*arguments)
            except RunNotRunningException:
                arrived = True  # nobody waits for it any more
                raise
            arrived = True
            return sent

        push(send=sending, **options)
        if self.over and arrived:
            print(self.over.line(), flush=True)
            threading.Event().wait()
        self.over = None  # the coordinator asks again


def push_every_reply(
    push: Callable[..., None], news: threading.Event, *, state: InMemoryNodeState, **options: Any
) -> None:
    """Flower's, which sends the reply to a message, until nothing that came is at work any more.

    Flower takes the first reply for that of the last message. It may be that of an earlier one, whose run was over
    before it was received in full; then the other would lie here until yet another message comes.

    Args:
        push: Flower's.
        news: Set when the executor has told something.
        state: Messages, replies and tasks.
        options: For `push`.
    """
    push(state=state, **options)
    while True:
        working = state.get_tasks(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING], limit=1)
        with state.lock_msg_store:
            left = [(bool(each.message.metadata.reply_to_message_id), each) for each in state.msg_store.values()]
        if any(reply and not each.is_retrieved for reply, each in left):
            push(state=state, **options)
        elif working and any(not reply for reply, _ in left):
            news.wait(REPLY_SECONDS)
            news.clear()
        else:
            return


def holding(
    app: ASGIApp,
    tasks: Callable[[], bool],
    bell: Bell,
    news: threading.Event,
    abandon: Callable[[], None] = lambda: None,
    leaving: Leaving | None = None,
) -> ASGIApp:
    """The SuperNode's interface for its executor: a request for a task is held until there is one.

    Args:
        app: Flower's.
        tasks: Whether a task waits.
        bell: Rung for TASKS.
        news: Set whenever the executor has told something.
        abandon: Gives up the tasks of the last executor; called when another one, whose secret Flower has checked, has
            asked for its first task.
        leaving: Told when the executor says that an answer is the last one.
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
        if leaving and (over := _header(scope, OVER_NAME)):
            leaving.over = read_header(over.decode("latin-1"))
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
    bell, news, patience, leaving = Bell(), threading.Event(), Patience(), Leaving()
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
        measured = state_factory.state().get_message_processing_duration
        vars(state_factory.state())["get_message_processing_duration"] = lambda message_id: max(
            0.0, measured(message_id)
        )
        app = create_app(state_factory, superexec_auth_secret)
        app.state.runtime_handlers = Handlers(app.state.runtime_handlers)
        return holding(app, tasks, bell, news, abandon, leaving)

    def sign_and_carry(
        private_key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey
    ) -> ProtobufClientInterceptor:
        signer = WholeRequestSigner(
            private_key,
            public_key,
            patience,
            partial(bell.ring, TASKS),
            offered=offered,
            last=last,
            leaves=lambda: leaving.over is not None,
        )
        return InTurn(Carrier(factories[0].state().object_store.get), signer)

    loop = vars(start_client_internal)
    loop["time"] = Pauses(poll, patience, news)
    loop["pull_objects"] = partial(_pull_objects, loop["pull_objects"])
    loop["_push_messages"] = partial(push_every_reply, partial(leaving.push, loop["_push_messages"]), news)
    vars(supernode_main)["FastAPI"] = partial(FastAPI, openapi_url=None)  # no /docs and no /openapi.json
    vars(supernode_main)["create_app"] = create_holding_app
    vars(fleet_http_connection)["NodeAuthHttpInterceptor"] = sign_and_carry
    vars(http_retry)["MAX_RETRY_DELAY"] = LONGEST_RETRY
    vars(heartbeat)["exponential"] = lambda max_delay: exponential(max_delay=min(max_delay, LONGEST_RETRY))
    add_exit_handler(bell.close, run_before_force_exit=True)


if __name__ == "__main__":
    main()
