"""What the public door costs a request: milliseconds with all its checks, and as stock Flower answers, in turns.

    python -m simulations.benchmarks.door.requests --requests 200

Each kind of request that an institution sends is answered by Flower's own application in this process, over the same
database file, without network or TLS: once as Flower serves it, with its own check of a signature, and once behind the
door. What the requests are about (a run, messages, replies under way) is prepared beside it at a real coordinator, and
not measured. Bodies are small; hashing a large one costs what the last line says.
"""

import asyncio
import hashlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from starlette.types import Message as Event

from server.door.limits import CHUNK_BYTES
from server.home import ServerHome, read_settings
from server.service.superlink import create_superlink, doors_of
from shared.flower.grid import HttpGrid
from shared.flower.messages import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    GetFabRequest,
    GetRunRequest,
    PullMessagesRequest,
    PullObjectRequest,
    PushMessagesResponse,
    PushObjectRequest,
    SendNodeHeartbeatRequest,
    SendTaskHeartbeatRequest,
)
from shared.flower.superlink import NodeAuthMiddleware
from shared.process.console import print_table
from simulations.attacks.coordinator import Institution, Reply, instruct, new_home, running, serving

BEAT_SECONDS = 30
SMALL_BYTES = 10_000
"""Of a reply's blob."""


class Took(NamedTuple):
    """Milliseconds of one request."""

    wall_ms: float
    cpu_ms: float


class Scene:
    """A run at a real coordinator, and an institution that makes one request after the other.

    Args:
        grid: The coordinator's side of the run.
        institution: It is enrolled.
    """

    def __init__(self, grid: HttpGrid, institution: Institution) -> None:
        self._grid, self._institution = grid, institution
        self._node, self._run = institution.node, grid.run
        self._on = ActivateNodeRequest(public_key=institution.public_bytes, heartbeat_interval=BEAT_SECONDS)
        self._off = DeactivateNodeRequest(node_id=institution.node_id)
        self._standing = self._asked().metadata.message_id
        self.kinds: dict[str, Callable[[], Any]] = {
            "pull-messages": lambda: PullMessagesRequest(node=self._node),
            "get-run": lambda: GetRunRequest(node=self._node, run_id=self._run.run_id),
            "get-fab": lambda: GetFabRequest(node=self._node, run_id=self._run.run_id, hash_str=self._run.fab_hash),
            "pull-object": self._pull_object,
            "confirm-message-received": self._confirm,
            "push-messages": lambda: self._reply().request(self._node),
            "push-object": self._push_object,
            "send-node-heartbeat": lambda: SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=BEAT_SECONDS),
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
        }
        """Each makes what has not been asked yet, so that the answer is 200."""

    def request(self, kind: str) -> httpx.Request:
        """One request, signed in both ways."""
        self._grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())  # or the run ends after a minute
        return self._institution.request(kind, self.kinds[kind]().SerializeToString())

    def _asked(self) -> Message:
        instruct(self._grid, self._institution, str(time.monotonic()), seconds=3600)
        message = self._institution.pull()
        assert message is not None
        return message

    def _reply(self) -> Reply:
        blob = Array(np.random.default_rng().integers(0, 256, SMALL_BYTES, dtype=np.uint8))
        content = RecordDict({"header": ConfigRecord({"body": "{}"}), "arrays": ArrayRecord({"update": blob})})
        return Reply.to(self._asked(), content)

    def _pull_object(self) -> Any:
        return PullObjectRequest(node=self._node, run_id=self._run.run_id, object_id=self._standing)

    def _confirm(self) -> Any:
        message_id = self._asked().metadata.message_id
        return ConfirmMessageReceivedRequest(node=self._node, run_id=self._run.run_id, message_object_id=message_id)

    def _push_object(self) -> Any:
        reply = self._reply()
        taken = PushMessagesResponse.FromString(self._institution.push(reply).content)
        name = max(taken.objects_to_push, key=lambda name: len(reply.objects[name]))
        return PushObjectRequest(
            node=self._node,
            run_id=self._run.run_id,
            session_id=taken.session_id,
            object_id=name,
            object_content=reply.objects[name],
        )

    def _activate(self) -> Any:
        self._institution.ask("deactivate-node", self._off)  # Flower refuses what is active already
        return self._on

    def _deactivate(self) -> Any:
        self._institution.ask("activate-node", self._on)
        return self._off


@contextmanager
def scene(folder: Path) -> Iterator[tuple[ServerHome, Scene]]:
    """A coordinator's folder, served, with a run and an institution in it."""
    home = new_home(folder / "coordinator")
    with serving(home), running(home) as grid:
        institution = Institution(home, "institution")
        with closing(institution.http):
            yield home, Scene(grid, institution)


def applications(home: ServerHome) -> tuple[ASGIApp, ASGIApp]:
    """Flower's SuperLink over the coordinator's database: as Flower serves it, and behind the door."""
    settings = read_settings(home)
    behind, stock = create_superlink(home, settings), create_superlink(home, settings)
    stock.user_middleware.insert(-1, Middleware(NodeAuthMiddleware))  # where Flower has it
    return stock, doors_of(behind, home, settings).public


def measure(folder: Path, requests: int) -> list[dict[str, Any]]:
    """One row per kind of request.

    Args:
        folder: An empty one.
        requests: Pairs of each kind; half of them meet the door first.

    Returns:
        Medians in milliseconds of `flower_ms`, `door_ms` and `more_ms` (of the pairs' differences, with its quartiles
        `from_ms` and `to_ms`), `ratio`, the door's median over Flower's, and `more_cpu_ms`, which is `more_ms` in
        processor time: what other processes do meanwhile is not in it.
    """
    rows = []
    with scene(folder) as (home, asking):
        stock, door = applications(home)
        for kind in asking.kinds:
            pairs = asyncio.run(_in_turns(stock, door, partial(asking.request, kind), requests))
            flower, checked = (statistics.median(one.wall_ms for one in column) for column in zip(*pairs, strict=True))
            low, middle, high = statistics.quantiles((more.wall_ms - bare.wall_ms for bare, more in pairs), n=4)
            rows.append(
                {
                    "request": kind,
                    "flower_ms": flower,
                    "door_ms": checked,
                    "more_ms": middle,
                    "from_ms": low,
                    "to_ms": high,
                    "ratio": checked / flower,
                    "more_cpu_ms": statistics.median(more.cpu_ms - bare.cpu_ms for bare, more in pairs),
                }
            )
    return rows


async def _in_turns(
    stock: ASGIApp, door: ASGIApp, request: Callable[[], httpx.Request], count: int
) -> list[tuple[Took, Took]]:
    for app in (stock, door):
        await _timed(app, request())
    pairs = []
    for number in range(count):
        order = (stock, door) if number % 2 else (door, stock)
        took = {id(app): await _timed(app, request()) for app in order}
        pairs.append((took[id(stock)], took[id(door)]))
    return pairs


async def _timed(app: ASGIApp, request: httpx.Request) -> Took:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "path": request.url.path,
        "query_string": b"",
        "root_path": "",
        "scheme": "https",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "state": {},
    }
    statuses: list[int] = []
    body: list[Event] = [{"type": "http.request", "body": request.content, "more_body": False}]

    async def receive() -> Event:
        return body.pop() if body else await asyncio.Future()

    async def send(message: Event) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    began, cpu = time.perf_counter(), time.process_time()
    await app(scope, receive, send)
    took = Took((time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3)
    assert statuses == [200], (request.url.path, statuses)
    return took


def hashing_milliseconds(repeats: int = 5) -> float:
    """SHA-256 of the largest piece of an array that Flower sends."""
    piece, took = bytes(CHUNK_BYTES), []
    for _ in range(repeats):
        began = time.perf_counter()
        hashlib.sha256(piece).digest()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def main(requests: Annotated[int, typer.Option(help="Pairs of requests of each kind.")] = 200) -> None:
    """Measure, and print a table."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), requests)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    print(f"SHA-256 of a piece of {CHUNK_BYTES // 2**20} MiB: {hashing_milliseconds():.1f} ms")


if __name__ == "__main__":
    typer.run(main)
