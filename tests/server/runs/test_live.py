"""A run on the terminal: one table with bars in its place, and plain lines without a terminal."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from server.dashboard.reader import Reader
from server.home import ServerHome
from server.opening import open_store
from server.runs import live as runs_live
from server.runs.live import view, watch
from server.store import Reply, Score, Store
from shared.federation import Federation
from shared.watching.live import live

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def store(home: ServerHome) -> Iterator[Store]:
    with open_store(home.root) as opened:
        yield opened


@pytest.fixture
def run(store: Store, tiny_federation: Callable[..., Federation]) -> str:
    """In the second of four rounds: the hospital has answered, the law firm is waited for."""
    made = store.create_run(tiny_federation(rounds={"count": 4}))
    store.move_run(made, "running")
    store.add_reply(made, Reply(1, "train", "hospital", "ok", bytes_up=2_000_000, seconds=8.0))
    store.add_reply(made, Reply(1, "train", "law_firm", "missing", reason="[bold]gone[/bold]"))
    store.add_scores(made, [Score(1, "validation", "hospital", "clauses", "macro_f1", 0.5, 9)])
    store.add_round(made, 1, 10.0, {1: 0.5})
    store.add_event(made, "Round 1 of 4: validation score 0.500")
    asking: dict[str, Any] = {"round": 2, "kind": "train", "names": ["hospital", "law_firm"], "after": 2}
    asking |= {"since": NOW.isoformat(), "until": (NOW + timedelta(seconds=60)).isoformat()}
    store.update_run(made, asking=asking)
    store.add_reply(made, Reply(2, "train", "hospital", "ok", bytes_up=2_000_000, seconds=9.0))
    return made


def text(store: Store, run: str, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view(Reader(store, run).read()[0], NOW + timedelta(seconds=20)))
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue()


def test_it_says_how_far_the_run_and_its_round_are_and_for_whom_it_waits(store: Store, run: str) -> None:
    shown = text(store, run)
    assert "1 of 4 rounds, running, about 30 s left" in shown
    assert "Round 2, training" in shown
    assert "1 of 2 after 20 s; waits for law_firm, 40 s at most" in shown
    hospital, law_firm = (
        next(line for line in shown.splitlines() if line.startswith(name)) for name in ("hosp", "law")
    )
    assert hospital.split() == ["hospital", "ok", "2", "9.0", "0", "4.0", "0.0"]
    assert law_firm.split()[:5] == ["law_firm", "works", "-", "-", "1"]
    assert "[bold]gone[/bold]" in law_firm, "what others wrote is no markup"
    assert "validation score 0.500, best 0.500" in shown


def test_after_the_end_there_is_no_round_any_more(store: Store, run: str) -> None:
    store.move_run(run, "completed")
    shown = text(store, run)
    assert "1 of 4 rounds, completed\n" in shown
    assert "waits for" not in shown


def test_a_small_terminal_shows_it_too(store: Store, run: str) -> None:
    assert max(map(len, text(store, run, 60).splitlines())) <= 60


def test_without_a_terminal_events_are_plain_lines(
    home: ServerHome, store: Store, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.move_run(run, "completed")
    monkeypatch.setattr(runs_live, "live", None)
    watch(home.root, run)
    assert capsys.readouterr().out == ""


def test_on_a_terminal_it_stands_in_its_place_and_other_lines_above_it(store: Store, run: str) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, width=120, height=40, force_terminal=True)
    reader = Reader(store, run)
    with live(lambda: view(reader.read()[0], NOW), console) as look:
        look()
        console.print("Said meanwhile")
        store.add_round(run, 2, 12.0, {2: 0.6})
        look()
    shown = terminal.getvalue()
    assert "\x1b[2K" in shown, "the table before is wiped"
    assert "1 of 4 rounds" in shown
    assert "2 of 4 rounds" in shown[shown.index("Said meanwhile") :]
