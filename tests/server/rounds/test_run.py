"""A run in progress: what it keeps of every institution, and whom it can ask."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server.aggregation import Cut
from server.rounds.asking import Answer, pauses
from server.rounds.replies import Holdings
from server.rounds.run import Run
from server.store import Store, events, replies
from shared.federation import Federation
from shared.protocol import EvaluateRequest

NAMES = ("law_firm", "hospital", "bank")
HELD = Holdings({"clauses": {"train": 4}})


@pytest.fixture
def run(tmp_path: Path, tiny_federation: Callable[..., Federation], scripted_grid: Any) -> Iterator[Run]:
    federation = tiny_federation(NAMES)
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as store:
        grid = scripted_grid(dict.fromkeys(NAMES, lambda _: None))
        yield Run(grid, federation, store, store.create_run(federation), lambda _: None, pauses(0.0))


def said(run: Run) -> list[str]:
    return [row["text"] for row in run.store.rows(events, run.run_id)]


def test_who_is_known_online_and_answers_is_present(run: Run) -> None:
    assert list(run.seats) == list(NAMES)
    assert run.present() == []
    for seat in run.seats.values():
        seat.holdings = HELD
    assert run.present() == list(NAMES), "in the order of the federation file"
    assert run.announced == dict.fromkeys(NAMES, HELD)
    run.record(1, "train", Answer("hospital", None, "missing", "no answer"))
    run.record(1, "train", Answer("bank", None, "dropped", "not finite"))
    assert run.present() == ["law_firm", "bank"], "who gave a bad answer is there"
    run.grid.offline.add("law_firm")  # type: ignore[attr-defined]
    assert run.present() == ["bank"]


def test_trouble_lasts_until_a_good_answer_and_is_the_reason_of_an_absence(run: Run) -> None:
    run.record(1, "train", Answer("bank", None, "refused", "no budget", "budget"))
    run.grid.offline.add("law_firm")  # type: ignore[attr-defined]
    run.record_absent(2, {})
    rows = [(row["institution"], row["status"], row["reason"]) for row in run.store.rows(replies) if row["round"] == 2]
    assert rows == [
        ("law_firm", "missing", "not online when the round began"),
        ("hospital", "missing", "not online when the round began"),
        ("bank", "refused", "not asked to train: budget: no budget"),
    ]
    assert said(run)[0] == "bank refused (train, round 1): budget: no budget"
    run.record(3, "query", Answer("bank", None, "ok"))
    assert run.seats["bank"].trouble is None


def test_whom_it_waits_for_and_how_long_is_kept_for_whoever_looks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rounds.asking.BLIP_SECONDS", 0.0)
    monkeypatch.setattr("server.rounds.asking.STATUS_SECONDS", 0.05)
    requests = {
        name: EvaluateRequest(spec_digest="0" * 64, run=run.run_id, round=7, split="test", state=b"")
        for name in ("hospital", "bank")
    }
    answers = run.ask(requests, "evaluate", longest=20.0)
    next(answers)
    asking = run.store.run(run.run_id)["asking"]
    assert (asking["round"], asking["kind"], asking["names"]) == (7, "evaluate", ["bank", "hospital"])
    since, until = (datetime.fromisoformat(asking[key]) for key in ("since", "until"))
    assert (until - since).total_seconds() == 20
    list(run.ask({}, "train"))
    assert run.store.run(run.run_id)["asking"] == asking, "who asks nobody waits for nobody"


def test_events_tell_when_they_were(run: Run) -> None:
    run.say("The round begins")
    (row,) = run.store.rows(events, run.run_id)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(row["time"])).total_seconds()) < 60


def test_a_cut_is_said_again_only_when_it_changes(run: Run) -> None:
    one, other = Cut("bank", "clauses", 300, 100.0), Cut("bank", "clauses", 300, 120.0)
    for number, cuts in enumerate(([one], [one], [other], [other]), start=1):
        run.record_cuts(number, "train", cuts)
    assert [text.split(" count as ")[1].split(":")[0] for text in said(run)] == ["100", "120"]
