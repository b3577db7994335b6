"""One institution at work: its data, the warm model, and the answer to each request."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from client.data.augmentation import Rewording
from client.data.loading import TaskData, mark_known
from client.leaving import gate, outbox
from client.leaving.disclosure import disclose_evaluation, disclose_query, disclose_training
from client.leaving.receipts import Receipts, Release
from client.leaving.refusals import refusal
from client.policy import Owners, Policy, check_request, check_tasks, offered
from client.privacy.account import Account, parse_head
from client.privacy.evaluation import Evaluations
from client.privacy.randomness import Chance
from client.round import personal, requests
from client.round.keep import Keep, Parts
from client.round.requests import Asked, purpose_of
from client.round.secagg import Participant, SecureRounds
from client.round.states import Received, check_state, read_state
from client.round.steady import steady
from client.train import trainer
from client.train.drift import Correction, renew
from client.train.hooks import Hook, LoggedProgress
from client.train.importance import Importance
from client.train.rotation import align
from client.train.scoring import private_scores, score, tune
from shared import codec
from shared.adapter import (
    difference,
    get_state,
    is_kept,
    is_received,
    is_sent,
    of_tasks,
    select,
    set_some,
    set_state,
    tensors,
)
from shared.codec import Arrays
from shared.errors import (
    BudgetError,
    PolicyError,
    RefusalError,
    StoreError,
    shown,
)
from shared.federation import Federation
from shared.model.allocation import cut, cut_importance, ranks_of, update_shapes
from shared.model.balancing import State
from shared.model.lora import rank_of, set_trained
from shared.model.multitask import MultiTaskModel
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    MaskReply,
    QueryReply,
    QueryRequest,
    Refusal,
    Reply,
    Request,
    Split,
    TrainReply,
    TrainRequest,
)
from shared.state import Update
from shared.tasks import Example, Record

log = logging.getLogger("collegium.client")
HOME = "home"
"""What `Method.keeps` names, in the site's memory of its rounds."""
VARIATES = "variates"
"""Its control variates c_i, there too; see `client.train.drift`."""
RESIDUAL = "residual"
"""What `top-k` has not sent yet, there too; see `shared.codec.with_feedback`."""
NO_RECEIPT = "This site could not write the receipt of its answer, and nothing leaves without one."


@dataclass(frozen=True)
class Site:
    """An institution ready to answer: everything that stays warm between messages."""

    name: str
    federation: Federation
    model: MultiTaskModel
    data: Mapping[str, Mapping[Split, TaskData]]
    rewordings: Mapping[str, Rewording] = field(default_factory=dict)
    """How training texts are augmented, for the tasks where they are."""
    readiness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers about the texts of each task, for the coordinator's query."""
    balances: dict[int, State] = field(default_factory=dict)
    """What `training.combine` goes on from, after each round trained here."""
    policy: Policy = field(default_factory=Policy)
    owners: Owners = field(default_factory=dict)
    """How many owners each split holds."""
    account: Account | None = None
    """What private training costs; None where the federation has no [privacy]."""
    evaluations: Evaluations | None = None
    """What private scores cost; None where scores are not private."""
    state: Path | None = None
    """Where updates that are held wait."""
    receipts: Receipts | None = None
    """Where everything that leaves is recorded; None in the simulator."""
    keep: Keep = field(default_factory=Keep)
    """What stays here from round to round."""
    asked: Asked = field(default_factory=Asked)
    """What the coordinator has asked, run by run."""
    initial: Arrays = field(default_factory=dict)
    """Where what stays at home begins (`Method.keeps`)."""
    secure: SecureRounds = field(default_factory=SecureRounds)
    """Its secrets under secure aggregation."""

    def answer(self, request: Request, run: str | None = None) -> Reply:
        """Answer one request; what this site will not or cannot do is a `Refusal` that says why.

        Args:
            request: The coordinator's.
            run: Flower's number of the run, for the receipt.
        """
        began = time.monotonic()
        try:
            self._check(request)
            with steady(self.model):
                reply, norm = self._work(request, run)
            release = self._describe_release(request, reply, run, norm)
            if isinstance(reply, TrainReply) and self.policy.hold:
                self._hold(reply, release, began)
            if isinstance(reply, TrainReply) and self.federation.secure_aggregation:
                assert isinstance(request, TrainRequest)
                shapes = of_tasks(self._sent_shapes(reply.round), self.data)
                labels = {task: sorted(counts) for task, counts in self._inventory().items()}
                reply = self.secure.keep(reply, self.federation, shapes, run=request.run, labels=labels)
                release = self._describe_release(request, reply, run, norm)
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

    def _work(self, request: Request, run: str | None) -> tuple[Reply, float | None]:
        """What the request asks for, as the policy shares it, and the norm of the update in it."""
        if isinstance(request, TrainRequest):
            reply, norm = self._train(request, run)
            return disclose_training(self.policy, reply, private=bool(self.federation.privacy)), norm
        if isinstance(request, EvaluateRequest):
            return self._evaluate(request, run), None
        if isinstance(request, QueryRequest):
            return disclose_query(self.policy, self._describe(), self.owners), None
        outputs = {name: task.outputs() for name, task in self.model.tasks.items()}
        participant = Participant(self.name, self.federation, self._sent_shapes(request.round), outputs)
        answer = self.secure.answer(request, participant)
        if isinstance(answer, MaskReply):
            gate.check_size(answer.update, self.policy)
        return answer, None

    def _describe_release(self, request: Request, reply: Reply, run: str | None, norm: float | None) -> Release:
        told = self.asked.told(request.run) if isinstance(request, EvaluateRequest) else None
        return gate.describe(reply, federation=self.federation, run=run, norm=norm, evaluations=told)

    def _hold(self, reply: TrainReply, release: Release, began: float) -> None:
        left = self.federation.rounds.deadline_seconds - (time.monotonic() - began)
        if self.state is None:
            raise PolicyError("This site holds every update for its operator (policy.hold), but has no outbox.")
        outbox.wait(self.state, reply.update, release, seconds=max(0.0, min(self.policy.hold_seconds, left)))

    def _record(self, reply: Reply, release: Release) -> Reply:
        if self.receipts is None:
            return reply
        try:
            self.receipts.append(release)
        except StoreError as error:
            log.error("nothing leaves: %s", error)
            return Refusal(institution=self.name, kind="failure", reason=NO_RECEIPT)
        return reply

    def examples(self, split: Split) -> list[Example]:
        """The encoded examples of every task, in a fixed order."""
        return [example for task in sorted(self.data) for example in self._split(task, split).examples]

    def draw_examples(self, chance: Chance) -> list[Example]:
        """The training examples of one epoch; where a task has an augmentation, each is reworded by its own chance."""
        examples = []
        for task in sorted(self.data):
            if task in self.rewordings:
                reword, held = self.rewordings[task], self.records(task, "train")
                records = [reword(record, chance(task, number)) for number, record in enumerate(held)]
                length = self.federation.backbone.max_length
                encoded = self.model.tasks[task].encode(records, self.model.tokenizer, length)
                examples += mark_known(encoded, self.model.tasks[task], self._split(task, "train").annotates)
            else:
                examples += self._split(task, "train").examples
        return examples

    def records(self, task: str, split: Split) -> Sequence[Record]:
        """The records of one task."""
        return self._split(task, split).records

    def _split(self, task: str, split: Split) -> TaskData:
        return self.data[task].get(split, TaskData((), ()))

    def _check(self, request: Request) -> None:
        """Whether the request may be answered at all, before anything of it is read."""
        if request.spec_digest != self.federation.digest:
            raise RefusalError(
                f"This site has approved the federation file with digest {self.federation.digest[:12]}..., but the "
                f"request is under {shown(request.spec_digest, 20)}; bring the same federation.toml to both sides."
            )
        check_request(self.policy, request, self.federation, self.owners)
        if isinstance(request, TrainRequest | EvaluateRequest):
            requests.check_request(request, self.federation)

    def _describe(self) -> QueryReply:
        records = {
            task: {split: len(data.records) for split, data in splits.items()} for task, splits in self.data.items()
        }
        return QueryReply(
            institution=self.name,
            records=records,
            software=version("collegium"),
            rank=rank_of(self.model.encoder),
            base=self.model.base.version,
            labels=self._inventory(),
            readiness=self.readiness,
        )

    def _inventory(self) -> dict[str, dict[str, int]]:
        """Per task with labels, how many training records bear each of those that this site annotates."""
        inventory = {}
        for name in self.data:
            task, data = self.model.tasks[name], self._split(name, "train")
            if task.labels:
                borne = Counter(label for record in data.records for label in set(task.labels_of(record)))
                inventory[name] = {label: borne[label] for label in data.annotates or task.labels}
        return inventory

    def _receive(self, request: TrainRequest | EvaluateRequest, own: Arrays) -> tuple[Received, Arrays]:
        """What came in a request, and of it what is to be loaded.

        Nothing has been touched yet: neither the model, nor a record, nor a budget.

        Args:
            request: From the coordinator.
            own: What this site keeps of the state itself.
        """
        controlled = isinstance(request, TrainRequest) and self.federation.training.scaffold
        control = self._sent_shapes(request.round) if controlled else {}
        shapes = self._shapes(lambda name: is_received(name, self.federation.method))
        received = read_state(request, self.federation, *(of_tasks(each, self.data) for each in (shapes, control)))
        check_tasks(self.policy, received.tasks)
        return received, check_state(received, self.model, self.federation, control, own)

    def _load(
        self, request: TrainRequest | EvaluateRequest, received: Received, arrays: Arrays, own: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Load a state; the arrays that the site may train, and everybody's control variates."""
        if request.base_version:
            self.model.base.move(received.steps, since=request.base_since, version=request.base_version)
        set_state(self.model, arrays, received=self.federation.method)
        set_some(self.model, own)
        state = received.state
        return select({**state.model, **own}, self.data.keys()), of_tasks(state.control, self.data.keys())

    def _train(self, request: TrainRequest, run: str | None) -> tuple[TrainReply, float]:
        """The reply, and the norm of the update in it."""
        kept = self.keep.before(request.run, request.round)
        own = self.initial | kept.get(HOME, {})
        came, arrays = self._receive(request, own)
        variates = self._variates(request)
        self.asked.train(request.run, request.round)
        received, control = self._load(request, came, arrays, own)
        set_trained(self.model.encoder, self.federation.method.factors(request.round))
        importance = Importance(self.model.encoder) if self.federation.adapter.prunes else None
        hooks: list[Hook] = [importance] if importance else []
        if control:
            hooks.append(Correction({name: c - variates.get(name, np.float32(0)) for name, c in control.items()}))
        known = parse_head(request.ledger) if request.ledger else None
        spending = self.account.spend(round=request.round, run=run, known=known) if self.account else nullcontext()
        with spending as private:
            outcome = trainer.train(
                self.model,
                self.examples("train"),
                self.federation.training,
                seed=trainer.derive_seed(self.federation.seed, self.name, request.round),
                stage=trainer.Stage(request.round, request.rounds, self._balance_before(request.round)),
                augment=self.draw_examples if self.rewordings else None,
                private=private,
                hooks=[*hooks, LoggedProgress(f"round {request.round}")],
            )
        self.balances[request.round] = outcome.balance
        parcel = self._pack(request, received, kept, variates, control, importance, outcome.rates)
        reply = TrainReply(
            institution=self.name,
            round=request.round,
            examples={task: len(self.records(task, "train")) for task in self.data},
            losses=outcome.losses,
            steps=outcome.steps,
            seconds=outcome.seconds,
            update=parcel.blob,
            epsilon=self.account.epsilon() if self.account else None,
            ledger=str(self.account.head) if self.account and self.account.head else None,
        )
        return reply, parcel.norm

    def _pack(
        self,
        request: TrainRequest,
        received: Arrays,
        kept: Parts,
        variates: Arrays,
        control: Arrays,
        importance: Importance | None,
        rates: tuple[float, float],
    ) -> gate.Parcel:
        """Pack what the model has moved since `received`, and keep what stays here."""
        method, trained, coding = self.federation.method, get_state(self.model), self.federation.wire.coding_up
        if method.aligns:
            trained = align(trained, received, round=request.round)
        ranks = ranks_of(received)
        if importance:
            trained = cut(trained, ranks)
        update, shapes = difference(trained, received), self._sent_shapes(request.round)
        sent = {name: array for name, array in update.items() if is_sent(name, method, request.round)}
        residual = kept.get(RESIDUAL, {})
        if coding.codec == "top-k":
            sent, residual = codec.with_feedback(sent, residual, coding)
        mattering = cut_importance(importance.shares(), ranks) if importance else {}
        parcel = gate.pack(
            Update(sent, renew(control, update, rates), mattering),
            shapes=update_shapes(shapes, ranks) if importance else Update(shapes, shapes if control else {}),
            tasks=self.data.keys(),
            coding=coding,
            policy=self.policy,
            rng=np.random.default_rng(trainer.derive_seed(self.federation.seed, self.name, request.round)),
        )
        changes = parcel.update.control
        home = {name: trained[name] for name in received if is_kept(name, method.keeps)}
        moved = variates | {name: variates.get(name, np.float32(0)) + change for name, change in changes.items()}
        parts = {HOME: home, VARIATES: moved, RESIDUAL: residual}
        if any(parts.values()):
            self.keep.after(request.run, request.round, {part: held for part, held in parts.items() if held})
        return parcel

    def _variates(self, request: TrainRequest) -> Arrays:
        """This site's control variates: those of the last round in which its update was taken."""
        if not request.taken:
            return {}
        kept = self.keep.upto(request.run, request.taken).get(VARIATES)
        if kept is None:
            raise RefusalError(
                f"Expected this site's control variates of round {request.taken} of run {request.run}, but it keeps "
                "none; bring its state folder back, or let the run go on without it."
            )
        return kept

    def _sent_shapes(self, round: int) -> dict[str, tuple[int, ...]]:
        """Of what institutions send of the model in a round, with the heads of all tasks."""
        return self._shapes(lambda name: is_sent(name, self.federation.method, round))

    def _shapes(self, wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in tensors(self.model).items() if wanted(name)}

    def _balance_before(self, round: int) -> State | None:
        """The balance after the last round before; a new run, or a round trained again, forgets those since."""
        for number in [number for number in self.balances if number >= round]:
            del self.balances[number]
        return self.balances[max(self.balances)] if self.balances else None

    def _evaluate(self, request: EvaluateRequest, run: str | None) -> EvaluateReply:
        started = time.perf_counter()
        purpose = purpose_of(request, self.federation)
        own = self.initial | self.keep.upto(request.run, request.round).get(HOME, {})
        came, arrays = self._receive(request, own)
        before = self.asked.evaluate(request, purpose, self.policy.max_evaluations)
        self._load(request, came, arrays, own)
        if before:
            return before
        if request.released and self.federation.fine_tunes:
            personal.fine_tune(
                self.model,
                self.examples("train"),
                self.federation,
                institution=self.name,
                augment=self.draw_examples if self.rewordings else None,
                hooks=[LoggedProgress("the fine-tune")],
            )
        keep = partial(self._keep_model, request) if request.released and self.state and self.receipts else None
        try:
            reply = self._score(request, run)
        except BudgetError:  # the released model comes with this request, whether or not it may be scored
            if keep:
                keep({})
            raise
        reply = disclose_evaluation(self.policy, reply, self.owners)
        reply = replace(reply, seconds=time.perf_counter() - started)
        if keep:
            keep(reply.scores)
        self.asked.answered(request, purpose, reply)
        return reply

    def _score(self, request: EvaluateRequest, run: str | None) -> EvaluateReply:
        """The scores of a split under the model's present state, as they are or private."""
        shown = offered(self.policy, self.owners)
        held = {task: splits[request.split] for task, splits in self.data.items() if request.split in shown[task]}
        precision, private = self.federation.training.precision, self.evaluations if held else None
        if private:
            with private.spend(request.split, round=request.round, run=run) as sums:
                scores = private_scores(self.model, held, sums, precision)
        else:
            scores = {task: score(self.model, task, self.data[task], request.split, precision) for task in held}
        return EvaluateReply(
            institution=self.name,
            round=request.round,
            split=request.split,
            examples={task: len(data.records) for task, data in held.items()},
            scores=scores,
            seconds=0.0,
            epsilon=private.epsilon(request.split) if private else None,
            ledger=str(private.head) if private and private.head else None,
        )

    def _keep_model(self, request: EvaluateRequest, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Keep the institution's own model of the released round, with the scores that are told of it."""
        assert self.state
        settings = {task: tuned for task in self.data if (tuned := tune(self.model, task, self.data[task]))}
        about = {"institution": self.name, "run": request.run, "round": request.round, "scores": scores}
        about |= {"settings": settings}
        personal.keep_model(self.state, self.model, self.federation, tasks=self.data.keys(), about=about)
