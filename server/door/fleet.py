"""Answers what institutions ask, by Flower's own handlers; a request for messages is held until there is one.

Flower's web framework takes several times as long over a request as the handler behind it, copies its body once more,
and has nothing left to do: sender, size, form and content are checked. Its answers are the same, errors too.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from fastapi import HTTPException
from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.agreement import Offers
from server.door.authentication import Sender
from server.door.delivery import Deliveries
from server.door.limits import THREADS
from server.door.refusals import RefusedError
from shared.errors import StoreError
from shared.federation import Federation
from shared.federation.offers import HEADER as AGREEMENT
from shared.federation.offers import PATH as AGREEMENT_PATH
from shared.flower.errors import FlowerError
from shared.flower.messages import PullMessagesResponse
from shared.flower.superlink import fleet_handlers, http_error_translator
from shared.process.carrying import NOTHING, Carried, contents_of, hand_out, take_in, taking
from shared.process.waiting import HEADER, LONGEST_SECONDS, GoneError, hold
from shared.signing import HEADER as SIGNATURE

PULL_PATH, PUSH_PATH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
CONFIRM_PATH = "/v1/fleet/confirm-message-received"
PROTOBUF = "application/protobuf"

HANDLERS: dict[str, Callable[..., Any]] = {
    "/v1/fleet/activate-node": fleet_handlers.activate_node,
    "/v1/fleet/deactivate-node": fleet_handlers.deactivate_node,
    "/v1/fleet/send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    PULL_PATH: fleet_handlers.pull_messages,
    PUSH_PATH: fleet_handlers.push_messages,
    "/v1/fleet/get-run": fleet_handlers.get_run,
    "/v1/fleet/get-fab": fleet_handlers.get_fab,
    "/v1/fleet/push-object": fleet_handlers.push_object,
    "/v1/fleet/pull-object": fleet_handlers.pull_object,
    CONFIRM_PATH: fleet_handlers.confirm_message_received,
}
TAKE_THE_STORE = (PULL_PATH, CONFIRM_PATH)

T = TypeVar("T")
log = logging.getLogger("server.door")
_threads = anyio.CapacityLimiter(THREADS)
_turns: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()
"""By node, as long as one of its requests has or awaits its turn."""


async def in_thread(call: Callable[..., T], *about: Any) -> T:
    """Call what asks the database: few at a time, since one alone may write to it."""
    return await anyio.to_thread.run_sync(call, *about, limiter=_threads)


async def in_turn(node_id: int, call: Callable[..., T], *about: Any) -> T:
    """The same for a node that is known: it has one thread at a time, so that it cannot take those of the others."""
    turn = _turns.get(node_id) or _turns.setdefault(node_id, anyio.Lock())
    async with turn:
        return await in_thread(call, *about)


@dataclass(frozen=True)
class Asked:
    """A request that may be answered."""

    path: str
    message: Any
    """Flower's, of the kind that the path takes."""
    sender: Sender
    wait: float = 0.0
    """Seconds for which the sender lets it be held; 0 from a stock SuperNode."""
    carried: Carried = NOTHING
    """What stands behind the message."""
    leaves: bool = False
    """Whether it is a reply after which the sender leaves."""


class Fleet:
    """The answers.

    Args:
        state: Flower's database.
        offers: What is offered to institutions, and what they say of it; None where there is no coordinator's folder.
        name_of: The name of an institution, by its node.
    """

    def __init__(
        self, state: Deliveries, offers: Offers | None = None, name_of: Callable[[int], str] = lambda node: ""
    ) -> None:
        self._state, self._offers, self._name_of = state, offers, name_of
        self._names: dict[int, str] = {}
        self._latest: dict[int, object] = {}
        """Of each node, the request that is held."""

    async def answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Flower does, if late where that is allowed.

        Raises:
            RefusedError: The sender was revoked while its request was held.
        """
        if asked.path == AGREEMENT_PATH:
            signature = Headers(scope=scope).get(SIGNATURE, "")
            return await JSONResponse(await in_turn(asked.sender.node_id, self._hear, asked, signature))(
                scope, receive, send
            )

        async def handle(_: Request) -> Response:
            try:
                return Response(await in_turn(asked.sender.node_id, self._handle, asked), media_type=PROTOBUF)
            except OperationalError as error:  # a full disk, say: an error of Flower's would be for good
                log.warning("Flower's database: %s", error.orig)
                raise HTTPException(503) from None

        if asked.path == PULL_PATH and asked.wait and not await self._held(asked.sender.node_id, asked.wait, receive):
            nothing = PullMessagesResponse().SerializeToString() + (taking() if asked.carried.takes else b"")
            response: Response = Response(nothing, media_type=PROTOBUF)
        else:
            response = await http_error_translator(Request(scope), handle)
        if asked.wait:
            response.headers[HEADER] = f"{LONGEST_SECONDS:g}"
        if asked.path == PULL_PATH and (offer := await self._offered(asked.sender.node_id)):
            response.headers[AGREEMENT] = offer.digest
        await response(scope, receive, send)

    async def _offered(self, node_id: int) -> Federation | None:
        """The agreement that is offered to a node."""
        if self._offers is None:
            return None
        if node_id not in self._names:  # a node's name stays
            self._names[node_id] = await in_turn(node_id, self._name_of, node_id)
        return self._offers.current(self._names[node_id])

    def _hear(self, asked: Asked, signature: str) -> dict[str, Any]:
        """Keep an institution's word on agreements; what is offered to it."""
        name = self._name_of(asked.sender.node_id)
        if self._offers is None or not name:
            raise RefusedError(404, "no agreement is offered to a node without a name")
        try:
            return self._offers.hear(name, asked.message, signature)
        except StoreError as error:
            raise RefusedError(503, f"what node {asked.sender.node_id} said was not kept: {error}") from None

    def _handle(self, asked: Asked) -> bytes:
        with self._state.together():
            try:
                answer = self._ask_flower(asked)
            except FlowerError as error:
                refused = error  # what was found to be over has been cleaned up, which must last
            else:
                written: bytes = answer.SerializeToString()
                return written
        raise refused

    def _ask_flower(self, asked: Asked) -> Any:
        about: dict[str, Any] = {"request": asked.message, "state": self._state}
        if asked.path in TAKE_THE_STORE:
            about["store"] = self._state.object_store
        answer, carried = HANDLERS[asked.path](**about), asked.carried
        if asked.path == PUSH_PATH and carried.objects:
            store = partial(
                self._state.store_objects, asked.message.messages_list[0].metadata.run_id, answer.session_id
            )
            take_in(carried.objects, answer, store)
            if asked.leaves and not answer.objects_to_push:  # before the next round is asked for, on this reply
                self._state.deactivate_node(asked.sender.node_id)
        elif asked.path == PULL_PATH and carried.takes:
            run_id = answer.messages_list[0].metadata.run_id if answer.messages_list else 0
            before = answer.ByteSize()
            hand_out(answer, contents_of(answer, self._state.object_store), carried.takes)
            if run_id:
                self._state.store_traffic(run_id, bytes_sent=answer.ByteSize() - before, bytes_recv=0)
        return answer

    async def _held(self, node_id: int, seconds: float, receive: Receive) -> bool:
        """Wait until there is a message for a node; whether there is one.

        A node has one such request. The next one ends it: its connection has broken, most likely, and what would be
        sent there is lost.
        """
        mine = self._latest[node_id] = object()
        bell = self._state.bell
        bell.ring(node_id)
        mail: bool | None = False

        async def ready() -> bool:
            nonlocal mail
            if self._latest.get(node_id) is not mine:
                return True
            mail = await in_turn(node_id, self._state.mail, node_id)
            return mail is not False

        try:
            await hold(bell, node_id, ready, seconds=seconds, receive=receive)
        except GoneError:
            mail = False
        finally:
            last = self._latest.get(node_id) is mine
            if last:
                del self._latest[node_id]
        if mail is None:
            raise RefusedError(401, f"node {node_id} was revoked")
        return last and mail
