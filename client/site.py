"""One institution at work: its data, the warm model, and the answer to each request."""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from client import gate, outbox, personal, trainer
from client.augmentation import Rewording, open_rewording
from client.data.loading import TaskData, load_data, mark_known
from client.data.readiness import examine, summary
from client.importance import Importance
from client.institution import Data, Institution, load_institution
from client.keep import Keep
from client.policy import Owners, Policy, check_request, check_tasks, disclose, offered
from client.privacy.account import Account, count_owners, open_account, open_ledger, parse_head
from client.privacy.ledger import Ledger
from client.receipts import Receipts, Release
from client.rotation import align
from client.secagg import SecureRounds
from shared import codec
from shared.adapter import (
    base_codec,
    difference,
    get_state,
    is_kept,
    is_sent,
    select,
    set_some,
    set_state,
    task_of,
    tensors,
    unpack_steps,
)
from shared.allocation import cut, fill, ranks_of, update_shapes
from shared.balancing import State
from shared.codec import Arrays
from shared.errors import (
    BudgetError,
    CollegiumError,
    ConfigError,
    DataError,
    HeldError,
    PolicyError,
    ProtocolError,
    RefusalError,
    StoreError,
)
from shared.federation import Federation, load_federation
from shared.lora import rank_of, set_trained
from shared.model import MultiTaskModel, build_model
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    MaskReply,
    QueryReply,
    QueryRequest,
    Refusal,
    RefusalKind,
    Reply,
    Request,
    Split,
    TrainReply,
    TrainRequest,
)
from shared.tasks import Example, Record

log = logging.getLogger("collegium.client")
PROGRESS_SECONDS = 10.0
"""How often training says in the log how far it is."""
KINDS: tuple[tuple[type[CollegiumError], RefusalKind], ...] = (
    (PolicyError, "policy"),
    (HeldError, "held"),
    (BudgetError, "budget"),
    (RefusalError, "agreement"),
    (ProtocolError, "request"),
    (DataError, "data"),
)
"""What a refusal is called; another error is a failure."""
UNSAID = "This site could not answer; its own log says why."
"""The reason of a failure: an error that is no answer to the coordinator may quote a path or a record."""
HOME = "home"
"""What `Method.keeps` names, in the site's memory of its rounds."""
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
    state: Path | None = None
    """Where updates that are held wait."""
    receipts: Receipts | None = None
    """Where everything that leaves is recorded; None in the simulator."""
    keep: Keep = field(default_factory=Keep)
    """What stays here from round to round."""
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
            self._check_agreement(request)
            check_request(self.policy, request, self.federation, self.owners)
            reply: Reply
            reply, norm = self._work(request, run)
            reply = disclose(self.policy, reply, self.owners)
            release = gate.describe(reply, federation=self.federation, run=run, norm=norm)
            if isinstance(reply, TrainReply) and self.policy.hold:
                self._hold(reply, release, began)
            if isinstance(reply, TrainReply) and self.federation.secure_aggregation:
                reply = self.secure.keep(reply, self.federation)
                release = gate.describe(reply, federation=self.federation, run=run, norm=norm)
        except CollegiumError as error:
            reply = self._refusal(error)
            release = gate.describe(reply, federation=self.federation, run=run)
        return self._record(reply, release)

    def _work(self, request: Request, run: str | None) -> tuple[Reply, float | None]:
        """What the request asks for, and the norm of the update in it."""
        if isinstance(request, TrainRequest):
            return self._train(request, run)
        if isinstance(request, EvaluateRequest):
            return self._evaluate(request), None
        if isinstance(request, QueryRequest):
            return self._describe(), None
        shapes = self._sent_shapes(request.round)
        reply = self.secure.answer(request, name=self.name, federation=self.federation, shapes=shapes)
        if isinstance(reply, MaskReply):
            gate.check_size(reply.update, self.policy)
        return reply, None

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

    def _refusal(self, error: CollegiumError) -> Refusal:
        log.error("refused: %s", error)
        kind: RefusalKind = next((kind for of, kind in KINDS if isinstance(error, of)), "failure")
        reason = UNSAID if kind in ("data", "failure") else str(error)
        if self.state is not None:
            reason = reason.replace(f"{self.state}{os.sep}", "").replace(str(self.state), "its state folder")
        return Refusal(institution=self.name, kind=kind, reason=reason)

    def examples(self, split: Split) -> list[Example]:
        """The encoded examples of every task, in a fixed order."""
        return [example for task in sorted(self.data) for example in self._split(task, split).examples]

    def draw_examples(self, rng: np.random.Generator) -> list[Example]:
        """The training examples of one epoch: texts of tasks with an augmentation are reworded anew."""
        examples = []
        for task in sorted(self.data):
            if task in self.rewordings:
                records = [self.rewordings[task](record, rng) for record in self.records(task, "train")]
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

    def _check_agreement(self, request: Request) -> None:
        if request.spec_digest != self.federation.digest:
            raise RefusalError(
                f"This site has approved the federation file with digest {self.federation.digest[:12]}..., but the "
                f"request is under {request.spec_digest[:12]}...; bring the same federation.toml to both sides."
            )

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

    def _load(self, request: TrainRequest | EvaluateRequest, kept: Mapping[str, np.ndarray]) -> Arrays:
        """Load the state in a request, and what this site keeps of its own; the arrays that it may train."""
        arrays = codec.decode(request.state, self.federation.wire.codec)
        check_tasks(self.policy, {task for name in arrays if (task := task_of(name))})
        if request.base_version:
            steps = (
                unpack_steps(codec.decode(request.base, base_codec(self.federation.wire.codec))) if request.base else {}
            )
            self.model.base.move(steps, since=request.base_since, version=request.base_version)
        whole = {name: tuple(p.shape) for name, p in tensors(self.model).items()}
        filled = fill(arrays, whole) if self.federation.adapter.type == "adalora" else arrays
        set_state(self.model, filled, received=self.federation.method)
        own = {**self.initial, **kept}
        set_some(self.model, own)
        return select(arrays | own, self.data.keys())

    def _train(self, request: TrainRequest, run: str | None) -> tuple[TrainReply, float]:
        """The reply, and the norm of the update in it."""
        kept = self.keep.before(request.run, request.round)
        received = self._load(request, kept.get(HOME, {}))
        set_trained(self.model.encoder, self.federation.method.factors(request.round))
        importance = Importance(self.model.encoder) if self.federation.adapter.type == "adalora" else None
        known = parse_head(request.ledger) if request.ledger else None
        spending = self.account.spend(round=request.round, run=run, known=known) if self.account else nullcontext()
        with spending as private:
            outcome = trainer.train(
                self.model,
                self.examples("train"),
                self.federation.training,
                seed=trainer.derive_seed(self.federation.seed, self.name, request.round),
                round=request.round,
                rounds=request.rounds,
                balance=self._balance_before(request.round),
                augment=self.draw_examples if self.rewordings else None,
                private=private,
                watch=importance,
                progress=_Progress(f"round {request.round}"),
            )
        self.balances[request.round] = outcome.balance
        method, trained = self.federation.method, get_state(self.model)
        if self.federation.method_name == "fedrot":
            trained = align(trained, received, round=request.round)
        if importance:
            trained = cut(trained, ranks_of(received))
        update = difference(trained, received)
        home = {name: trained[name] for name in received if is_kept(name, method.keeps)}
        if home:
            self.keep.after(request.run, request.round, {HOME: home})
        shapes = self._sent_shapes(request.round)
        sent = {name: array for name, array in update.items() if is_sent(name, method, request.round)}
        if importance:
            ranks = ranks_of(received)
            sent, shapes = sent | cut(importance.shares(), ranks), update_shapes(shapes, ranks)
        parcel = gate.pack(
            sent,
            shapes=shapes,
            tasks=self.data.keys(),
            codec_name=self.federation.wire.codec,
            policy=self.policy,
        )
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

    def _sent_shapes(self, round: int) -> dict[str, tuple[int, ...]]:
        method = self.federation.method
        return {name: tuple(p.shape) for name, p in tensors(self.model).items() if is_sent(name, method, round)}

    def _balance_before(self, round: int) -> State | None:
        """The balance after the last round before; a new run, or a round trained again, forgets those since."""
        for number in [number for number in self.balances if number >= round]:
            del self.balances[number]
        return self.balances[max(self.balances)] if self.balances else None

    def _evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        started = time.perf_counter()
        self._load(request, self.keep.upto(request.run, request.round).get(HOME, {}))
        if request.released and self.federation.fine_tunes:
            personal.fine_tune(
                self.model,
                self.examples("train"),
                self.federation,
                institution=self.name,
                augment=self.draw_examples if self.rewordings else None,
                progress=_Progress("the fine-tune"),
            )
        shown = offered(self.policy, self.owners)
        held = {task: splits[request.split] for task, splits in self.data.items() if request.split in shown[task]}
        scores = {
            task: score(self.model, task, self.data[task], request.split, self.federation.training.precision)
            for task in held
        }
        if request.released and self.state and self.receipts:
            settings = {task: tune(self.model, task, self.data[task]) for task in self.data}
            about = {"institution": self.name, "run": request.run, "round": request.round, "scores": scores}
            personal.keep_model(
                self.state,
                self.model,
                self.federation,
                tasks=self.data.keys(),
                about={**about, "settings": {task: tuned for task, tuned in settings.items() if tuned}},
            )
        return EvaluateReply(
            institution=self.name,
            round=request.round,
            split=request.split,
            examples={task: len(data.records) for task, data in held.items()},
            scores=scores,
            seconds=time.perf_counter() - started,
        )


def score(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], split: Split, precision: str = "auto"
) -> dict[str, float]:
    """All metrics of one task's records of a split under the model's present state.

    What `Task.tunable` names is tuned on the validation records first, and stands among the metrics.
    """
    told, tuned = model.tasks[task], tune(model, task, splits, precision)
    predictions = trainer.predict(model, told.calibrated(tuned), splits[split].examples, precision=precision)
    return told.score(splits[split].records, predictions) | tuned


def tune(
    model: MultiTaskModel, task: str, splits: Mapping[Split, TaskData], precision: str = "auto"
) -> dict[str, float]:
    """What `Task.tunable` names, as it suits the validation records; nothing where there are none."""
    told = model.tasks[task]
    if not told.tunable or "validation" not in splits:
        return {}
    held = splits["validation"]
    return told.calibrate(held.records, held.examples, trainer.infer(model, held.examples, precision=precision))


def open_site(path: Path, *, model: MultiTaskModel | None = None) -> Site:
    """Load an institution's file, its approved federation, its data, and the model.

    Args:
        path: `institution.toml`.
        model: A model of the same federation to share instead of loading one (the simulator does).

    Raises:
        ConfigError, DataError, BackboneError: What is wrong, in one sentence.
    """
    institution = load_institution(path)
    receipts = Receipts(institution.runtime.state, institution.identity.key)
    federation = load_federation(institution.federation)
    ledger = open_ledger(institution.runtime.state) if federation.privacy else None
    model = model or load_model(institution, federation)
    return build_site(institution, federation, model, receipts=receipts, ledger=ledger)


def build_site(
    institution: Institution,
    federation: Federation,
    model: MultiTaskModel,
    *,
    receipts: Receipts | None = None,
    ledger: Ledger | None = None,
) -> Site:
    """Read and encode the institution's data for the given model.

    Args:
        institution: Its file.
        federation: The agreement that it has approved.
        model: The federation's.
        receipts: Where everything that leaves is recorded; None in the simulator, whose policy is checked all the same.
        ledger: Where private training is charged; None in the simulator.
    """
    if institution.name not in federation.rounds.institutions:
        raise ConfigError(
            f"Expected the institution's name to be among {list(federation.rounds.institutions)} of the federation "
            f"file, but it is {institution.name!r}."
        )
    sources = _allowed(institution)
    data = load_data(sources, model.tasks, model.tokenizer, federation.backbone.max_length)
    rewordings = {
        task: open_rewording(source.augmentation, model.tasks[task])
        for task, source in sources.items()
        if source.augmentation
    }
    readiness = {
        name: examine(
            model.tasks[name],
            {split: list(enumerate(held.records, 1)) for split, held in splits.items()},
            model.tokenizer,
            federation.backbone.max_length,
            annotates=sources[name].annotates,
        )
        for name, splits in data.items()
    }
    columns = {task: sources[task].group_by for task in data}
    return Site(
        institution.name,
        federation,
        model,
        data,
        rewordings,
        summary(readiness),
        policy=institution.policy,
        owners={
            task: {split: count_owners(held.records, columns[task]) for split, held in splits.items()}
            for task, splits in data.items()
        },
        initial={name: array for name, array in get_state(model).items() if is_kept(name, federation.method.keeps)},
        keep=Keep(institution.runtime.state / "rounds" if receipts else None),
        account=open_account(
            {task: splits["train"].records for task, splits in data.items()},
            columns,
            federation=federation,
            policy=institution.policy,
            ledger=ledger,
        )
        if federation.privacy
        else None,
        state=institution.runtime.state,
        receipts=receipts,
    )


def _allowed(institution: Institution) -> dict[str, Data]:
    """The sources of the tasks that may take part."""
    allowed = institution.policy.tasks
    sources = {task: source for task, source in institution.data.items() if allowed is None or task in allowed}
    if left := sorted(institution.data.keys() - sources.keys()):
        log.info("policy.tasks leaves out %s", ", ".join(left))
    if not sources:
        raise ConfigError(
            f"Expected policy.tasks to allow one of the tasks under [data], {sorted(institution.data)}, but it names "
            f"{list(allowed or ())}; correct one of the two."
        )
    return sources


def load_model(institution: Institution, federation: Federation) -> MultiTaskModel:
    """The federation's model on this institution's device."""
    if institution.runtime.threads:
        torch.set_num_threads(institution.runtime.threads)
    rank = institution.adapter.rank or federation.adapter.rank
    if rank not in federation.adapter.ranks:
        ranks = federation.adapter.ranks
        raise ConfigError(
            f"Expected adapter.rank between {ranks.start} and {ranks.stop - 1}, as the federation file allows, "
            f"not {rank}."
        )
    model = build_model(federation, backbone=institution.backbone, rank=rank)
    return model.to(_device(institution.runtime.device))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device must be auto, cpu, cuda or cuda:N as present here, not {name!r}.") from error
    return device


class _Progress:
    """Says in the log, now and then, how far training is."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.said = time.monotonic()

    def __call__(self, done: int, steps: int) -> None:
        now = time.monotonic()
        if done == steps or now - self.said >= PROGRESS_SECONDS:
            log.info("%s: step %d of %d", self.what, done, steps)
            self.said = now
