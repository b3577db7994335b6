"""The door for institutions, as an ASGI application before Flower's."""

import asyncio
import hashlib
import io
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any
from urllib.parse import quote

from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.door.allowances import Allowances
from server.door.authentication import Authenticator, Sender
from server.door.crowd import GUEST, Crowd
from server.door.fleet import Asked, in_thread, in_turn
from server.door.limits import BODY_SECONDS, SLOWEST_BYTES_PER_SECOND
from server.door.refusals import RefusedError, answer
from server.door.speech import Speech
from shared.process.carrying import Carried
from shared.process.waiting import HEADER, LEAVES_HEADER, seconds_asked

Judge = Callable[[Scope, Receive], Awaitable[Asked]]
"""A request that may pass; RefusedError otherwise."""
Answer = Callable[[Asked, Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("server.door")


def public_door(judge: Judge, answer_asked: Answer) -> ASGIApp:
    """Answers what the judge lets through.

    Args:
        judge: See `FleetJudge`.
        answer_asked: See `Fleet.answer`.
    """

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await refuse_connection(scope, send)
        try:
            await answer_asked(await judge(scope, receive), scope, receive, send)
        except (RefusedError, OperationalError) as error:
            reason = f"Flower's database: {getattr(error, 'orig', '')}"  # its disk is full, say
            refused = error if isinstance(error, RefusedError) else RefusedError(503, reason)
            log.warning("%s %s: %s: %s", _client(scope), quote(scope["path"])[:100], refused.status, refused.reason)
            await answer(refused, scope, receive, send)

    return door


class FleetJudge:
    """Judges a request: by its path, its headers, its length, and only then by its body.

    Args:
        authenticator: Who it is.
        speech: What it may say.
        crowd: Where its connection stands.
        allowances: How much a node may ask.
    """

    def __init__(self, authenticator: Authenticator, speech: Speech, crowd: Crowd, allowances: Allowances) -> None:
        self._authenticator, self._speech, self._crowd, self._allowances = authenticator, speech, crowd, allowances

    async def __call__(self, scope: Scope, receive: Receive) -> Asked:
        """What is asked, read after its sender was known.

        Raises:
            RefusedError: The request goes no further.
        """
        path, method, headers = scope["path"], scope["method"], Headers(scope=scope)
        if path not in self._speech.paths or method != "POST":
            raise RefusedError(404, "no such request")
        guest = scope.get("extensions", {}).get(GUEST)
        if guest is not None and guest.node_id is not None:  # before a signature is verified for it
            await self._allowances.check(guest.node_id)
        claim = self._authenticator.read(headers)
        length = announced_length(headers, self._speech.longest_body(path))
        with guest.judging() if guest is not None else nullcontext():
            sender = await in_thread(self._authenticator.check, claim, method, path)
        if guest is not None and guest.node_id not in (None, sender.node_id):
            raise RefusedError(401, f"node {sender.node_id} in a connection of node {guest.node_id}")
        if guest is not None and not self._crowd.recognise(guest, sender.node_id):
            raise self._allowances.refuse(sender.node_id, "connections")
        await self._allowances.take(sender.node_id, length)
        with self._allowances.reading(sender.node_id, length):
            body = await receive_body(receive, length)
            message, carried = await in_turn(sender.node_id, self._listen, path, body, sender)
        return Asked(path, message, sender, seconds_asked(headers.get(HEADER)), carried, LEAVES_HEADER in headers)

    def _listen(self, path: str, body: bytes, sender: Sender) -> tuple[Any, Carried]:
        if sender.digest is not None and hashlib.sha256(body).hexdigest() != sender.digest:
            raise RefusedError(401, f"a body that node {sender.node_id} did not sign")
        try:
            return self._speech.check(path, body, sender)
        except RefusedError as refused:
            raise RefusedError(refused.status, f"node {sender.node_id}: {refused.reason}", body=refused.body) from None


def announced_length(headers: Headers, longest: int) -> int:
    """The body's length in bytes.

    Raises:
        RefusedError: It is not announced, or too large.
    """
    announced = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (announced.isascii() and announced.isdigit()):
        raise RefusedError(411, "a body of unknown length")
    # By its digits first: thousands of them are costly as a number.
    if len(announced) > 12 or int(announced) > longest:
        raise RefusedError(413, f"a body of {announced[:12]} bytes, more than {longest}")
    return int(announced)


async def receive_body(receive: Receive, length: int) -> bytes:
    """The body of a known length, while it keeps coming.

    Raises:
        RefusedError: It is not there in time, or not all of it came.
    """
    body = io.BytesIO()  # whose value is no copy
    try:
        async with asyncio.timeout(BODY_SECONDS + length / SLOWEST_BYTES_PER_SECOND):
            while (message := await receive())["type"] == "http.request":
                body.write(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise RefusedError(408, f"a body of which {body.tell()} of {length} bytes came in time") from None
    if body.tell() != length:
        raise RefusedError(400, f"a body of {body.tell()} bytes that was announced with {length}")
    return body.getvalue()


def as_judged(scope: Scope) -> Scope:
    """The scope with one path only.

    Flower's middleware reads the path from a URL that older Starlette builds with the Host header; with a crafted one
    it would check another path than the router serves. Without a Host header both see `scope["path"]`.
    """
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {**scope, "headers": headers, "root_path": ""}


async def refuse_connection(scope: Scope, send: Send) -> None:
    """Close what is no plain HTTP."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "?"
