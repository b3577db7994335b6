"""One run in progress: who takes part and what is known of them, asking them, and recording how they answered."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TypeVar

import sqlalchemy as sa
from flwr.serverapp import Grid

from server.aggregation import Cut
from server.rounds import asking
from server.rounds.asking import Answer, Look
from server.rounds.replies import Holdings
from server.store import Reply, Store, replies, withdrawn
from shared.errors import LONGEST_LINE, ConfigError, QuorumError, ReplyError, joined, listed, plain
from shared.federation import Federation
from shared.federation.changes import describe_changes
from shared.protocol import PROTOCOL_VERSION, EvaluateReply, Request, TrainedReply, TrainReply
from shared.tasks import Task, build_task
from shared.watching.logs import about

Announce = Callable[[str], None]
R = TypeVar("R")
T = TypeVar("T")
YEAR = 365 * 86400.0
LEDGER = re.compile(r"\d{1,18}:[0-9a-f]{64}", re.ASCII)
"""Number and SHA-256 of a ledger's entry."""


@dataclass
class Seat:
    """One institution's place in a run, and what is known of it."""

    holdings: Holdings | None = None
    """What it has announced; None until it has answered the query."""
    trouble: Answer | None = None
    """Its last answer, if that was none or a bad one: it is asked again what it holds."""
    base: str = ""
    """The version of its frozen weights, as far as is known."""
    scored: bool = False
    """Whether it has scored the initial state."""
    version: int = PROTOCOL_VERSION
    """Of the protocol that it speaks, as far as is known."""
    cuts: dict[tuple[str, str], Cut] = field(default_factory=dict)
    """By split and task, its count that was last announced as above its share."""

    @property
    def silent(self) -> bool:
        """Whether no answer came when it was last asked."""
        return self.trouble is not None and self.trouble.status == "missing"


@dataclass
class Run:
    """One run in progress."""

    grid: Grid
    federation: Federation
    store: Store
    run_id: str
    announce: Announce
    look: Look
    """Waits for replies."""
    patient: bool = False
    """Whether a quorum that is away is waited for without an end: in a deployment it may come back."""
    gone: set[str] = field(init=False, default_factory=set)
    """Institutions that have withdrawn, as far as is known."""
    seats: dict[str, Seat] = field(init=False)
    """One for every institution that the federation file names, in its order."""

    def __post_init__(self) -> None:
        self.seats = {name: Seat() for name in self.federation.rounds.institutions}

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The federation's."""
        return {name: build_task(name, spec) for name, spec in self.federation.tasks.items()}

    def go_on_under(self, federation: Federation, round: int) -> None:
        """Have the rest of the run be under an agreement that only adds to this one: all are asked anew what they hold.

        The store has it first, so that a run that dies now goes on under it.
        """
        self.store.change_agreement(self.run_id, federation)
        changes = joined(describe_changes(self.federation, federation), "; ")
        self.say(f"From round {round} on under the agreement {federation.digest[:12]}...: {changes}")
        self.federation = federation
        for seat in self.seats.values():
            seat.holdings = None
        self.seats |= {name: Seat() for name in federation.rounds.institutions if name not in self.seats}

    @property
    def announced(self) -> dict[str, Holdings]:
        """What each institution holds that has answered the query."""
        return {name: seat.holdings for name, seat in self.seats.items() if seat.holdings is not None}

    def base_version(self, round: int) -> str:
        """What the frozen weights are called after a round."""
        return f"{self.run_id}:{round}"

    def say(self, text: str) -> None:
        """Announce, and keep for whoever follows the run; what is longer than LONGEST_LINE is cut."""
        text = plain(text, LONGEST_LINE)
        self.store.add_event(self.run_id, text)
        self.announce(text)

    def is_to_pause(self) -> bool:
        """Whether the operator wants the run to pause."""
        return bool(self.store.run(self.run_id)["pausing"])

    def note_withdrawals(self, number: int) -> None:
        """Go on without those who have withdrawn by a round, and with those of whom that was said in error.

        Raises:
            ConfigError: So many have that there is no quorum any more.
        """
        gone = withdrawn(self.store).keys() & self.seats.keys()
        for name in sorted(gone ^ self.gone):
            how = "without" if name in gone else "again with"
            self.say(f"From round {number} on {how} {name}, which has {'' if name in gone else 'not '}withdrawn")
        self.gone = set(gone)
        if len(self.seats) - len(gone) < (quorum := self.federation.rounds.quorum):
            raise ConfigError(
                f"Expected at least {quorum} institutions, but of {listed(self.seats)} {joined(sorted(gone))} have "
                "withdrawn; offer an agreement with a smaller quorum, and start a new run by `collegium server run "
                "--from`."
            )

    def online(self) -> dict[str, int]:
        """Node ids of whoever is online and has not withdrawn, by name."""
        return {name: node for name, node in asking.online(self.grid).items() if name not in self.gone}

    def present(self) -> list[str]:
        """Institutions that can be asked now: known, online, and not silent when last asked."""
        nodes = self.online()
        return [name for name, seat in self.seats.items() if seat.holdings and name in nodes and not seat.silent]

    def ask(
        self, requests: Mapping[str, Request], kind: str, *, quorum: int = 0, longest: float = math.inf
    ) -> Iterator[Answer]:
        """Ask whoever is still online; nobody is waited for beyond the deadline or `longest` seconds.

        Who dies with a request is asked once more when it is back, unless that would cost its records privacy a second
        time, or the request is about secrets that it has lost.
        """
        again = kind == "query" or (kind in ("train", "evaluate") and not self.federation.privacy)
        nodes = self.online()
        self._note_asking(requests, kind, min(longest, self.federation.rounds.deadline_seconds))
        for name in requests.keys() - nodes.keys():
            yield Answer(name, None, "missing", "gone offline just before it was asked")
        behind: dict[str, Request] = {}
        for answer in asking.ask(
            self.grid,
            {name: request for name, request in requests.items() if name in nodes},
            nodes,
            group=kind,
            deadline_seconds=min(longest, self.federation.rounds.deadline_seconds),
            quorum=quorum,
            again=again,
            tell=self.say,
            versions={name: seat.version for name, seat in self.seats.items()},
            look=self.look,
        ):
            if answer.status == "refused" and self._is_behind(answer):
                behind[answer.institution] = requests[answer.institution]
            else:
                yield answer
        if behind:
            yield from self.ask(behind, kind, quorum=quorum, longest=longest)

    def _is_behind(self, answer: Answer) -> bool:
        """Whether an institution speaks an earlier version than it was asked in, as is learnt by this."""
        seat = self.seats[answer.institution]
        if answer.version is None or answer.version >= seat.version:
            return False
        seat.version = answer.version
        self.say(f"{answer.institution} has the release before this one, and is asked as that one asks")
        return True

    def _note_asking(self, requests: Mapping[str, Request], kind: str, seconds: float) -> None:
        """Keep for whoever looks: whom the run waits for from now on, and how long at most."""
        if not requests:
            return
        now = datetime.now(UTC)
        last = sa.select(sa.func.max(replies.c.id).label("id")).where(replies.c.run == self.run_id)
        asking = {
            "round": getattr(next(iter(requests.values())), "round", None),
            "kind": kind,
            "since": now.isoformat(timespec="seconds"),
            "until": (now + timedelta(seconds=min(seconds, YEAR))).isoformat(timespec="seconds"),
            "names": sorted(requests),
            "after": self.store.select(last)[0]["id"] or 0,
        }
        self.store.update_run(self.run_id, asking=asking)

    def require_quorum(self, number: int, taken: Collection[str]) -> None:
        """Raise QuorumError unless enough institutions have taken part in a round."""
        agreed = self.federation.rounds
        if len(taken) < agreed.quorum:
            without = joined(sorted(set(agreed.institutions) - set(taken)))
            raise QuorumError(
                f"Expected at least {agreed.quorum} valid updates in round {number}, but {len(taken)} came (without "
                f"{without}); round {number - 1} is kept, so mend those institutions and resume the run."
            )

    def record(
        self,
        number: int,
        kind: str,
        answer: Answer,
        *,
        examples: Mapping[str, int] | None = None,
        losses: Mapping[str, float] | None = None,
        software: str | None = None,
    ) -> None:
        """Record how an institution answered, loudly if badly."""
        seat, reason = self.seats[answer.institution], None if answer.reason is None else plain(answer.reason)
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
            software=software,
        )
        self.store.add_reply(self.run_id, row)
        if answer.status == "ok":
            seat.trouble = None
        else:
            seat.trouble = replace(answer, reason=reason, reply=None)
            with about(institution=answer.institution):
                self.say(f"{answer.institution} {answer.status} ({kind}, round {number}): {seat.trouble.why}")

    def record_absent(self, number: int, requests: Mapping[str, Request]) -> None:
        """Record the institutions that this round goes without, and why."""
        nodes = self.online()
        missing = self.seats.keys() - requests.keys() - self.gone
        for name, trouble in [(name, seat.trouble) for name, seat in self.seats.items() if name in missing]:
            if name in nodes and trouble:
                answer = Answer(name, None, trouble.status, f"not asked to train: {trouble.why}")
            else:
                answer = Answer(name, None, "missing", "not online when the round began")
            self.record(number, "train", answer)

    def record_spending(self, number: int, institution: str, reply: TrainReply | TrainedReply) -> None:
        """Record what the institution says that its data have spent, and the last entry of its privacy ledger."""
        if reply.epsilon is not None and math.isfinite(reply.epsilon):
            self.store.add_spending(self.run_id, number, institution, reply.epsilon, _head(reply.ledger))

    def record_evaluation(self, number: int, institution: str, reply: EvaluateReply) -> None:
        """Record what the institution says that scores have cost the owners of a split, where they are private."""
        if reply.epsilon is not None and math.isfinite(reply.epsilon):
            head = _head(reply.ledger)
            self.store.add_evaluation(self.run_id, number, institution, reply.split, reply.epsilon, head)

    def record_cuts(self, number: int, split: str, cuts: Sequence[Cut]) -> None:
        """Record counts that were above `rounds.max_share`; announce new ones."""
        self.store.add_cuts(self.run_id, number, split, cuts)
        share = self.federation.rounds.max_share
        for one in cuts:
            known = self.seats[one.institution].cuts
            if known.get((split, one.task)) != one:
                known[split, one.task] = one
                self.say(
                    f"{one.institution}'s {one.told:,} {split} records of {one.task} count as {one.used:,.0f}: "
                    f"rounds.max_share = {share:g} limits the weight of one institution"
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


def _head(ledger: str | None) -> str | None:
    """The reported head of a ledger, if it is one."""
    return ledger if ledger and LEDGER.fullmatch(ledger) else None
