"""Institutions without a model, many in one process: real keys, TLS, Flower's requests with Collegium's signatures.

Each answers every message with random bytes of one size, as fast as the coordinator takes them.
"""

import asyncio
import itertools
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from shared.flower.constants import HEARTBEAT_DEFAULT_INTERVAL
from shared.flower.crypto import public_key_to_bytes
from shared.flower.messages import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    Node,
    PullMessagesRequest,
    PullMessagesResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushMessagesResponse,
    PushObjectRequest,
    PushObjectResponse,
    SendNodeHeartbeatRequest,
    iterate_object_tree,
    message_from_proto,
)
from shared.process.carrying import carrying, object_id, read_carried, taking
from shared.process.waiting import HEADER as WAIT_HEADER
from shared.process.waiting import LONGEST_SECONDS
from shared.protocol import TrainReply, encode
from shared.signing import HEADER, sign_request
from simulations.attacks.coordinator import PROTOBUF, Reply, flower_signed
from simulations.nodekeys import node_key

BEAT_SECONDS = 20.0
LONGEST_BACKOFF = 16.0
PATIENCE_SECONDS = 120.0
"""For an answer: many ask at once."""


class LightNode:
    """One institution.

    Args:
        number: Its key and its own loopback address are functions of it.
        node_id: Flower's number for it.
        address: Of the public door, `https://HOST:PORT`.
        trusted: TLS towards the coordinator.
        reply_bytes: Size of an update.
    """

    def __init__(self, number: int, node_id: int, address: str, trusted: ssl.SSLContext, reply_bytes: int) -> None:
        self.name, self._key = name_of(number), node_key(name_of(number))
        self._node, self._address, self._trusted, self._bytes = Node(node_id=node_id), address, trusted, reply_bytes
        self._from = f"127.0.{1 + number // 250}.{1 + number % 250}"
        self._random = random.Random(number)

    async def live(self) -> None:
        """Take part until cancelled."""
        transport = httpx.AsyncHTTPTransport(verify=self._trusted, local_address=self._from)
        async with httpx.AsyncClient(base_url=self._address, transport=transport, timeout=PATIENCE_SECONDS) as http:
            self._http = http
            await self._ask("activate-node", ActivateNodeRequest(public_key=self._public, heartbeat_interval=30))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._work())

    @property
    def _public(self) -> bytes:
        return public_key_to_bytes(self._key.public_key())

    async def _beat(self) -> None:
        beat = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        while True:
            await asyncio.sleep(BEAT_SECONDS * self._random.uniform(0.8, 1.2))
            await self._ask("send-node-heartbeat", beat)

    async def _work(self) -> None:
        while True:
            asked = PullMessagesRequest(node=self._node)
            answer = await self._ask("pull-messages", asked, more=taking(), wait=LONGEST_SECONDS)
            found = PullMessagesResponse.FromString(answer)
            came = {object_id(content) for content in read_carried(answer).objects}
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                try:
                    await self._answer(message, {each.object_id for each in iterate_object_tree(tree)} - came)
                except ForgottenError:
                    _failed("message that was withdrawn")

    async def _answer(self, proto: Any, missing: set[str]) -> None:
        message = message_from_proto(proto)
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        for name in missing:
            wanted = PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
            got = PullObjectResponse.FromString(await self._ask("pull-object", wanted))
            assert got.object_available, "a message was handed out before it was whole"
        confirmed = ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=message_id)
        await self._ask("confirm-message-received", confirmed)
        update = np.frombuffer(self._random.randbytes(self._bytes), dtype=np.uint8).tobytes()
        reply = Reply.to(message, encode(_update(self.name, int(message.metadata.group_id), update)))
        objects = carrying(reply.objects.values())
        answer = await self._ask("push-messages", reply.request(self._node), more=objects)
        taken = PushMessagesResponse.FromString(answer)
        for name in taken.objects_to_push:
            piece = PushObjectRequest(
                node=self._node,
                run_id=run_id,
                session_id=taken.session_id,
                object_id=name,
                object_content=reply.objects[name],
            )
            stored = PushObjectResponse.FromString(await self._ask("push-object", piece)).stored
            assert stored, "an object was not stored"

    async def _ask(self, path: str, message: Any, *, more: bytes = b"", wait: float = 0.0) -> bytes:
        """One request, made again after a pause where the connection or the coordinator fails, as a SuperNode does."""
        body = message.SerializeToString() + more
        for attempt in itertools.count():
            request = self._http.build_request("POST", f"/v1/fleet/{path}", content=body, headers=PROTOBUF)
            request.headers[HEADER] = sign_request(self._key, "POST", request.url.path, body)
            if wait:
                request.headers[WAIT_HEADER] = str(wait)
            try:
                answer = await self._http.send(flower_signed(request, self._key, self._key.public_key()))
                if answer.status_code == httpx.codes.OK:
                    return answer.content
                if answer.status_code == httpx.codes.FORBIDDEN:
                    raise ForgottenError
                if answer.status_code not in (429, 502, 503, 504):
                    raise RuntimeError(f"{self.name}: {path}: {answer.status_code} {answer.text}")
                _failed(f"{path}: {answer.status_code}")
            except httpx.TransportError as error:
                _failed(f"{path}: {type(error).__name__}")
            await asyncio.sleep(self._random.uniform(0, min(2.0**attempt, LONGEST_BACKOFF)))
        raise AssertionError


failures: dict[str, int] = {}
"""Requests that had to be made again, by path and reason."""


class ForgottenError(Exception):
    """The coordinator waits for the message no more; a SuperNode goes on then."""


def _failed(what: str) -> None:
    failures[what] = failures.get(what, 0) + 1


def _update(name: str, round: int, update: bytes) -> TrainReply:
    return TrainReply(
        institution=name, round=round, examples={"t": 1}, losses={"t": 0.1}, steps=1, seconds=0.1, update=update
    )


def name_of(number: int) -> str:
    """An institution's name."""
    return f"institution-{number:04}"


def public_key_of(number: int) -> bytes:
    """Its public key, as Flower writes it."""
    key: ec.EllipticCurvePublicKey = node_key(name_of(number)).public_key()
    return public_key_to_bytes(key)


def live(node_ids: list[int], address: str, certificate: Path, reply_bytes: int, told: Any) -> None:
    """Have all of them live in this process, until it is terminated; failures go to the queue `told` every 2 s."""
    trusted = ssl.create_default_context(cafile=str(certificate))
    nodes = [LightNode(number, node_id, address, trusted, reply_bytes) for number, node_id in enumerate(node_ids)]

    async def report() -> None:
        while True:
            await asyncio.sleep(2.0)
            told.put(dict(failures))

    async def everybody() -> None:
        lives: list[Callable[[], Awaitable[None]]] = [node.live for node in nodes]
        await asyncio.gather(report(), *(life() for life in lives))

    asyncio.run(everybody())
