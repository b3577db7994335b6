"""`collegium client up --once`: when a site has answered its round, so that a job of a batch system may end.

The executor follows what it is asked (`OneRound`). It says to the SuperNode, with the answer that ends the round, that
it is the last one (`OVER_HEADER`); the SuperNode asks for no other message and, once the answer is at the coordinator,
writes a line for the daemon, which ends both (`Ending`). An executor that is asked nothing writes that line itself.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from urllib.parse import quote, unquote

import httpx

from client.institution import Institution
from shared.errors import ProcessError, plain
from shared.flower.http import ProtobufCall, ProtobufRequestContext
from shared.protocol import (
    EvaluateRequest,
    Refusal,
    Reply,
    Request,
    TrainRequest,
    UnmaskRequest,
)

OVER_HEADER = "collegium-over"
"""In what an executor says to its SuperNode: the answer in it is the last one, and what the operator is told."""
OVER = "collegium.over: "
"""How the line for the daemon begins."""
MOST_DEATHS = 3
"""Of an executor, in a job that is to answer one round."""


@dataclass(frozen=True)
class Over:
    """Why a site that was to answer one round ends, and whether it could."""

    text: str
    failed: bool = False
    answered: bool = True
    """Whether anything was answered that was asked for."""

    def line(self) -> str:
        """For the daemon."""
        return f"{OVER}{json.dumps(asdict(self))}"

    def header(self) -> str:
        """For the SuperNode."""
        return quote(json.dumps(asdict(self)))


def read_line(line: str) -> Over | None:
    """What `Over.line` has written, if it is such a line."""
    return Over(**json.loads(line.removeprefix(OVER))) if line.startswith(OVER) else None


def read_header(value: str) -> Over:
    """What `Over.header` says."""
    return Over(**json.loads(unquote(value)))


class OneRound:
    """What an executor has been asked so far, and whether that was a round.

    A round is over when what was trained has been scored too, or, where this site scores nothing, when the update has
    left, masked if that is agreed. After the last round of a run its released model is waited for. A refusal ends it as
    well, but for one to score: a policy may allow no scores.

    Args:
        seconds: Longest wait for another request.
        clock: Seconds; a test may pass its own.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._since = clock()
        self._trained: TrainRequest | None = None
        self.over: Over | None = None

    @property
    def left(self) -> float:
        """Seconds until it ends because nobody asks for anything."""
        return self._since + self._seconds - self._clock()

    def waited(self) -> Over:
        """What to say when that time has passed."""
        within = f"within {self._seconds:g} s"
        if self._trained:
            return Over(f"{_named(self._trained)} is answered; nobody has asked for anything more {within}.")
        return Over(f"Nobody has asked this site to train {within}.", answered=False)

    def answered(self, request: Request | None, reply: Reply, *, scores: bool, masks: bool) -> None:
        """Note an answer.

        Args:
            request: What was asked; None if it could not be read.
            reply: The answer.
            scores: Whether this site announces records whose scores choose the round.
            masks: Whether updates are masked, so that more is asked after the training.
        """
        self._since = self._clock()
        refused = isinstance(reply, Refusal)
        if isinstance(request, EvaluateRequest):
            if request.released:
                self.over = Over(f"Run {request.run} is over" + ("." if refused else ": its released model is here."))
            elif self._trained:
                self._end("not scored: see the refusal above" if refused else "trained and scored")
        elif isinstance(reply, Refusal):
            self.over = Over(plain(f"This site has refused a request ({reply.kind}): {reply.reason}"), failed=True)
        elif isinstance(request, TrainRequest):
            self._trained = request
            if not (scores or masks):
                self._end("trained")
        elif isinstance(request, UnmaskRequest) and not scores:
            self._end("trained")

    def task_over(self) -> None:
        """Note that a task has ended, however it did."""
        self._since = self._clock()

    def _end(self, how: str) -> None:
        """The round is answered, which is the end unless it was the run's last one."""
        if self._trained and self._trained.round < self._trained.rounds:
            self.over = Over(f"{_named(self._trained)} is answered: {how}.")


def _named(request: TrainRequest) -> str:
    return f"Round {request.round} of {request.rounds} of run {request.run}"


class SaysItIsOver:
    """Tells the SuperNode, with the answer that ends a round, that it is the last one."""

    def __init__(self, once: OneRound | None) -> None:
        self._once = once

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass a request on."""
        if self._once and self._once.over:
            context.request.headers[OVER_HEADER] = self._once.over.header()
        return call_next(context)


class Ending:
    """What a daemon goes by that is to end after one round.

    Attributes:
        over: Why it ends, once it does.
    """

    def __init__(self) -> None:
        self.over: Over | None = None
        self._deaths = 0

    def sift(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines of a child's log that are not for this."""
        for line in lines:
            if found := read_line(line):
                self.over = self.over or found
            else:
                yield line

    def reached(self) -> bool:
        """Whether the daemon is to end."""
        return self.over is not None

    def outcome(self, institution: Institution, *, connected: bool) -> str:
        """What the operator is told at the end.

        Args:
            institution: Its file.
            connected: Whether the coordinator was there, as far as is known.

        Raises:
            ProcessError: No round was answered, and not because nobody asked.
        """
        name, address = institution.name, institution.server.address
        if self.over is None:
            raise ProcessError(f"{name} was stopped before it had answered a round.")
        if not (connected or self.over.failed or self.over.answered):
            raise ProcessError(
                f"{self.over.text} {name} was not connected to the coordinator at {address}: see what stands above."
            )
        if self.over.failed:
            raise ProcessError(self.over.text)
        return self.over.text

    def give_up(self, _code: int, _tail: str) -> str | None:
        """For the supervisor: an executor that dies again and again answers no round."""
        self._deaths += 1
        if self._deaths < MOST_DEATHS:
            return None
        return f"The executor has died {self._deaths} times without an answer to a round; its log says more."
