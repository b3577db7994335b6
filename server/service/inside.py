"""What the coordinator's own processes ask the SuperLink beside Flower's interfaces, by the operator door.

    POST /v1/collegium/answered   {"messages": [ID, ...], "seconds": S}: which of these messages have their answer; held
                                  until one has, or S seconds have passed
    GET  /v1/collegium/refused    the nodes that have passed a limit of the public door
    POST /v1/collegium/replace-key {"node_id": N, "old": PEM, "new": PEM}: gives a node another key

Flower's SuperExec asks for a run to start ten times a second; that request is held as well.
"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.door.allowances import Allowances
from server.door.delivery import REPLIES, Deliveries
from server.door.limits import MIB
from server.door.public import announced_length, receive_body
from server.door.records import Records
from server.door.refusals import RefusedError, answer
from server.service.operator import REFUSED_PATH, REPLACE_PATH
from server.service.replies import ANSWERED_PATH
from shared.flower.constants import SUPEREXEC_AUTH_SIGNATURE_HEADER
from shared.process.waiting import LONGEST_SECONDS, GoneError, hold, hold_request

PREFIX = "/v1/collegium/"
ACQUIRE_PATH, START_PATH = "/v1/runtime/acquire-task", "/v1/control/start-run"
TASKS = "tasks"
"""What is rung for when a run is to start."""
TASK_SECONDS = 20.0
"""A SuperExec gives up a request after 30 s."""
MOST_TASK_REQUESTS = 8
"""That are held at a time; nobody has checked yet who sends them."""
LONGEST_BODY = 4 * MIB
"""Ids of 60,000 messages."""


class Inside:
    """Answers these requests.

    Args:
        state: Flower's database.
        records: Questions to it.
        allowances: The public door's.
    """

    def __init__(self, state: Deliveries, records: Records, allowances: Allowances) -> None:
        self._state, self._bell, self._records, self._allowances = state, state.bell, records, allowances
        self.superexec_asked: float | None = None
        """When SuperExec has last asked for a task, by the monotonic clock."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose sender has shown the operator token."""
        known: dict[tuple[str, str], Callable[[Scope, Receive], Awaitable[Any]]] = {
            ("POST", ANSWERED_PATH): self._answered,
            ("GET", REFUSED_PATH): self._refused,
            ("POST", REPLACE_PATH): self._replace_key,
        }
        try:
            if (scope["method"], scope["path"]) not in known:
                raise RefusedError(404, "no such request")
            found = await known[scope["method"], scope["path"]](scope, receive)
        except RefusedError as refused:
            return await answer(refused, scope, receive, send)
        except GoneError:
            return
        await JSONResponse(found)(scope, receive, send)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Flower's SuperLink, with requests for a task held until there is one."""

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            signed = SUPEREXEC_AUTH_SIGNATURE_HEADER in Headers(scope=scope)
            if scope["path"] == ACQUIRE_PATH and signed:
                self.superexec_asked = time.monotonic()
            if scope["path"] == ACQUIRE_PATH and signed and self._bell.count(TASKS) < MOST_TASK_REQUESTS:
                try:
                    receive = await hold_request(
                        self._bell, TASKS, self._has_task, seconds=TASK_SECONDS, receive=receive
                    )
                except GoneError:
                    return
            await app(scope, receive, send)
            if scope["path"] == START_PATH:
                self._bell.ring(TASKS)

        return held

    async def _answered(self, scope: Scope, receive: Receive) -> Any:
        body = await receive_body(receive, announced_length(Headers(scope=scope), LONGEST_BODY))
        try:
            asked = json.loads(body)
            messages, seconds = [str(each) for each in asked["messages"]], float(asked["seconds"])
        except (ValueError, LookupError, TypeError):
            raise RefusedError(400, "a body without messages and seconds") from None
        found: set[str] = set()

        async def ready() -> bool:
            nonlocal found
            found = await run_in_threadpool(self._records.answered, messages)
            return bool(found)

        await hold(self._bell, REPLIES, ready, seconds=min(seconds, LONGEST_SECONDS), receive=receive)
        return sorted(found)

    async def _replace_key(self, scope: Scope, receive: Receive) -> Any:
        body = await receive_body(receive, announced_length(Headers(scope=scope), MIB))
        try:
            asked = json.loads(body)
            node_id, old, new = int(asked["node_id"]), str(asked["old"]).encode(), str(asked["new"]).encode()
        except (ValueError, LookupError, TypeError):
            raise RefusedError(400, "a body without a node and two keys") from None
        if not await run_in_threadpool(self._state.replace_key, node_id, old, new):
            raise RefusedError(409, "another key than the node's, or one that was enrolled before")
        return {}

    async def _refused(self, _scope: Scope, _receive: Receive) -> Any:
        return self._allowances.report()

    async def _has_task(self) -> bool:
        return await run_in_threadpool(self._records.has_task)
