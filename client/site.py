"""One institution at work: the answer to each request, and the one way out for it."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from client.data.changes import Sources
from client.learner import Learner
from client.leaving import gate, news, outbox
from client.leaving.disclosure import disclose_query, disclose_training
from client.leaving.gate import Parcel
from client.leaving.receipts import Receipts, Release
from client.leaving.refusals import refusal
from client.policy import check_request
from client.round import requests
from client.round.describe import count_labels, describe
from client.round.evaluation import evaluate
from client.round.secagg import Participant, SecureRounds
from client.round.steady import steady
from client.round.training import train
from shared.errors import PolicyError, RefusalError, StoreError, shown
from shared.protocol import (
    EvaluateRequest,
    MaskReply,
    QueryRequest,
    Refusal,
    Reply,
    Request,
    TrainReply,
    TrainRequest,
)
from shared.watching.logs import about

log = logging.getLogger("collegium.client")
NO_RECEIPT = "This site could not write the receipt of its answer, and nothing leaves without one."


@dataclass(frozen=True)
class Site(Learner):
    """An institution ready to answer: everything that stays warm between messages."""

    state: Path | None = None
    """The state folder: where updates that are held wait, and its own model lies."""
    receipts: Receipts | None = None
    """Where everything that leaves is recorded; None in the simulator."""
    secure: SecureRounds = field(default_factory=SecureRounds)
    """Its secrets under secure aggregation."""
    sources: Sources | None = None
    """What its records were read from; None in the simulator."""

    def answer(self, request: Request, run: str | None = None) -> Reply:
        """Answer one request; what this site will not or cannot do is a `Refusal` that says why.

        Args:
            request: The coordinator's.
            run: Flower's number of the run, for the receipt of a request that does not name it.
        """
        run = request.run or run
        with about(run=run, round=getattr(request, "round", None)):
            reply = self._answer(request, run)
            news.tell(request, reply)
        return reply

    def _answer(self, request: Request, run: str | None) -> Reply:
        began = time.monotonic()
        try:
            self._check(request)
            with steady(self.model):
                reply, parcel = self._work(request, run)
            release = self._describe_release(request, reply, run, parcel)
            if isinstance(reply, TrainReply) and self.policy.hold:
                self._hold(reply, release, began)
            if isinstance(request, TrainRequest) and parcel and self.federation.secure_aggregation:
                reply = self._announce(request, reply, parcel)
                release = self._describe_release(request, reply, run, parcel)
        except Exception as error:  # whatever it is, what leaves has a receipt and quotes nothing
            return self.refuse(error, run)
        return self._record(reply, release)

    def refuse(self, error: Exception, run: str | None = None) -> Reply:
        """The refusal that an error becomes; there is a receipt of it as of any answer.

        Args:
            error: Why there is no other answer.
            run: Flower's number of the run.
        """
        reply = refusal(error, institution=self.name, state=self.state)
        return self._record(reply, gate.describe(reply, federation=self.federation, run=run))

    def _check(self, request: Request) -> None:
        """Whether the request may be answered at all, before anything of it is read."""
        if request.spec_digest != self.federation.digest:
            raise RefusalError(
                f"This site has approved the federation file with digest {self.federation.digest[:12]}..., but the "
                f"request is under {shown(request.spec_digest, 20)}; see `collegium client agreement`."
            )
        check_request(self.policy, request, self.federation, self.holdings.owners)
        if isinstance(request, TrainRequest | EvaluateRequest):
            requests.check_request(request, self.federation)

    def _work(self, request: Request, run: str | None) -> tuple[Reply, Parcel | None]:
        """What the request asks for, as the policy shares it, and the update in it."""
        if isinstance(request, TrainRequest):
            if self.sources:
                self.sources.look()
            trained, parcel = train(self, request, run=run)
            return disclose_training(self.policy, trained, private=bool(self.federation.privacy)), parcel
        if isinstance(request, EvaluateRequest):
            return evaluate(self, request, run=run, folder=self.state if self.receipts else None), None
        if isinstance(request, QueryRequest):
            return disclose_query(self.policy, describe(self), self.holdings.owners), None
        outputs = {name: task.outputs() for name, task in self.model.tasks.items()}
        participant = Participant(self.name, self.federation, self.shapes_sent(request.round), outputs)
        answer = self.secure.answer(request, participant)
        if isinstance(answer, MaskReply):
            gate.check_size(answer.update, self.policy)
        return answer, None

    def _describe_release(self, request: Request, reply: Reply, run: str | None, parcel: Parcel | None) -> Release:
        scored = self.memory.asked.scored(request.run) if isinstance(request, EvaluateRequest) else None
        norm = parcel.norm if parcel else None
        return gate.describe(reply, federation=self.federation, run=run, norm=norm, evaluations=scored)

    def _hold(self, reply: TrainReply, release: Release, began: float) -> None:
        """Wait for the operator's word, no longer than the coordinator waits."""
        left = self.federation.rounds.deadline_seconds - (time.monotonic() - began)
        if self.state is None:
            raise PolicyError("This site holds every update for its operator (policy.hold), but has no outbox.")
        outbox.wait(self.state, reply.update, release, seconds=max(0.0, min(self.policy.hold_seconds, left)))

    def _announce(self, request: TrainRequest, reply: Reply, parcel: Parcel) -> Reply:
        """Keys in the place of an update that will be masked."""
        assert isinstance(reply, TrainReply)
        labels = {task: sorted(counts) for task, counts in count_labels(self).items()}
        return self.secure.begin(reply, parcel.update.model, self.federation, run=request.run, labels=labels)

    def _record(self, reply: Reply, release: Release) -> Reply:
        if self.receipts is None:
            return reply
        try:
            self.receipts.append(release)
        except StoreError as error:
            log.error("nothing leaves: %s", error)
            return Refusal(institution=self.name, kind="failure", reason=NO_RECEIPT)
        return reply
