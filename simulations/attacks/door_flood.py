"""An enrolled institution asks for more than its share: many questions held at once, and a flood of requests."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from server.door.limits import CONNECTIONS_PER_NODE, REQUESTS_AT_ONCE, REQUESTS_PER_SECOND
from server.home import ServerHome
from server.service.operator import OperatorClient
from shared.flower.grid import HttpGrid
from shared.flower.messages import PullMessagesRequest, PullMessagesResponse, SendNodeHeartbeatRequest
from shared.process.waiting import HEADER
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import Institution, forked, instruct, new_home, running, trusting

QUESTIONS = 60
FLOOD_THREADS, FLOOD_SECONDS = 12, 40.0
BEATS = 3
"""Messages to the honest institution meanwhile."""
LATE_SECONDS = 10.0
"""A message to it that takes longer has been held up; alone it takes a fraction of a second."""


@dataclass
class Scene:
    """A run, an attacker, and an honest institution."""

    home: ServerHome
    grid: HttpGrid
    attacker: Institution
    honest: Institution

    def limits_passed(self) -> set[str]:
        """By whom `collegium server status` says that a limit was passed; of the attacker alone."""
        with OperatorClient(self.home) as operator:
            passed = operator.refused()
        assert {row["node_id"] for row in passed} <= {self.attacker.node_id}
        return {row["limit"] for row in passed}

    def seconds_to_honest(self) -> float:
        """How long a message to the honest institution takes, which waits for it."""
        arrived: list[float] = []

        def wait() -> None:
            answer = _held(self.honest, self.honest.http)
            if PullMessagesResponse.FromString(answer.content).messages_list:
                arrived.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(1.0)
        sent = time.monotonic()
        instruct(self.grid, self.honest, f"at {sent}")
        thread.join()
        return arrived[0] - sent if arrived else float("inf")


def _held(institution: Institution, http: httpx.Client) -> httpx.Response:
    body = PullMessagesRequest(node=institution.node).SerializeToString()
    request = institution.request("pull-messages", body)
    request.headers[HEADER] = "25"
    return http.send(request)


@contextmanager
def _scene(folder: Path) -> Iterator[Scene]:
    home = new_home(folder / "coordinator")
    with forked(home), running(home) as grid:
        attacker, honest = Institution(home, "attacker"), Institution(home, "honest")
        with closing(attacker.http), closing(honest.http):
            yield Scene(home, grid, attacker, honest)


def _many_questions(folder: Path) -> Outcome:
    """Questions that may be held, each over a connection of its own."""
    with _scene(folder) as scene:
        held: list[float] = []
        statuses: list[int] = []

        def ask() -> None:
            with httpx.Client(
                base_url=scene.attacker.http.base_url, verify=trusting(scene.home), trust_env=False, timeout=40.0
            ) as http:
                began = time.monotonic()
                with suppress(httpx.TransportError):
                    statuses.append(_held(scene.attacker, http).status_code)
                    held.append(time.monotonic() - began)

        threads = [threading.Thread(target=ask) for _ in range(QUESTIONS)]
        for thread in threads:
            thread.start()
        slow = scene.seconds_to_honest()
        for thread in threads:
            thread.join()
    at_once = sum(seconds > 20.0 for seconds in held)
    note = f"{at_once} of {QUESTIONS} were held; a message to another institution took {slow:.1f} s"
    return Outcome(QUESTIONS, max(0, at_once - 1) + (slow > LATE_SECONDS), note)


def _flood(folder: Path) -> Outcome:
    """Requests as fast as they can be made, over as many connections as one institution has."""
    with _scene(folder) as scene:
        until, answers = time.monotonic() + FLOOD_SECONDS, list[int]()

        def ask() -> None:
            beat = SendNodeHeartbeatRequest(node=scene.attacker.node, heartbeat_interval=30).SerializeToString()
            with httpx.Client(
                base_url=scene.attacker.http.base_url, verify=trusting(scene.home), trust_env=False
            ) as http:
                while time.monotonic() < until:
                    with suppress(httpx.TransportError):
                        answers.append(http.send(scene.attacker.request("send-node-heartbeat", beat)).status_code)

        assert FLOOD_THREADS < CONNECTIONS_PER_NODE
        threads = [threading.Thread(target=ask) for _ in range(FLOOD_THREADS)]
        for thread in threads:
            thread.start()
        slow = max(scene.seconds_to_honest() for _ in range(BEATS))
        for thread in threads:
            thread.join()
        named = scene.limits_passed()
    most = REQUESTS_AT_ONCE + REQUESTS_PER_SECOND * (FLOOD_SECONDS + 5)
    answered = answers.count(200)
    cut = answered == len(answers) or "requests" in named
    note = f"{answered} of {len(answers)} were answered; a message to another institution took {slow:.1f} s at most"
    return Outcome(len(answers), max(0, answered - int(most)) + (slow > LATE_SECONDS) + (not cut), note)


PROMISE = "one institution cannot take more of the coordinator than its share, and delays others by seconds at most"

ATTACKS = (
    Attack("many questions held at once", "an institution", PROMISE, _many_questions),
    Attack("a flood of signed requests", "an institution", PROMISE, _flood),
)
