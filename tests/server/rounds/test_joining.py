"""Waiting at the start of a run: for whom and until when, no longer than agreed."""

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.rounds import joining
from server.rounds.run import Run
from shared.errors import QuorumError
from shared.federation import Federation


class Clock:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, tiny_federation: Callable[..., Federation]) -> Callable[..., Any]:
    """Seconds that `await_quorum` took, and what it said; `came` maps institutions to when they come online."""

    def run(
        came: dict[str, float],
        *,
        patient: bool = False,
        paused_at: float = 1e9,
        gone: Collection[str] = (),
        **rounds: Any,
    ) -> tuple[float, list[str]]:
        clock, said = Clock(), list[str]()
        monkeypatch.setattr(joining, "time", clock)
        federation = tiny_federation(rounds={"institutions": ["bank", "clinic", "firm"], **rounds})
        there = SimpleNamespace(
            federation=federation,
            gone=set(gone),
            online=lambda: {name: 1 for name, at in came.items() if clock.now >= at},
            say=said.append,
            patient=patient,
            is_to_pause=lambda: clock.now >= paused_at,
        )
        joining.await_quorum(cast(Run, there))
        return clock.now, said

    return run


def test_with_everybody_there_nobody_waits(wait: Callable[..., Any]) -> None:
    assert wait({"bank": 0, "clinic": 0, "firm": 0}, quorum=2) == (0.0, [])


def test_who_has_withdrawn_is_not_waited_for(wait: Callable[..., Any]) -> None:
    assert wait({"bank": 0, "clinic": 0}, quorum=2, gone={"firm"}) == (0.0, [])


def test_beyond_the_quorum_the_grace_is_the_longest_wait(wait: Callable[..., Any]) -> None:
    seconds, said = wait({"bank": 0, "clinic": 0}, quorum=2, grace_seconds=7.0)
    assert seconds == pytest.approx(7.0, abs=0.3)
    assert said == ["Waiting for firm, for at most 7 s"]
    assert wait({"bank": 0, "clinic": 0}, quorum=2, grace_seconds=0.0) == (0.0, [])
    seconds, _ = wait({"bank": 0, "clinic": 0}, quorum=2, deadline_seconds=3.0)
    assert seconds == pytest.approx(3.0, abs=0.3)


def test_below_it_the_deadline_is(wait: Callable[..., Any]) -> None:
    seconds, said = wait({"bank": 0, "clinic": 20, "firm": 30}, quorum=2, grace_seconds=5.0, deadline_seconds=60.0)
    assert seconds == pytest.approx(20.2, abs=0.3)  # the grace had passed when the quorum was there
    assert said == ["Waiting for clinic, firm, for at most 60 s"]
    with pytest.raises(QuorumError, match=r"at least 2 of .* online within 60 s, but .'clinic', 'firm'. are not"):
        wait({"bank": 0}, quorum=2, deadline_seconds=60.0)


def test_a_patient_run_waits_for_its_quorum_without_an_end(wait: Callable[..., Any]) -> None:
    agreed = {"quorum": 2, "deadline_seconds": 60.0, "grace_seconds": 5.0, "patient": True}
    seconds, said = wait({"bank": 0, "clinic": 5000.0}, **agreed)
    assert seconds == pytest.approx(5000, abs=3)
    assert said == ["Waiting for clinic, firm, until there is a quorum"]
    seconds, said = wait({"bank": 0, "clinic": 3.0}, **agreed)
    assert seconds == pytest.approx(5.0, abs=0.3), "with a quorum the grace is the longest wait, as ever"
    seconds, _ = wait({"bank": 0}, paused_at=100.0, **agreed)
    assert seconds == pytest.approx(100.0, abs=3)


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch, tiny_federation: Callable[..., Federation]) -> Callable[..., Any]:
    """What `gather` returns, when it does, what it said, and when it asked what they hold."""

    def run(
        able: dict[str, float], online: dict[str, float] | None = None, *, patient: bool = True, paused_at: float = 1e9
    ) -> tuple[bool, float, list[str], list[float]]:
        clock, said, asked = Clock(), list[str](), list[float]()
        there, names = able if online is None else online, ["bank", "clinic", "firm"]
        known: list[str] = []

        def query(_run: Run, _number: int) -> None:
            asked.append(clock.now)
            known[:] = [name for name, at in able.items() if clock.now >= at]

        monkeypatch.setattr(joining, "time", clock)
        monkeypatch.setattr(joining, "query", query)
        one = SimpleNamespace(
            federation=tiny_federation(rounds={"institutions": names, "quorum": 2}),
            seats=dict.fromkeys(names),
            gone=set(),
            note_withdrawals=lambda number: None,
            present=lambda: list(known),
            online=lambda: {name: 1 for name, at in there.items() if clock.now >= at},
            say=said.append,
            patient=patient,
            is_to_pause=lambda: clock.now >= paused_at,
        )
        return joining.gather(cast(Run, one), 3), clock.now, said, asked

    return run


def test_a_round_waits_for_who_is_away_and_says_for_whom(gathered: Callable[..., Any]) -> None:
    assert gathered({"bank": 0, "clinic": 0}) == (True, 0.0, [], [0.0])
    done, seconds, said, asked = gathered({"bank": 0, "clinic": 500.0})
    assert done
    assert 500.0 <= seconds <= 503.0, "who comes is asked at once"
    assert said == ["Round 3 waits for clinic, firm: of the 2 that it needs 1 can be asked to train"]
    assert len(asked) < 10


def test_who_refuses_is_asked_again_seldom(gathered: Callable[..., Any]) -> None:
    done, seconds, said, asked = gathered({"bank": 0, "clinic": 7200.0}, {"bank": 0, "clinic": 0, "firm": 0})
    assert done
    assert 7200.0 <= seconds <= 7900.0
    assert len(said) == 1
    assert len(asked) < 20


def test_a_round_that_waits_can_be_paused_and_a_simulation_does_not_wait(gathered: Callable[..., Any]) -> None:
    assert gathered({"bank": 0}, paused_at=50.0)[:2] == (False, 50.0)
    online = {"bank": 0.0, "clinic": 0.0}
    assert gathered({"bank": 0}, online, patient=False) == (True, 0.0, [], [0.0])
