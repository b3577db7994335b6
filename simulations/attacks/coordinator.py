"""A real coordinator on loopback, institutions with real keys, and a run in which the attacker plays along.

For attacks on the doors, and for their tests: the real SuperLink in a process of its own, real TLS, and
requests signed as a SuperNode signs them.
"""

import contextlib
import multiprocessing
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict

from server.bundle import RUN_KEY, pointer_bundle
from server.home import ServerHome, init_home, read_settings
from server.service import superlink
from server.service.listeners import OPERATOR_HOST
from server.service.operator import OperatorClient
from shared.flower.constants import SUPERLINK_NODE_ID, SubStatus, TaskType
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes
from shared.flower.grid import HttpGrid
from shared.flower.http import ProtobufRequestContext
from shared.flower.messages import (
    AcquireTaskRequest,
    ActivateNodeRequest,
    Node,
    PullMessagesRequest,
    PullMessagesResponse,
    PullTaskInputRequest,
    PushMessagesRequest,
    PushMessagesResponse,
    PushObjectRequest,
    PushTaskOutputRequest,
    TaskIdentity,
    get_all_nested_objects,
    get_object_tree,
    message_from_proto,
    message_to_proto,
    run_from_proto,
)
from shared.flower.runtime import RuntimeHttpClient, SuperExecAuthHttpInterceptor
from shared.flower.supernode import NodeAuthHttpInterceptor
from shared.process.flower import flower_environment
from shared.process.program import command
from shared.process.proxies import without_proxies
from shared.signing import HEADER, sign_request
from simulations.demo import free_ports

PROTOBUF = {"content-type": "application/protobuf"}
ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


def new_home(folder: Path, federation: str | None = None) -> ServerHome:
    """A new coordinator's folder on free ports; with a federation file's text, it has an enrolment door as well."""
    public, operator, enrolment = free_ports(3)
    return init_home(
        folder,
        hosts=["localhost"],
        public_port=public,
        operator_port=operator,
        enrolment_port=enrolment if federation else None,
        federation=federation,
    )


@contextlib.contextmanager
def serving(home: ServerHome) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a folder with `server.service.superlink`, started as `collegium server up` starts it."""
    with (home.logs / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            command(superlink.__name__, "--home", str(home.root)),
            env={**os.environ, **flower_environment(home.flower)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_up(home)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextlib.contextmanager
def forked(home: ServerHome) -> Iterator[BaseProcess]:
    """As `serving`, in a fork of a process that has loaded what it needs: whoever starts dozens of them waits less."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([__name__])
    with patch.dict(os.environ, flower_environment(home.flower)):  # Flower reads some of it while it is loaded
        process = forking.Process(target=_serve, args=(home,), daemon=True)
        process.start()
    try:
        wait_until_up(home)
        yield process
    finally:
        process.terminate()
        process.join(timeout=20)


def _serve(home: ServerHome) -> None:
    with (home.logs / "superlink.log").open("wb") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    sys.exit(superlink.main(["--home", str(home.root)]))


def wait_until_up(home: ServerHome, seconds: float = 120.0) -> None:
    """Wait until the public door answers."""
    url = f"https://127.0.0.1:{read_settings(home).public_port}/health/live"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, verify=trusting(home), timeout=2.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"no health after {seconds} s: {(home.logs / 'superlink.log').read_text()}")


def trusting(home: ServerHome) -> ssl.SSLContext:
    """TLS towards this coordinator and no other."""
    return ssl.create_default_context(cafile=str(home.ca_certificate))


class Institution:
    """A node's key and a connection to the public door; whoever holds it may send what it likes.

    Args:
        home: The coordinator.
        name: It is enrolled under this one; None leaves it a stranger.
    """

    def __init__(self, home: ServerHome, name: str | None) -> None:
        self.key, self.public_key = generate_key_pairs()
        self.node_id = 0
        self.http = httpx.Client(
            base_url=f"https://localhost:{read_settings(home).public_port}",
            verify=trusting(home),
            timeout=30.0,
            trust_env=False,
        )
        if name is not None:
            with OperatorClient(home) as operator:
                self.node_id = operator.register_node(name, self.public_bytes)
            self.ask("activate-node", ActivateNodeRequest(public_key=self.public_bytes, heartbeat_interval=30))

    @property
    def public_bytes(self) -> bytes:
        """Its public key as Flower writes it."""
        return public_key_to_bytes(self.public_key)

    @property
    def node(self) -> Node:
        """Its own name."""
        return Node(node_id=self.node_id)

    def request(self, path: str, body: bytes) -> httpx.Request:
        """A request that is signed as Collegium's daemon signs it, not sent yet."""
        request = self.http.build_request("POST", f"/v1/fleet/{path}", content=body, headers=PROTOBUF)
        request.headers[HEADER] = sign_request(self.key, request.method, request.url.path, body)
        return flower_signed(request, self.key, self.public_key)

    def ask(self, path: str, message: Any) -> httpx.Response:
        """Send one of Flower's messages, signed."""
        return self.http.send(self.request(path, message.SerializeToString()))

    def pull(self) -> Message | None:
        """The next message that the coordinator has for it."""
        answer = self.ask("pull-messages", PullMessagesRequest(node=self.node))
        found = PullMessagesResponse.FromString(answer.content).messages_list if answer.status_code == 200 else ()
        return message_from_proto(found[0]) if found else None

    def push(self, reply: "Reply") -> httpx.Response:
        """Announce a reply; its objects come after."""
        return self.ask("push-messages", reply.request(self.node))

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> httpx.Response:
        """Send one object."""
        request = PushObjectRequest(
            node=self.node, run_id=run_id, session_id=session, object_id=object_id, object_content=content
        )
        return self.ask("push-object", request)

    def answer(self, message: Message, content: RecordDict) -> bool:
        """Reply as an honest SuperNode does, objects and all; whether all of it was taken."""
        reply = Reply.to(message, content)
        answer = self.push(reply)
        if answer.status_code != 200:
            return False
        taken = PushMessagesResponse.FromString(answer.content)
        run_id = message.metadata.run_id
        return all(
            self.push_object(run_id, taken.session_id, name, reply.objects[name]).status_code == 200
            for name in taken.objects_to_push
        )


@dataclass
class Reply:
    """A message of an institution, which may be changed before it is sent."""

    message: Any
    """Flower's protobuf, without content."""
    tree: Any
    objects: dict[str, bytes]

    @classmethod
    def to(cls, message: Message, content: RecordDict) -> "Reply":
        """An honest reply."""
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = {name: item.deflate() for name, item in get_all_nested_objects(reply).items()}
        proto = message_to_proto(reply)
        proto.content.Clear()
        return cls(proto, get_object_tree(reply), objects)

    def request(self, node: Node) -> PushMessagesRequest:
        """It, as a node announces it."""
        return PushMessagesRequest(
            node=node,
            messages_list=[self.message],
            message_object_trees=[self.tree],
            clientapp_runtime_list=[0.1],
        )


def flower_signed(
    request: httpx.Request, key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey
) -> httpx.Request:
    """The request with the headers of a stock SuperNode."""
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)
    NodeAuthHttpInterceptor(key, public_key).intercept(context, lambda _: httpx.Response(200))
    return request


def words(said: str) -> RecordDict:
    """Some content."""
    return RecordDict({"said": ConfigRecord({"said": said})})


@contextlib.contextmanager
def running(home: ServerHome) -> Iterator[HttpGrid]:
    """A run, with Flower's own Grid in the place of its ServerApp."""
    address = f"{OPERATOR_HOST}:{read_settings(home).operator_port}"
    trusted = home.ca_certificate.read_bytes()
    with OperatorClient(home) as operator:
        run_id = operator.start_run(pointer_bundle(), {RUN_KEY: "attack"})
        signer = SuperExecAuthHttpInterceptor(
            master_secret=home.superexec_secret_file.read_bytes(), protected_methods=ACQUIRE
        )
        with without_proxies():
            client = RuntimeHttpClient.from_server_address(address, False, trusted, interceptors=[signer])
        with client:
            task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        grid = HttpGrid(address, root_certificates=trusted, token=task.token)
        try:
            with without_proxies():  # the Grid's client is made when it is first needed
                given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            grid.set_run(run_from_proto(given.run))
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = given.task_id, run_id, SUPERLINK_NODE_ID
            yield grid
            done = PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details="")
            grid._runtime_client.PushTaskOutput(done)
        finally:
            grid.close()


def instruct(grid: HttpGrid, institution: Institution, said: str, *, seconds: float = 60.0) -> str:
    """Send an institution a message as the coordinator does; its id."""
    return next(
        iter(grid.push_messages([Message(words(said), institution.node_id, "query", ttl=seconds, group_id="1")]))
    )
