"""A coordinator's folder, a real SuperLink that serves it, and a Grid with scripted institutions."""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from server.home import ServerHome
from shared import codec, protocol
from shared.flower.messages import NodeInfo, Run, TaskIdentity
from shared.protocol import EvaluateRequest, QueryRequest, Request, TrainRequest
from simulations.attacks.coordinator import new_home, serving


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    """A new coordinator's folder on free ports."""
    return new_home(tmp_path / "coordinator")


@pytest.fixture
def superlink(home: ServerHome) -> Iterator[subprocess.Popen[bytes]]:
    """A real SuperLink of its own for the folder `home`."""
    with serving(home) as process:
        yield process


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A folder that a real SuperLink serves for the whole session."""
    home = new_home(tmp_path_factory.mktemp("served") / "coordinator")
    with serving(home):
        yield home


Script = Callable[[Request], Any]
"""What an institution does with a request: a reply, Flower records or error, an exception for the pull, or silence."""


class ScriptedInstitution:
    """Answers as an honest institution would; `change` may put anything in the place of an answer."""

    def __init__(self, name: str, records: Mapping[str, Mapping[str, int]], *, move: float = 1.0) -> None:
        self.name = name
        self.records = records
        self.move = move
        self.change: Callable[[Request, Any], Any] = lambda _, answer: answer
        self.score: Callable[[EvaluateRequest], float] = lambda _: 0.5

    def __call__(self, request: Request) -> Any:
        return self.change(request, self._answer(request))

    def _answer(self, request: Request) -> Any:
        if isinstance(request, QueryRequest):
            return protocol.QueryReply(institution=self.name, records=self.records, software="test")  # type: ignore[arg-type]
        if isinstance(request, TrainRequest):
            state = codec.decode(request.state, "float32")
            return protocol.TrainReply(
                institution=self.name,
                round=request.round,
                examples={task: splits["train"] for task, splits in self.records.items()},
                losses={task: 0.5 for task in self.records},
                steps=1,
                seconds=0.1,
                update=codec.encode({n: np.full(a.shape, self.move) for n, a in state.items()}, "float32"),
            )
        assert isinstance(request, EvaluateRequest)
        held = {task: splits[request.split] for task, splits in self.records.items() if request.split in splits}
        metric = {"clauses": "macro_f1"}
        return protocol.EvaluateReply(
            institution=self.name,
            round=request.round,
            split=request.split,
            examples=held,
            scores={task: {metric.get(task, "f1"): self.score(request)} for task in held},
            seconds=0.1,
        )


class ScriptedGrid(Grid):
    """A Grid whose institutions are plain functions; it keeps what it was asked to send, in order."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.scripts = dict(scripts)
        self.offline: set[str] = set()
        self.unsent: set[str] = set()
        """Institutions for which Flower takes no message."""
        self.pushed: list[tuple[str, Request]] = []
        self.ttls: list[float] = []
        self.ready: dict[str, list[Any]] = {}
        self.names = {10 + index: name for index, name in enumerate(self.scripts)} | {99: "stranger"}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=name, status="online")
            for node, name in self.names.items()
            if name not in self.offline
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        name = self.names[message.metadata.dst_node_id]
        if name in self.unsent:
            return ""
        identifier = f"message-{len(self.pushed)}"
        message.metadata.__dict__["_message_id"] = identifier
        request: Request = protocol.decode(message.content, QueryRequest, TrainRequest, EvaluateRequest)  # type: ignore[assignment]
        self.pushed.append((name, request))
        self.ttls.append(message.metadata.ttl)
        answer = self.scripts[name](request)
        if isinstance(answer, Exception):
            self.ready[identifier] = [answer]
        elif isinstance(answer, RecordDict | Error):
            self.ready[identifier] = [Message(answer, reply_to=message)]
        elif answer is not None:
            self.ready[identifier] = [Message(protocol.encode(answer), reply_to=message)]
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [answer for identifier in message_ids for answer in self.ready.pop(identifier, [])]
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        return found

    def asked(self, kind: type[Request]) -> list[str]:
        """Who was sent requests of a kind, in order."""
        return [name for name, request in self.pushed if isinstance(request, kind)]


@pytest.fixture
def scripted_grid() -> type[ScriptedGrid]:
    """The class of a Grid with scripted institutions."""
    return ScriptedGrid


@pytest.fixture
def scripted_institution() -> type[ScriptedInstitution]:
    """The class of a scripted institution, honest unless told otherwise."""
    return ScriptedInstitution
