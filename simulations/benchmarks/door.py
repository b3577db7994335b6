"""What the public door costs a request: milliseconds with its checks, and as Flower alone would answer, in turns.

    python -m simulations.benchmarks.door --requests 300

Both are the SuperLink's own application in this process, over a database file, without network or TLS. Flower verifies
one signature per request, and so does the door, in its place; the figures therefore say what all other checks cost.
What is signed whole must be hashed as well, which is shown for the largest piece of an array.
"""

import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message

from server.door.crowd import Crowd
from server.door.limits import CHUNK_BYTES
from server.door.public import public_door
from server.home import read_settings
from server.service.superlink import create_superlink, fleet_judge
from shared.process.console import print_table
from shared.signing import HEADER, sign_request
from simulations.attacks.coordinator import PROTOBUF, flower_signed, new_home

HEARTBEAT_SECONDS = 30
OWNER = "none"


def measure(folder: Path, requests: int) -> list[dict[str, Any]]:
    """One row per kind of request: milliseconds (medians), their difference, and the spread of the difference."""
    home = new_home(folder / "coordinator")
    settings = read_settings(home)
    app, plain = create_superlink(home, settings), create_superlink(home, settings)
    plain.user_middleware.insert(-1, Middleware(NodeAuthMiddleware))  # where Flower has it
    door = public_door(app, fleet_judge(app, settings, Crowd()))
    key, public_key = generate_key_pairs()
    state = app.state.linkstate_factory.state()
    node_id = state.create_node(OWNER, OWNER, public_key_to_bytes(public_key), HEARTBEAT_SECONDS)
    state.activate_node(node_id, HEARTBEAT_SECONDS)
    node = Node(node_id=node_id)
    kinds: dict[str, Any] = {
        "pull-messages": PullMessagesRequest(node=node),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_SECONDS),
    }

    def request(path: str, body: bytes) -> httpx.Request:
        made = httpx.Request("POST", f"https://localhost{path}", content=body, headers=PROTOBUF)
        made.headers[HEADER] = sign_request(key, "POST", path, body)
        return flower_signed(made, key, public_key)

    rows = []
    for name, message in kinds.items():
        path, body = f"/v1/fleet/{name}", message.SerializeToString()
        pairs = asyncio.run(_in_turns(plain, door, partial(request, path, body), requests))
        differences = sorted(checked - bare for bare, checked in pairs)
        rows.append(
            {
                "request": name,
                "flower_ms": statistics.median(bare for bare, _ in pairs),
                "door_ms": statistics.median(checked for _, checked in pairs),
                "more_ms": statistics.median(differences),
                "from_ms": differences[len(differences) // 4],
                "to_ms": differences[3 * len(differences) // 4],
            }
        )
    return rows


async def _in_turns(
    plain: ASGIApp, door: ASGIApp, request: Callable[[], httpx.Request], count: int
) -> list[tuple[float, float]]:
    for app in (plain, door):
        await _milliseconds(app, request())
    pairs = []
    for number in range(count):
        order = (plain, door) if number % 2 else (door, plain)
        took = {id(app): await _milliseconds(app, request()) for app in order}
        pairs.append((took[id(plain)], took[id(door)]))
    return pairs


async def _milliseconds(app: ASGIApp, request: httpx.Request) -> float:
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
    body: list[Message] = [{"type": "http.request", "body": request.content, "more_body": False}]

    async def receive() -> Message:
        return body.pop() if body else await asyncio.Future()

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    began = time.perf_counter()
    await app(scope, receive, send)
    took = (time.perf_counter() - began) * 1e3
    assert statuses == [200], statuses
    return took


def hashing_milliseconds(repeats: int = 5) -> float:
    """SHA-256 of the largest piece of an array that Flower sends."""
    piece, took = bytes(CHUNK_BYTES), []
    for _ in range(repeats):
        began = time.perf_counter()
        hashlib.sha256(piece).digest()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def main(requests: Annotated[int, typer.Option(help="Pairs of requests of each kind.")] = 300) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), requests)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    print(f"SHA-256 of a piece of {CHUNK_BYTES // 2**20} MiB: {hashing_milliseconds():.1f} ms")


if __name__ == "__main__":
    typer.run(main)
