"""One run in progress: what is known of its institutions, asking them, and recording how they answered."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from flwr.serverapp import Grid

from server.aggregation import Cut
from server.aggregation.mixed_ranks import narrow
from server.rounds.asking import Answer, online
from server.rounds.asking import ask as ask_all
from server.rounds.replies import Holdings
from server.store import Reply, Store
from shared import codec
from shared.adapter import base_codec, is_received, of_tasks
from shared.errors import QuorumError, ReplyError, plain
from shared.federation import Federation
from shared.model.allocation import cut, ranks_left
from shared.model.lowrank import add_up
from shared.protocol import EvaluateReply, Request, TrainedReply, TrainReply
from shared.state import Broadcast, pack_broadcast, pack_steps
from shared.tasks import Task, build_task

Announce = Callable[[str], None]
R = TypeVar("R")
T = TypeVar("T")
LEDGER = re.compile(r"\d{1,18}:[0-9a-f]{64}", re.ASCII)
"""Number and SHA-256 of a ledger's entry."""


@dataclass
class Run:
    """One run in progress: its agreement, its store, and what is known of the institutions."""

    grid: Grid
    federation: Federation
    store: Store
    run_id: str
    announce: Announce
    idle_seconds: float
    announced: dict[str, Holdings] = field(default_factory=dict)
    """What each institution holds that has answered the query."""
    trouble: dict[str, Answer] = field(default_factory=dict)
    """Institutions whose last answer was none or a bad one: they are asked again what they hold."""
    bases: dict[str, str] = field(default_factory=dict)
    """The version of each institution's frozen weights, as far as is known."""
    scored: set[str] = field(default_factory=set)
    """Institutions that have scored the initial state."""
    cuts: dict[tuple[str, str, str], Cut] = field(default_factory=dict)
    """By split, task and institution, the count that was last said to be above its share."""

    def say(self, text: str) -> None:
        """Announce, and keep for whoever follows the run."""
        self.store.add_event(self.run_id, text)
        self.announce(text)


def build_tasks(this: Run) -> dict[str, Task]:
    """The federation's tasks."""
    return {name: build_task(name, spec) for name, spec in this.federation.tasks.items()}


def ask(
    this: Run, requests: Mapping[str, Request], kind: str, *, quorum: int = 0, longest: float = math.inf
) -> Iterator[Answer]:
    """Ask whoever is still online; nobody is waited for beyond the deadline or `longest` seconds."""
    nodes = online(this.grid)
    for name in requests.keys() - nodes.keys():
        yield Answer(name, None, "missing", "gone offline just before it was asked")
    yield from ask_all(
        this.grid,
        {name: request for name, request in requests.items() if name in nodes},
        nodes,
        group=kind,
        deadline_seconds=min(longest, this.federation.rounds.deadline_seconds),
        quorum=quorum,
        idle_seconds=this.idle_seconds,
    )


def checked(answer: Answer, kind: type[R], check: Callable[[R, str], T]) -> tuple[Answer, T | None]:
    """What `check` makes of a good reply; of another, the answer with the reason why it is dropped."""
    if answer.status != "ok":
        return answer, None
    try:
        if not isinstance(answer.reply, kind):
            raise ReplyError(f"Expected a {kind.__name__}, but a {type(answer.reply).__name__} came.")
        return answer, check(answer.reply, answer.institution)
    except ReplyError as error:
        return replace(answer, status="dropped", reason=str(error)), None


def record(
    this: Run,
    number: int,
    kind: str,
    answer: Answer,
    *,
    examples: Mapping[str, int] | None = None,
    losses: Mapping[str, float] | None = None,
) -> None:
    """Record how an institution answered, loudly if badly."""
    reason = None if answer.reason is None else plain(answer.reason)
    row = Reply(
        round=number,
        kind=kind,
        institution=answer.institution,
        status=answer.status,
        refusal=answer.refusal,
        reason=reason,
        bytes_up=answer.bytes_up,
        bytes_down=answer.bytes_down,
        seconds=answer.seconds,
        examples=examples,
        losses=losses,
    )
    this.store.add_reply(this.run_id, row)
    if answer.status == "ok":
        this.trouble.pop(answer.institution, None)
    else:
        said = replace(answer, reason=reason, reply=None)
        this.trouble[answer.institution] = said
        this.say(f"{answer.institution} {answer.status} ({kind}, round {number}): {said.why}")


def record_spending(this: Run, number: int, institution: str, reply: TrainReply | TrainedReply) -> None:
    """Record what the institution says that its data have spent, and the last entry of its privacy ledger."""
    if reply.epsilon is None or not math.isfinite(reply.epsilon):
        return
    ledger = reply.ledger if reply.ledger and LEDGER.fullmatch(reply.ledger) else None
    this.store.add_spending(this.run_id, number, institution, reply.epsilon, ledger)


def record_cuts(this: Run, number: int, split: str, cuts: Sequence[Cut]) -> None:
    """Record counts that were above `rounds.max_share`, and say those that have not been said."""
    this.store.add_cuts(this.run_id, number, split, cuts)
    share = this.federation.rounds.max_share
    for one in cuts:
        if this.cuts.get((split, one.task, one.institution)) != one:
            this.cuts[split, one.task, one.institution] = one
            this.say(
                f"{one.institution}'s {one.told:,} {split} records of {one.task} count as {one.used:,.0f}, which is "
                f"all that rounds.max_share = {share:g} leaves to one institution"
            )


def record_evaluation(this: Run, number: int, institution: str, reply: EvaluateReply) -> None:
    """Record what the institution says that scores have cost the owners of a split, where they are private."""
    if reply.epsilon is None or not math.isfinite(reply.epsilon):
        return
    ledger = reply.ledger if reply.ledger and LEDGER.fullmatch(reply.ledger) else None
    this.store.add_evaluation(this.run_id, number, institution, reply.split, reply.epsilon, ledger)


def record_absent(this: Run, number: int, requests: Mapping[str, Request]) -> None:
    """Record the institutions that this round goes without, and why."""
    nodes = online(this.grid)
    for name in this.federation.rounds.institutions:
        if name in requests:
            continue
        trouble = this.trouble.get(name)
        if name in nodes and trouble:
            answer = Answer(name, None, trouble.status, f"not asked to train: {trouble.why}")
        else:
            answer = Answer(name, None, "missing", "not online when the round began")
        record(this, number, "train", answer)


def encode_state(
    this: Run,
    model: Mapping[str, np.ndarray],
    round: int,
    names: Sequence[str],
    control: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, bytes]:
    """What each institution needs of a model, encoded once for all that hold the same tasks at the same rank.

    The round that the model comes from decides how a codec rounds by chance: the next round trains what was validated.
    Control variates, if any, go beside it.
    """
    told = {name: array for name, array in model.items() if is_received(name, this.federation.method)}
    if this.federation.adapter.prunes:
        told = cut(told, ranks_left(told))
    held = {name: (frozenset(this.announced[name].records), this.announced[name].rank) for name in names}
    made = {
        (tasks, rank): codec.encode(
            pack_broadcast(Broadcast(narrow(of_tasks(told, tasks), rank), of_tasks(control, tasks))),
            this.federation.wire.coding_down,
            np.random.default_rng([this.federation.seed, round]),
        )
        for tasks, rank in set(held.values())
    }
    return {name: made[kind] for name, kind in held.items()}


@dataclass(frozen=True)
class BaseSteps:
    """What an institution's frozen weights must be moved by; see `shared.protocol.TrainRequest`."""

    base: bytes = b""
    base_since: str = ""
    base_version: str = ""


def encode_base(this: Run, round: int, names: Sequence[str]) -> dict[str, BaseSteps]:
    """By institution, what its frozen weights lack of those after a round, as far as is known of them."""
    if not this.federation.method.folds:
        return dict.fromkeys(names, BaseSteps())
    since = {name: _base_round(this, this.bases.get(name, ""), round) for name in names}
    made = {
        first: BaseSteps(
            _steps(this, first, round), base_version(this, first) if first else "", base_version(this, round)
        )
        for first in set(since.values())
    }
    return {name: made[first] for name, first in since.items()}


def base_version(this: Run, round: int) -> str:
    """What the frozen weights are called after a round."""
    return f"{this.run_id}:{round}"


def _base_round(this: Run, version: str, most: int) -> int:
    """The round that a version is of; 0, where everybody can begin, if it is of another run or a later round."""
    return next((round for round in range(most, 0, -1) if base_version(this, round) == version), 0)


def _steps(this: Run, first: int, last: int) -> bytes:
    """The steps of the rounds after `first` up to `last`, added up."""
    rounds = [this.store.load_checkpoint(this.run_id, round).steps for round in range(first + 1, last + 1)]
    return codec.encode(pack_steps(add_up(rounds)), base_codec(this.federation.wire.down)) if rounds else b""


def present(this: Run) -> list[str]:
    """Institutions that can be asked now, in the federation's order: known, online, and not silent when last asked."""
    nodes = online(this.grid)
    silent = {name for name, answer in this.trouble.items() if answer.status == "missing"}
    return [n for n in this.federation.rounds.institutions if n in this.announced and n in nodes and n not in silent]


def require_quorum(this: Run, number: int, taken: Collection[str]) -> None:
    """Raise QuorumError unless enough institutions have taken part in a round."""
    agreed = this.federation.rounds
    if len(taken) < agreed.quorum:
        without = ", ".join(sorted(set(agreed.institutions) - set(taken)))
        raise QuorumError(
            f"Expected at least {agreed.quorum} valid updates in round {number}, but {len(taken)} came (without "
            f"{without}); round {number - 1} is kept, so mend those institutions and resume the run."
        )
