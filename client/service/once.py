"""`collegium client up --once`: when a site has answered its round, so that a job of a batch system may end.

The executor follows what it is asked (`OneRound`). It says to the SuperNode, with the answer that ends the round, that
it is the last one (`OVER_HEADER`); the SuperNode asks for no other message and, once the answer is at the coordinator,
writes a line for the daemon, which ends both (`client.service.endings.Ending`). An executor that is asked nothing
writes that line itself.
"""

import time
from collections.abc import Callable

import httpx

from client.service.endings import Over
from shared.errors import plain
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
