"""Asking over a Grid: every answer is known by whom it was asked of, and nobody can hold up or break the rest."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError

from server.rounds.asking import BLIP_SECONDS, SHORTEST_PULL_SECONDS, Answer, ask, online, pauses
from shared.enrolment.messages import GONE
from shared.flower.constants import ErrorCode
from shared.flower.grid import http_grid
from shared.protocol import PROTOCOL_VERSION, QueryReply, QueryRequest, Refusal, TrainRequest, encode

QUERY = QueryRequest(spec_digest="d" * 64)
HELD = {"t": {"train": 1}}


def good(name: str) -> Callable[[object], QueryReply]:
    return lambda _: QueryReply(institution=name, records=HELD, software="test")  # type: ignore[arg-type]


def ask_all(grid: Any, *, deadline: float = 5.0, quorum: int = 1, clock: Any = None) -> dict[str, Answer]:
    names = [name for name in grid.names.values() if name != "stranger"]
    options = {"clock": clock} if clock else {}
    answers = ask(
        grid,
        {name: QUERY for name in names},
        online(grid),
        group="query",
        deadline_seconds=deadline,
        quorum=quorum,
        look=pauses(0.001),
        **options,
    )
    return {answer.institution: answer for answer in answers}


def malformed(**body: Any) -> RecordDict:
    values = {"institution": "bad", "records": HELD, "software": "test"} | body
    return RecordDict(
        {"header": ConfigRecord({"version": PROTOCOL_VERSION, "kind": "QueryReply", "body": json.dumps(values)})}
    )


BAD: dict[str, tuple[Any, str, str]] = {
    "refusal": (Refusal(institution="bad", kind="data", reason="no disk"), "refused", "data: no disk"),
    "error": (Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "ValueError: x"), "dropped", "ValueError: x"),
    "gone": (Error(ErrorCode.NODE_UNAVAILABLE, "unreachable"), "missing", "unreachable"),
    "half sent": (
        Error(ErrorCode.MESSAGE_UNAVAILABLE, "Reply message objects are unavailable. The sender may not have ..."),
        "dropped",
        "objects are unavailable",
    ),
    "not ours": (RecordDict({}), "dropped", "malformed"),
    "wrong type": (malformed(records=5), "dropped", "in records"),
    "unknown field": (malformed(extra=1), "dropped", "others came"),
    "garbage": (KeyError("3"), "dropped", "cannot be unpacked \\(KeyError\\)"),
    "request": (
        TrainRequest(spec_digest="d" * 64, run="r1", round=1, rounds=1, state=b""),
        "dropped",
        "'TrainRequest' came",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_answer_is_its_senders_alone(scripted_grid: Any, fault: str) -> None:
    answer, status, said = BAD[fault]
    grid = scripted_grid({"bad": lambda _: answer, "good": good("good")})
    found = ask_all(grid)
    assert found["good"].status == "ok"
    assert found["bad"].status == status
    assert re.search(said, str(found["bad"].why))


def test_silence_ends_at_the_deadline_and_requests_with_it(scripted_grid: Any) -> None:
    grid = scripted_grid({"silent": lambda _: None, "good": good("good")})
    found = ask_all(grid, deadline=0.2)
    assert found["good"].status == "ok"
    assert found["silent"].status == "missing"
    assert found["silent"].reason == "no answer within 0 s"
    assert grid.ttls == pytest.approx([0.2, 0.2], abs=0.05)


def test_nobody_is_waited_for_once_gone(scripted_grid: Any) -> None:
    grid = scripted_grid({"silent": lambda _: None, "good": good("good")})
    seconds = itertools.count()

    def clock() -> float:
        grid.offline.add("silent")
        return float(next(seconds))

    found = ask_all(grid, deadline=1e6, clock=clock)
    assert found["silent"].status == "missing"
    assert next(seconds) < 100


def test_below_the_quorum_the_absent_may_come_back_until_the_deadline(scripted_grid: Any) -> None:
    grid = scripted_grid({"silent": lambda _: None, "good": good("good")})
    ticks = itertools.count()

    def clock() -> float:
        now = next(ticks)
        grid.offline = {"silent"} if now < 40 else set()
        if now == 40:
            grid.ready["message-0"] = [late()]
        return float(now)

    found = ask_all(grid, deadline=80.0, quorum=2, clock=clock)
    assert found["silent"].status == "ok"


def late() -> Message:
    """The answer to the first message, in the end."""
    message = Message(encode(QUERY), 10, "query")
    message.metadata.__dict__["_message_id"] = "message-0"
    return Message(encode(good("silent")(None)), reply_to=message)


def test_answers_that_lie_ready_are_taken_even_after_the_deadline(scripted_grid: Any) -> None:
    grid = scripted_grid({name: good(name) for name in "abcd"})
    seconds = itertools.count(step=1000)
    found = ask_all(grid, deadline=1.0, clock=lambda: float(next(seconds)))
    assert {answer.status for answer in found.values()} == {"ok"}


def test_what_flower_does_not_take_is_missing(scripted_grid: Any) -> None:
    grid = scripted_grid({"lost": good("lost"), "gone": good("gone"), "good": good("good")})
    grid.unsent = {"lost", "gone"}
    found = ask_all(grid)
    assert [found[name].status for name in ("lost", "gone", "good")] == ["missing", "missing", "ok"]


def test_a_second_reply_to_one_request_does_not_count(scripted_grid: Any) -> None:
    grid = scripted_grid({"twice": good("twice"), "good": good("good")})
    push = grid._push

    def doubled(message: Any) -> str:
        identifier: str = push(message)
        grid.ready[identifier] *= 2
        return identifier

    grid._push = doubled
    names = [answer.institution for answer in answers_of(grid)]
    assert sorted(names) == ["good", "twice"]


def answers_of(grid: Any) -> Iterator[Answer]:
    requests = {name: QUERY for name in grid.scripts}
    return ask(grid, requests, online(grid), group="query", deadline_seconds=5.0, quorum=1, look=pauses(0.001))


def test_sizes_of_what_was_sent_are_counted(scripted_grid: Any) -> None:
    grid = scripted_grid({"a": lambda _: None})
    request = TrainRequest(spec_digest="d" * 64, run="r1", round=1, rounds=1, state=b"x" * 70)
    (answer,) = ask(grid, {"a": request}, online(grid), group="train", deadline_seconds=0.05, quorum=1)
    assert (answer.bytes_down, answer.bytes_up) == (70, 0)


def test_arrays_that_do_not_come_are_waited_for_as_long_as_the_others_can_spare(scripted_grid: Any) -> None:
    grid, waited = scripted_grid({name: lambda _: None for name in "ab"}), list[float]()

    def pull(_identifiers: Any) -> list[Message]:
        began = time.monotonic()
        with pytest.raises(ObjectPullError):
            vars(http_grid)["pull_objects"](object_ids=["x"], pull_object_fn=unavailable)
        waited.append(time.monotonic() - began)
        return []

    grid.pull_messages = pull
    began = time.monotonic()
    found = ask_all(grid, deadline=6.0)
    assert {answer.status for answer in found.values()} == {"missing"}
    assert waited[0] == pytest.approx(3.0, abs=1.5), "half of the time for one of two"
    assert time.monotonic() - began < 6.0 + 2 * SHORTEST_PULL_SECONDS + 3


def unavailable(name: str) -> bytes:
    raise ObjectUnavailableError(name)


class Blinking:
    """Gives a scripted Grid's nodes a start of their process; `come_online` begins another."""

    def __init__(self, grid: Any) -> None:
        self.grid, self.started = grid, dict.fromkeys(grid.names.values(), "1")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def get_nodes(self) -> Any:
        nodes = list(self.grid.get_nodes())
        for node in nodes:
            node.last_activated_at = self.started[node.name]
        return nodes


class Clock:
    """A second passes at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def look(self, messages: Any, _waited: float, longest: float) -> Any:
        self.now += min(1.0, max(longest, 0.01))
        return messages


def ask_again(grid: Any, names: list[str], *, quorum: int, at: dict[float, Callable[[], None]]) -> dict[str, Answer]:
    """Ask with `again`; `at` says what happens when the clock first shows so many seconds or more."""
    clock = Clock()

    def look(messages: Any, waited: float, longest: float) -> Any:
        for when in [when for when in at if when <= clock.now]:
            at.pop(when)()
        return clock.look(messages, waited, longest)

    answers = ask(
        grid,
        dict.fromkeys(names, QUERY),
        online(grid),
        group="query",
        deadline_seconds=300,
        quorum=quorum,
        again=True,
        look=look,
        clock=clock,
    )
    return {answer.institution: replace(answer, seconds=clock.now) for answer in answers}


@pytest.mark.parametrize("code", [ErrorCode.CLIENT_APP_CRASHED, ErrorCode.NODE_UNAVAILABLE])
def test_who_dies_with_a_request_is_asked_again(scripted_grid: Any, code: int) -> None:
    script = iter([Error(code, "ClientApp stopped responding."), good("a")(None)])
    grid: Any = Blinking(scripted_grid({"a": lambda _: next(script), "b": good("b")}))
    found = ask_again(grid, ["a", "b"], quorum=1, at={})
    assert {name: answer.status for name, answer in found.items()} == {"a": "ok", "b": "ok"}
    assert [name for name, _ in grid.pushed] == ["a", "b", "a"]


def test_a_new_process_is_asked_what_the_last_one_took_with_it(scripted_grid: Any) -> None:
    script = iter([None, good("a")(None)])
    grid: Any = Blinking(scripted_grid({"a": lambda _: next(script)}))
    found = ask_again(grid, ["a"], quorum=1, at={50.0: lambda: grid.started.update(a="2")})
    assert found["a"].status == "ok"
    assert 50 < found["a"].seconds < 60


def test_of_a_new_process_that_may_not_be_asked_again_no_answer_is_waited_for(scripted_grid: Any) -> None:
    grid: Any = Blinking(scripted_grid({"a": lambda _: None, "b": good("b")}))
    clock = Clock()

    def look(messages: Any, waited: float, longest: float) -> Any:
        if clock.now > 50:
            grid.started.update(a="2")
        return clock.look(messages, waited, longest)

    answers = list(
        ask(
            grid,
            {"a": QUERY, "b": QUERY},
            online(grid),
            group="x",
            deadline_seconds=300,
            quorum=2,
            look=look,
            clock=clock,
        )
    )
    assert [(answer.institution, answer.status) for answer in answers] == [("b", "ok"), ("a", "missing")]
    assert "started again" in str(answers[1].reason)
    assert 50 < clock.now < 60


def test_who_was_cut_off_is_not_asked_again_and_it_is_said_who_is_waited_for(scripted_grid: Any) -> None:
    grid: Any = Blinking(scripted_grid({"silent": lambda _: None}))
    said, clock = list[str](), Clock()

    def look(messages: Any, waited: float, longest: float) -> Any:
        grid.offline = grid.grid.offline = {"silent"} if 60 < clock.now < 400 else set()
        if clock.now > 410:
            grid.ready["message-0"] = [late()]
        return clock.look(messages, waited, longest)

    (answer,) = ask(
        grid,
        {"silent": QUERY},
        online(grid),
        group="x",
        deadline_seconds=1000,
        quorum=1,
        again=True,
        tell=said.append,
        look=look,
        clock=clock,
    )
    assert answer.status == "ok"
    assert len(grid.pushed) == 1
    assert len(said) == 1
    assert "silent went offline; waiting for at most 93" in said[0]


def test_a_request_is_sent_three_times_at_most(scripted_grid: Any) -> None:
    grid: Any = Blinking(scripted_grid({"a": lambda _: Error(ErrorCode.CLIENT_APP_CRASHED, "stopped responding")}))
    found = ask_again(grid, ["a"], quorum=1, at={})
    assert (found["a"].status, found["a"].reason) == ("dropped", "stopped responding")
    assert len(grid.pushed) == 3


def test_whom_flower_takes_no_second_message_for_is_told_as_missing(scripted_grid: Any) -> None:
    grid: Any = Blinking(scripted_grid({"a": lambda _: Error(ErrorCode.CLIENT_APP_CRASHED, "stopped responding")}))
    found = ask_again(grid, ["a"], quorum=1, at={0.0: lambda: grid.unsent.add("a")})
    assert (found["a"].status, len(grid.pushed)) == ("missing", 1)
    assert "it has not come back" in str(found["a"].reason)


def test_the_others_wait_for_a_moment_and_no_longer(scripted_grid: Any) -> None:
    gone = Error(ErrorCode.NODE_UNAVAILABLE, "unreachable")
    grid: Any = Blinking(scripted_grid({"a": lambda _: gone, "b": good("b")}))
    grid.offline.add("a")
    nodes = {name: node for node, name in grid.names.items()}
    clock = Clock()
    answers = list(
        ask(
            grid,
            {"a": QUERY, "b": QUERY},
            nodes,
            group="query",
            deadline_seconds=300,
            quorum=1,
            again=True,
            look=clock.look,
            clock=clock,
        )
    )
    assert [(answer.institution, answer.status) for answer in answers] == [("b", "ok"), ("a", "missing")]
    assert "it has not come back" in str(answers[1].reason)
    assert BLIP_SECONDS <= clock.now < BLIP_SECONDS + 10


def test_nobody_waits_for_who_was_revoked(scripted_grid: Any) -> None:
    gone = Error(ErrorCode.NODE_UNAVAILABLE, GONE)
    grid: Any = Blinking(scripted_grid({"a": lambda _: gone, "b": good("b")}))
    found = ask_again(grid, ["a", "b"], quorum=2, at={})
    assert (found["a"].status, found["a"].reason) == ("missing", GONE)
    assert found["a"].seconds < 5
    assert [name for name, _ in grid.pushed] == ["a", "b"]


def test_below_the_quorum_one_waits_for_whoever_is_gone(scripted_grid: Any) -> None:
    script = iter([Error(ErrorCode.NODE_UNAVAILABLE, "unreachable"), good("a")(None)])
    grid: Any = Blinking(scripted_grid({"a": lambda _: next(script)}))
    nodes = online(grid)
    grid.offline.add("a")
    clock = Clock()

    def look(messages: Any, waited: float, longest: float) -> Any:
        if clock.now > 200:
            grid.offline.discard("a")
        return clock.look(messages, waited, longest)

    (answer,) = ask(
        grid,
        {"a": QUERY},
        nodes,
        group="query",
        deadline_seconds=300,
        quorum=1,
        again=True,
        look=look,
        clock=clock,
    )
    assert answer.status == "ok"
    assert 200 < clock.now < 210
