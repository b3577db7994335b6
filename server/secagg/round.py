"""What the coordinator knows of one round of secure aggregation."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from server.rounds.asking import Answer
from server.rounds.replies import check_sender
from server.rounds.run import Run, checked
from shared.federation import SecureAggregation
from shared.protocol import SecureReply, SecureRequest
from shared.secagg.view import Context, Directory, Member, view_of
from shared.weighting import Outputs, Shares, sum_shares

STEP_SECONDS = 120.0
"""Longest wait for the answers of a step that takes an institution no time."""
R = TypeVar("R", bound=SecureReply)


@dataclass
class SecureRound:
    """One round, as far as it has come."""

    run: Run
    number: int
    shapes: Mapping[str, tuple[int, ...]]
    """Of the arrays that are added up."""
    directory: dict[str, Member] = field(default_factory=dict)
    """Those who have trained, as they have announced themselves."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Theirs, until the round's record of them is written."""
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)
    weights: Shares = field(default_factory=dict)
    """Of those who have shared secrets, once they are known."""
    view: bytes = b""
    """As they see the round."""

    @property
    def agreed(self) -> SecureAggregation:
        """`[secure_aggregation]`."""
        agreed = self.run.federation.secure_aggregation
        assert agreed is not None
        return agreed

    @property
    def context(self) -> Context:
        """What everything that is signed in it begins with."""
        return Context(self.run.run_id, self.number, self.run.federation.digest)

    @property
    def outputs(self) -> Outputs:
        """By task, the labels of its head's rows."""
        return {name: task.outputs() for name, task in self.run.tasks.items()}

    def begin_sum(self, sharers: Collection[str]) -> None:
        """Weigh those who have shared secrets, as they do themselves."""
        members: Directory = {name: self.directory[name] for name in sharers}
        rounds = self.run.federation.rounds
        self.weights = sum_shares(
            members, shapes=self.shapes, outputs=self.outputs, weighting=rounds.weighting, most=rounds.max_share
        )
        self.view = view_of(self.context, self.directory, sharers)

    def of_round(self) -> dict[str, Any]:
        """What every request of it holds."""
        return {"spec_digest": self.context.digest, "run": self.context.run, "round": self.number}

    def ask(
        self, requests: Mapping[str, SecureRequest], kind: type[R], step: str, *, quorum: int
    ) -> Iterator[tuple[Answer, R | None]]:
        """The answers as they come, with the replies of those who are who they should be."""

        def check(reply: R, name: str) -> R:
            check_sender(reply, requests[name], institution=name)
            return reply

        for answer in self.run.ask(requests, step, quorum=quorum, longest=STEP_SECONDS):
            yield checked(answer, kind, check)

    def drop(self, answer: Answer, step: str) -> None:
        """Record that an institution's update is not in the sum, and why."""
        trained = self.answers.pop(answer.institution, answer)
        failed = replace(trained, status=answer.status, reason=f"{step}: {answer.reason}")
        self.run.record(self.number, "train", failed)

    def take(self, answer: Answer) -> None:
        """Record that an institution's update is in the sum."""
        name = answer.institution
        trained = self.answers.pop(name)
        both = replace(trained, bytes_up=answer.bytes_up, seconds=trained.seconds + answer.seconds)
        examples, losses = self.directory[name].examples, self.losses[name]
        self.run.record(self.number, "train", both, examples=examples, losses=losses)


def vector_length(secure: SecureRound) -> int:
    """Words of a masked update: of the arrays, and of their weights."""
    weights = next(iter(secure.weights.values()))
    return sum(int(np.prod(shape)) for shape in secure.shapes.values()) + sum(array.size for array in weights.values())
