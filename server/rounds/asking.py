"""Asking institutions something over a Flower Grid, and taking the answers one by one as they come."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from shared.errors import ProtocolError
from shared.flower.constants import PULL_MAX_TIME, ErrorCode
from shared.protocol import MESSAGE_TYPES, REPLIES, Refusal, RefusalKind, Reply, Request, blobs_of, decode, encode

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

    @property
    def why(self) -> str | None:
        """The reason, after the kind of refusal if it is one."""
        return f"{self.refusal}: {self.reason}" if self.refusal else self.reason


def online(grid: Grid) -> dict[str, int]:
    """Node ids of the institutions that are online, by name."""
    return {node.name: node.node_id for node in grid.get_nodes() if node.name and node.status in ("", "online")}


def ask(
    grid: Grid,
    requests: Mapping[str, Request],
    nodes: Mapping[str, int],
    *,
    group: str,
    deadline_seconds: float,
    quorum: int,
    look: Look | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Answer]:
    """Send each institution its request and yield the answers as they arrive, one in memory at a time.

    A reply whose arrays do not come is given up after the institution's share of the time that is left, so that it does
    not cost the others theirs. Waiting ends at the deadline, or once `quorum` have answered and everybody outstanding
    has gone offline. Messages expire with the deadline, so that an institution that comes back late is not given a
    stale request.

    Args:
        grid: Flower's Grid, or the simulator's.
        requests: One request per institution.
        nodes: Node id per institution.
        group: Flower's group id, here the kind of request.
        deadline_seconds: Longest wait.
        quorum: Fewest good answers that allow to stop waiting for institutions gone offline.
        look: Waits for replies; without one there are `pauses` between two looks.
        clock: Seconds; a test may pass its own.
    """
    _limit_pulls()
    look = look or pauses()
    started = looked = clock()
    waiting: dict[str, tuple[str, int]] = {}
    for institution, request in requests.items():
        kind = MESSAGE_TYPES[type(request)]
        message = Message(encode(request), nodes[institution], kind, ttl=deadline_seconds, group_id=group)
        if identifier := next(iter(grid.push_messages([message])), None):
            waiting[identifier] = institution, sum(map(len, blobs_of(request).values()))
        else:
            yield Answer(
                institution, None, "missing", "Flower took no message for it; see whether it is still enrolled"
            )
    good = 0
    found: Collection[str] = list(waiting)
    while waiting:
        # One at a time: so no more than one reply is in memory, and a broken one is known by whom it was asked of.
        for identifier in found:
            institution, sent = waiting[identifier]
            share = (deadline_seconds - (clock() - started)) / len(waiting)
            with _pulls_end_after(max(share, SHORTEST_PULL_SECONDS)):
                answer = _pull(grid, identifier, institution, sent, clock() - started)
            if answer is not None:
                del waiting[identifier]
                good += answer.status == "ok"
                yield answer
        now = clock()
        if not waiting or now - started > deadline_seconds:
            break
        if good >= quorum and now - looked > STATUS_SECONDS:
            looked, present = now, online(grid)
            if not any(institution in present for institution, _ in waiting.values()):
                break
        longest = min(deadline_seconds - (now - started), STATUS_SECONDS if good >= quorum else LOOK_SECONDS)
        found = look(list(waiting), now - started, longest)
    for institution, sent in waiting.values():
        reason = f"no answer within {clock() - started:.0f} s"
        yield Answer(institution, None, "missing", reason, bytes_down=sent, seconds=clock() - started)


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
        status = "missing" if absent else "dropped"
        return Answer(institution, None, status, reason, bytes_down=sent, seconds=seconds)
    try:
        reply = decode(message.content, *REPLIES)
    except ProtocolError as error:
        return Answer(institution, None, "dropped", str(error), bytes_down=sent, seconds=seconds)
    if isinstance(reply, Refusal):
        kind, reason = reply.kind, reply.reason
        return Answer(institution, reply, "refused", reason, kind, bytes_down=sent, seconds=seconds)
    got = len(getattr(reply, "update", b""))
    return Answer(institution, reply, "ok", bytes_up=got, bytes_down=sent, seconds=seconds)
