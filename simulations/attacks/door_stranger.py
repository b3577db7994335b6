"""A stranger without an enrolled key at the public door: memory, sockets, the log, and requests that others made."""

import secrets
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from server.home import ServerHome, read_settings
from shared.flower.messages import PullMessagesRequest, SendNodeHeartbeatRequest
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import Institution, forked, new_home, trusting

MIB = 2**20
BODY_BYTES, BODIES = 16 * MIB, 4
"""What is sent to a coordinator that takes bodies from anybody; one that does not has ended the connection before."""
TAKEN_BYTES = 8 * MIB
"""Of such a body: more than what buffers on the way hold was read by the coordinator."""
HEAD_BYTES = 2 * MIB
HALF_REQUESTS = 200
SLOW_SECONDS = 12.0
REFUSALS = 400


@dataclass
class Target:
    """A coordinator that runs, and an institution that is enrolled there."""

    home: ServerHome
    pid: int | None
    honest: Institution
    opened: list[socket.socket] = field(default_factory=list)

    def connect(self, *, tls: bool = True) -> socket.socket:
        """A connection to the public door."""
        plain = socket.create_connection(("127.0.0.1", read_settings(self.home).public_port), timeout=SLOW_SECONDS)
        self.opened.append(plain)
        if tls:
            self.opened.append(secured := trusting(self.home).wrap_socket(plain, server_hostname="localhost"))
            return secured
        return plain

    def memory(self) -> int:
        """Bytes that the coordinator holds now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096

    def honest_gets_through(self, tries: int = 5) -> bool:
        """Whether the institution can ask for its messages, over a new connection, as its SuperNode tries it."""
        for _ in range(tries):
            with suppress(httpx.TransportError):
                self.honest.http.close()
                self.honest.http = httpx.Client(
                    base_url=self.honest.http.base_url,
                    verify=trusting(self.home),
                    timeout=SLOW_SECONDS,
                    trust_env=False,
                )
                return self.honest.ask("pull-messages", PullMessagesRequest(node=self.honest.node)).status_code == 200
        return False


@contextmanager
def _target(folder: Path) -> Iterator[Target]:
    home = new_home(folder / "coordinator")
    with forked(home) as process:
        target = Target(home, process.pid, Institution(home, "honest"))
        try:
            yield target
        finally:
            target.honest.http.close()
            for connection in target.opened:
                connection.close()


def _large_bodies(folder: Path) -> Outcome:
    """Any key in the header, and a large body behind it; by its announced length, and in pieces of unknown length."""
    with _target(folder) as target:
        before, taken = target.memory(), []
        for number in range(BODIES):
            taken.append(_send_body(target.connect(), chunked=number % 2 == 1))
        grown = max(0, target.memory() - before)
    whole = BODIES * BODY_BYTES // MIB
    note = f"{sum(taken) / MIB:.1f} of {whole} MiB could be sent; memory grew by {grown / MIB:.0f} MiB"
    return Outcome(BODIES, sum(size > TAKEN_BYTES for size in taken), note)


def _send_body(connection: socket.socket, *, chunked: bool) -> int:
    """Bytes of a body that were sent before the connection ended, one byte short of all."""
    key = b64encode(secrets.token_bytes(215))
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/protobuf\r\n"
    head += b"flwr-public-key: " + key + b"\r\n"
    head += b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % BODY_BYTES
    piece, sent = bytes(MIB // 4), 0
    with suppress(OSError):
        connection.sendall(head + b"\r\n")
        while sent < BODY_BYTES - len(piece):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
    return sent


def _half_requests(folder: Path) -> Outcome:
    """Connections in which nothing more comes: before TLS, within it, within a head, and within a body."""
    with _target(folder) as target:
        opened: list[socket.socket] = []

        def flood() -> None:
            for number in range(HALF_REQUESTS):
                with suppress(OSError):
                    opened.append(_half(target, number))

        thread = threading.Thread(target=flood)
        thread.start()
        through = True
        while thread.is_alive():
            through = through and target.honest_gets_through()
        thread.join()
        time.sleep(SLOW_SECONDS)
        alive = sum(not _has_ended(connection) for connection in opened)
    how = "could connect" if through else "could not connect"
    note = f"{alive} of {len(opened)} still open after {SLOW_SECONDS:.0f} s; an institution {how}"
    return Outcome(HALF_REQUESTS, alive + (not through), note)


def _half(target: Target, number: int) -> socket.socket:
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\n"
    match number % 4:
        case 0:
            return target.connect(tls=False)
        case 1:
            connection = target.connect(tls=False)
            connection.sendall(b"\x16\x03\x01")
        case 2:
            connection = target.connect()
            connection.sendall(head)
        case _:
            connection = target.connect()
            connection.sendall(head + b"flwr-public-key: AAAA\r\nContent-Length: 100\r\n\r\nx")
    return connection


def _has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        while connection.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True


def _slow_heads(folder: Path) -> Outcome:
    """Heads that come byte by byte, and one that never ends."""
    with _target(folder) as target:
        began, alive = time.monotonic(), [target.connect() for _ in range(4)]
        for connection in alive:
            connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
        endless = target.connect()
        sent = _send_endless(endless)
        while alive and time.monotonic() - began < SLOW_SECONDS:
            alive = [connection for connection in alive if _drips(connection)]
            time.sleep(0.5)
    slow = f"{len(alive)} of 4 slow ones still open after {SLOW_SECONDS:.0f} s"
    note = f"{slow}; {sent // 1024} KiB of an endless one were read"
    return Outcome(5, len(alive) + (sent > HEAD_BYTES), note)


def _send_endless(connection: socket.socket) -> int:
    sent, piece = 0, b"x: " + b"y" * 8000 + b"\r\n"
    with suppress(OSError):
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
        while sent < 4 * MIB:
            connection.sendall(piece)
            sent += len(piece)
            time.sleep(0.001)
    return sent


def _drips(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except OSError:
        return False
    return not _has_ended(connection)


def _others_requests(folder: Path) -> Outcome:
    """A recorded request once more; its head with another body, path and method; a good one of five minutes ago."""
    with _target(folder) as target:
        honest = target.honest
        beat = SendNodeHeartbeatRequest(node=honest.node, heartbeat_interval=30).SerializeToString()
        recorded = honest.request("send-node-heartbeat", beat)
        assert honest.http.send(recorded).status_code == 200
        stranger = httpx.Client(base_url=honest.http.base_url, verify=trusting(target.home), trust_env=False)
        other = SendNodeHeartbeatRequest(node=honest.node, heartbeat_interval=29).SerializeToString()
        pull = PullMessagesRequest(node=honest.node).SerializeToString()
        with stranger:
            tries = [
                ("send-node-heartbeat", beat, recorded),
                ("send-node-heartbeat", other, honest.request("send-node-heartbeat", beat)),
                ("pull-messages", pull, honest.request("send-node-heartbeat", beat)),
                ("pull-messages", pull, honest.request("send-node-heartbeat", pull)),
            ]
            statuses = [_send_as(stranger, *attempt) for attempt in tries]
    return Outcome(len(statuses), statuses.count(200), f"answers {', '.join(map(str, statuses))}")


def _send_as(stranger: httpx.Client, path: str, body: bytes, recorded: httpx.Request) -> int:
    headers = {name: value for name, value in recorded.headers.items() if name not in ("content-length", "host")}
    return stranger.post(f"/v1/fleet/{path}", content=body, headers=headers).status_code


def _fills_the_log(folder: Path) -> Outcome:
    """Requests that are refused, and bytes that are no request; each may leave a line."""
    with _target(folder) as target:
        log = target.home.logs / "superlink.log"
        before = log.stat().st_size
        with httpx.Client(
            base_url=target.honest.http.base_url, verify=trusting(target.home), trust_env=False
        ) as client:
            for number in range(REFUSALS):
                client.post(f"/v1/fleet/pull-messages?{number}" + "x" * 1000, headers={"flwr-public-key": "x"})
        written = log.stat().st_size - before
    return Outcome(
        1, int(written > REFUSALS * 200), f"{written / 1024:.0f} KiB written for {REFUSALS} requests of 1 KiB"
    )


PROMISE = "nothing is read before the sender is known, and everything has a limit"

ATTACKS = (
    Attack("large bodies without an enrolled key", "a stranger", PROMISE, _large_bodies),
    Attack("incomplete requests that occupy all connections", "a stranger", PROMISE, _half_requests),
    Attack("slow and endless headers", "a stranger", PROMISE, _slow_heads),
    Attack(
        "a recorded request of an institution, replayed or changed",
        "a stranger",
        "a request is valid once, for the path and the body that were signed",
        _others_requests,
    ),
    Attack("flooding the log", "a stranger", PROMISE, _fills_the_log),
)
