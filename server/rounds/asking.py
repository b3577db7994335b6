"""Asking institutions something over a Flower Grid, and taking the answers one by one as they come."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from shared.enrolment.messages import GONE
from shared.errors import ProtocolError, joined
from shared.flower.constants import PULL_MAX_TIME, ErrorCode
from shared.flower.messages import NodeInfo
from shared.protocol import (
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    REPLIES,
    Refusal,
    RefusalKind,
    Reply,
    Request,
    blobs_of,
    decode,
    encode,
    version_of,
)

Look = Callable[[Collection[str], float, float], Collection[str]]
"""Called with the ids of messages, the seconds waited for them, and those to wait at most: which may have an answer."""

STATUS_SECONDS = 2.0
"""How often the coordinator looks whether the institutions it waits for are still online."""
LOOK_SECONDS = 5.0
"""The longest wait for a reply at a time: nobody tells that an institution has gone."""
IDLE_SECONDS = 0.05
"""First pause between two looks for replies; Flower's own Grid waits three seconds."""
IDLE_FRACTION = 0.03
"""The pause grows with the time waited, so that a round is noticed to end at most this fraction late."""
LONGEST_IDLE_SECONDS = 1.0
MOST_TRIES = 3
"""How often an institution is sent a request in all, where its process has died with it."""
BLIP_SECONDS = 20.0
"""How long the others wait for an institution that has just gone: its daemon starts what has died in less."""
SHORTEST_PULL_SECONDS = 2.0
"""For arrays of a reply that lies ready when the deadline has passed."""
FIRST_PULL_PAUSE, LONGEST_PULL_PAUSE = 0.1, 1.0
"""Seconds before asking again for an array that has not come yet, doubling; Flower: 1 to 10."""
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, DecodeError)
"""What Flower raises when it unpacks a reply that is not made of its own objects."""

HALF_SENT = "Reply message objects are unavailable"
"""How Flower begins to say that a reply was announced, and its arrays did not come."""

ABSENT = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
"""What Flower answers in the place of an institution that has gone: an absence, not a fault."""


@dataclass(frozen=True)
class Answer:
    """One institution's answer, or why there is none."""

    institution: str
    reply: Reply | None
    status: str
    """ok, refused, dropped (an error or a malformed reply) or missing."""
    reason: str | None = None
    """What came with it, or why there is none."""
    refusal: RefusalKind | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    lost: bool = False
    """Whether the institution had no chance to answer: its process died, or it was cut off."""
    version: int | None = None
    """Of the protocol that it speaks, as far as its answer says."""

    @property
    def why(self) -> str | None:
        """The reason, after the kind of refusal if it is one."""
        return f"{self.refusal}: {self.reason}" if self.refusal else self.reason


@dataclass
class _Open:
    """A request that has no answer yet."""

    request: Request
    version: int
    sent: int = 0
    """Bytes, at the last time."""
    tries: int = 0
    process: str = ""
    """When the process that has it had come online; another time is another process, which knows nothing of it."""
    lost: Answer | None = None
    """Why it must be sent again."""
    lost_at: float = 0.0


def online(grid: Grid) -> dict[str, int]:
    """Node ids of the institutions that are online, by name."""
    return {name: node.node_id for name, node in _present(grid).items()}


def ask(
    grid: Grid,
    requests: Mapping[str, Request],
    nodes: Mapping[str, int],
    *,
    group: str,
    deadline_seconds: float,
    quorum: int,
    again: bool = False,
    versions: Mapping[str, int] | None = None,
    tell: Callable[[str], None] = lambda text: None,
    look: Look | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Answer]:
    """Send each institution its request and yield the answers as they arrive, one in memory at a time.

    A reply whose arrays do not come is given up after the institution's share of the time that is left, so that it does
    not cost the others theirs. Waiting ends at the deadline, or once `quorum` have answered and everybody outstanding
    has gone offline. Who was cut off answers when the network is back: its process still has the request. Messages
    expire with the deadline, so that an institution that comes back late is not given a stale request.

    Args:
        grid: Flower's Grid, or the simulator's.
        requests: One request per institution.
        nodes: Node id per institution.
        group: Flower's group id, here the kind of request.
        deadline_seconds: Longest wait.
        quorum: Fewest good answers that allow to stop waiting for institutions gone offline.
        again: Whether an institution whose process has died with the request is sent it once more when it is back,
            MOST_TRIES times in all.
        versions: Of the protocol, by institution; the latest one if not given.
        tell: Told for whom there is waiting that has gone offline, and how long.
        look: Waits for replies; without one there are `pauses` between two looks.
        clock: Seconds; a test may pass its own.
    """
    _limit_pulls()
    asking = _Asking(grid, group, deadline_seconds, again, tell, look or pauses(), clock)
    for institution, request in requests.items():
        version = (versions or {}).get(institution, PROTOCOL_VERSION)
        if not asking.send(institution, _Open(request, version), nodes[institution]):
            yield Answer(
                institution, None, "missing", "Flower took no message for it; see whether it is still enrolled"
            )
    good = 0
    found: Collection[str] = list(asking.waiting)
    while asking.open:
        for identifier in found:
            # One at a time: so no more than one reply is in memory, and a broken one is known by whom it was asked of.
            if answer := asking.pull(identifier):
                good += answer.status == "ok"
                yield answer
        if not asking.open or asking.left <= 0:
            break
        hopeless = asking.is_hopeless(good >= quorum)
        yield from asking.ended()
        if hopeless or not asking.open:
            break
        found = asking.wait(STATUS_SECONDS if good >= quorum or asking.lost else LOOK_SECONDS)
    yield from asking.give_up()


class _Asking:
    """Who has been asked, who is waited for, and whose request was lost."""

    def __init__(
        self,
        grid: Grid,
        group: str,
        seconds: float,
        again: bool,
        tell: Callable[[str], None],
        look: Look,
        clock: Callable[[], float],
    ) -> None:
        self._grid, self._group, self._seconds, self._again = grid, group, seconds, again
        self._tell, self._look, self._clock = tell, look, clock
        self._started = self._looked = clock()
        self._processes = _processes(grid)
        self._away: list[str] = []
        self._ended: list[Answer] = []
        self.open: dict[str, _Open] = {}
        self.waiting: dict[str, str] = {}
        """The institution by the id of its message."""

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._started

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._seconds - self.passed

    @property
    def lost(self) -> list[str]:
        """Who must be asked again."""
        return [name for name, one in self.open.items() if one.lost]

    def send(self, institution: str, one: _Open, node: int) -> bool:
        """Send a request; whether Flower has taken it. If not, who has been asked before is still outstanding."""
        kind = MESSAGE_TYPES[type(one.request)]
        message = Message(encode(one.request, one.version), node, kind, ttl=self.left, group_id=self._group)
        identifier = next(iter(self._grid.push_messages([message])), None)
        if not identifier:
            return False
        one.sent += sum(map(len, blobs_of(one.request).values()))
        one.tries, one.lost, one.process = one.tries + 1, None, self._processes.get(institution, "")
        self.waiting[identifier] = institution
        self.open[institution] = one
        return True

    def pull(self, identifier: str) -> Answer | None:
        """The answer to a message, if it is there and final."""
        institution = self.waiting.get(identifier)
        if institution is None:  # it was lost between two looks
            return None
        one = self.open[institution]
        with _pulls_end_after(max(self.left / len(self.waiting), SHORTEST_PULL_SECONDS)):
            answer = _pull(self._grid, identifier, institution, one.sent, self.passed)
        if answer is None:
            return None
        del self.waiting[identifier]
        if answer.lost and self._again and one.tries < MOST_TRIES:
            one.lost, one.lost_at = answer, self._clock()
            return None
        del self.open[institution]
        return answer

    def wait(self, longest: float) -> Collection[str]:
        """Wait for replies; the ids of messages that may have one."""
        return self._look(list(self.waiting), self.passed, min(self.left, longest))

    def is_hopeless(self, enough: bool) -> bool:
        """Whether nobody outstanding can be expected to answer, looked at now and then; asks again who is back."""
        pause = STATUS_SECONDS if enough or self.lost else LOOK_SECONDS
        if self._clock() - self._looked <= pause:
            return False
        self._looked = self._clock()
        present = _present(self._grid)
        self._processes = {name: node.last_activated_at for name, node in present.items()}
        self._notice_new_processes()
        for name in self.lost:
            if name in present:
                self.send(name, self.open[name], present[name].node_id)
        away = [name for name in self.open if name not in present]
        if not enough and away and away != self._away:
            self._tell(f"{joined(away)} went offline; waiting for at most {self.left:.0f} s")
        self._away = away
        recent = any(self._clock() - self.open[name].lost_at < BLIP_SECONDS for name in self.lost)
        return enough and not recent and not any(name in present for name in self.open)

    def _notice_new_processes(self) -> None:
        for identifier, name in list(self.waiting.items()):
            one, now = self.open[name], self._processes.get(name, "")
            if now and now != one.process:
                del self.waiting[identifier]
                reason = "It was started again while it worked on the request"
                answer = Answer(name, None, "missing", reason, bytes_down=one.sent, seconds=self.passed, lost=True)
                if self._again and one.tries < MOST_TRIES:
                    one.lost, one.lost_at = answer, self._clock()
                else:
                    del self.open[name]
                    self._ended.append(answer)

    def ended(self) -> list[Answer]:
        """Of whom no answer can come any more, since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def give_up(self) -> Iterator[Answer]:
        """What becomes of everybody outstanding."""
        for institution, one in self.open.items():
            reason = f"no answer within {self.passed:.0f} s"
            if one.lost:
                reason = f"{one.lost.reason}; it has not come back within {self.passed:.0f} s"
            yield Answer(institution, None, "missing", reason, bytes_down=one.sent, seconds=self.passed)


def _present(grid: Grid) -> dict[str, NodeInfo]:
    return {node.name: node for node in grid.get_nodes() if node.name and node.status in ("", "online")}


def _processes(grid: Grid) -> dict[str, str]:
    return {name: node.last_activated_at for name, node in _present(grid).items()}


def pauses(idle_seconds: float = IDLE_SECONDS) -> Look:
    """Looks for every reply, after pauses that begin with `idle_seconds` and grow."""

    def look(messages: Collection[str], waited: float, _longest: float) -> Collection[str]:
        time.sleep(min(LONGEST_IDLE_SECONDS, max(idle_seconds, IDLE_FRACTION * waited)))
        return messages

    return look


_pull_seconds: ContextVar[float] = ContextVar("pull_seconds", default=PULL_MAX_TIME)


def _pull_objects(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
    """Flower's, which waits two hours for an array unless configured otherwise, and its Grid does not configure it."""
    from shared.flower.grid import pull_objects

    return pull_objects(
        object_ids,
        pull_object_fn,
        max_time=_pull_seconds.get(),
        initial_backoff=FIRST_PULL_PAUSE,
        backoff_cap=LONGEST_PULL_PAUSE,
    )


def _limit_pulls() -> None:
    """Have Flower's Grid pull arrays by `_pull_objects`; here, because it loads all of Flower's database."""
    from shared.flower.grid import http_grid

    vars(http_grid)["pull_objects"] = _pull_objects


@contextmanager
def _pulls_end_after(seconds: float) -> Iterator[None]:
    token = _pull_seconds.set(seconds)
    try:
        yield
    finally:
        _pull_seconds.reset(token)


def _pull(grid: Grid, identifier: str, institution: str, sent: int, seconds: float) -> Answer | None:
    try:
        replies = [m for m in grid.pull_messages([identifier]) if m.metadata.reply_to_message_id == identifier]
    except UNREADABLE as error:
        reason = f"Expected a Flower message, but what came cannot be unpacked ({type(error).__name__})."
        return Answer(institution, None, "dropped", reason, bytes_down=sent, seconds=seconds)
    return _read(replies[0], institution, sent, seconds) if replies else None


def _read(message: Message, institution: str, sent: int, seconds: float) -> Answer:
    if message.has_error():
        reason = message.error.reason or f"Flower's error {message.error.code}"
        absent = message.error.code in ABSENT and not reason.startswith(HALF_SENT)
        lost = (absent and reason != GONE) or message.error.code == ErrorCode.CLIENT_APP_CRASHED
        status = "missing" if absent else "dropped"
        return Answer(institution, None, status, reason, bytes_down=sent, seconds=seconds, lost=lost)
    try:
        reply = decode(message.content, *REPLIES)
    except ProtocolError as error:
        return Answer(institution, None, "dropped", str(error), bytes_down=sent, seconds=seconds)
    about: dict[str, Any] = {"bytes_down": sent, "seconds": seconds, "version": version_of(message.content)}
    if isinstance(reply, Refusal):
        return Answer(institution, reply, "refused", reply.reason, reply.kind, **about)
    return Answer(institution, reply, "ok", bytes_up=len(getattr(reply, "update", b"")), **about)
