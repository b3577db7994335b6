"""Waiting at the start of a run: for whom and until when, no longer than agreed."""

from collections.abc import Callable
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

    def run(came: dict[str, float], **rounds: Any) -> tuple[float, list[str]]:
        clock, said = Clock(), list[str]()
        monkeypatch.setattr(joining, "time", clock)
        federation = tiny_federation(rounds={"institutions": ["bank", "clinic", "firm"], **rounds})
        there = SimpleNamespace(
            federation=federation,
            online=lambda: {name: 1 for name, at in came.items() if clock.now >= at},
            say=said.append,
        )
        joining.await_quorum(cast(Run, there))
        return clock.now, said

    return run


def test_with_everybody_there_nobody_waits(wait: Callable[..., Any]) -> None:
    assert wait({"bank": 0, "clinic": 0, "firm": 0}, quorum=2) == (0.0, [])


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
