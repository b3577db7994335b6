"""What the operator says to runs, over a folder whose daemon is not up or is played."""

import os
import threading
import time
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from server import agreement
from server.home import ServerHome
from server.opening import open_store
from server.runs import steering
from server.store import Store
from shared.errors import ConfigError, ConnectionFailedError
from shared.federation import Federation, federation_toml, load_federation
from shared.federation.offers import Word


@pytest.fixture
def federation(home: ServerHome, tiny_federation: Callable[..., Federation]) -> Federation:
    return tiny_federation()


def make(home: ServerHome, federation: Federation, status: str = "queued") -> str:
    with open_store(home.root) as store:
        run = store.create_run(federation)
        store.update_run(run, status=status)
        return run


def row(home: ServerHome, run: str) -> dict[str, object]:
    with open_store(home.root) as store:
        return store.run(run)


@pytest.mark.parametrize("status", ["queued", "interrupted"])
def test_a_run_without_a_process_pauses_at_once(home: ServerHome, federation: Federation, status: str) -> None:
    run = make(home, federation, status)
    assert steering.pause(home.root) == f"Run {run} is paused."
    assert row(home, run)["status"] == "paused"
    assert steering.unpause(home.root) == f"Run {run} goes on."
    assert row(home, run)["status"] == "queued"


def test_a_running_one_pauses_after_its_round(home: ServerHome, federation: Federation) -> None:
    run = make(home, federation, "running")
    assert steering.pause(home.root) == f"Run {run} pauses at the end of its round."
    assert (row(home, run)["status"], row(home, run)["pausing"]) == ("running", True)
    assert steering.unpause(home.root) == f"Run {run} does not pause."
    assert row(home, run)["pausing"] is False


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
def test_an_ended_run_can_neither_pause_nor_stop(home: ServerHome, federation: Federation, status: str) -> None:
    run = make(home, federation, status)
    for verb in (steering.pause, steering.unpause, steering.stop):
        with pytest.raises(ConfigError, match=f"run {run} is {status}"):
            verb(home.root)


@pytest.mark.parametrize("status", ["queued", "starting", "running", "interrupted", "paused"])
def test_stop_ends_a_run_even_without_a_server(home: ServerHome, federation: Federation, status: str) -> None:
    run = make(home, federation, status)
    with open_store(home.root) as store:
        store.update_run(run, flower_run="7")
    assert "is stopped" in steering.stop(home.root)
    assert (row(home, run)["status"], row(home, run)["reason"]) == ("stopped", "Stopped by the operator")


def test_nothing_is_recorded_where_no_server_is_up(home: ServerHome, federation: Federation) -> None:
    home.federation_file.write_text("", encoding="utf-8")
    with pytest.raises(ConnectionFailedError, match="collegium server up"):
        steering.start(home.root)
    with pytest.raises(ConfigError, match="Expected a run in the store"):
        steering.look_up(home.root)


def test_follow_outlives_the_server_and_tells_every_event_once(home: ServerHome, federation: Federation) -> None:
    run = make(home, federation, "running")
    lines: list[str] = []
    ended: list[dict[str, object]] = []

    def played() -> None:
        ended.append(steering.follow(home.root, run, lines.append, seen=0))

    follower = threading.Thread(target=played)
    with open_store(home.root) as store:
        store.add_event(run, "Round 1")
        follower.start()
        wait(lambda: len(lines) == 2)
        home.lock_file.write_text(f"{os.getpid()}\n")  # up again
        store.add_event(run, "Round 2")
        wait(lambda: len(lines) == 3)
        time.sleep(3 * steering.POLL_SECONDS)  # it has seen that the server is up
        home.lock_file.write_text("")
        wait(lambda: len(lines) == 4)
        store.move_run(run, "failed", reason="no quorum")
    follower.join(30)
    down = f"The server is not up; the run goes on once it is: collegium server up {home.root}"
    assert lines == ["Round 1", down, "Round 2", down, "The run has failed: no quorum"]
    assert ended == [{"run": run, "status": "failed", "reason": "no quorum"}]


def test_ctrl_c_says_that_the_run_goes_on(
    home: ServerHome, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(home, federation, "running")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    result = CliRunner().invoke(app, ["server", "follow", str(home.root)])
    assert result.exit_code == 130
    assert f"Run {run} goes on without this window" in result.stderr
    with open_store(home.root) as store:
        assert store.run(run)["status"] == "running"


def test_status_and_runs_need_no_server(home: ServerHome, federation: Federation) -> None:
    run = make(home, federation, "running")
    with open_store(home.root) as store:
        for number, seconds in ((1, 100.0), (2, 10.0), (3, 20.0), (4, 30.0)):
            store.add_round(run, number, seconds, {number: 0.5})
        count = store.agreement(run).rounds.count
        store.update_run(run, reason="because " * 60)
    for verb in ("status", "runs"):
        result = CliRunner().invoke(app, ["server", verb, str(home.root)], env={"COLUMNS": "80"})
        assert result.exit_code == 0, result.output
        assert f"4 of {count}" in result.output
        assert f"Run {run}: because because" in result.output, "a long reason stands below, and squeezes nothing"
    left = CliRunner().invoke(app, ["server", "runs", str(home.root), "--json"])
    assert f'"remaining_seconds": {20.0 * (count - 4)}' in left.output


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not until() and time.monotonic() < end:
        time.sleep(0.01)
    assert until()


def test_a_store_moves_a_run_for_the_quicker_one_only(home: ServerHome, federation: Federation) -> None:
    run = make(home, federation, "starting")
    with open_store(home.root) as store:
        assert isinstance(store, Store)
        assert not store.move_run(run, "running", of=("starting",), at=1), "another start"
        assert store.move_run(run, "running", of=("starting",), at=0)
        assert not store.move_run(run, "running", of=("starting",), at=0)
        assert store.run(run)["ended"] is None
        assert store.move_run(run, "completed")
        assert store.run(run)["ended"] is not None


def test_a_completed_run_goes_on_once_more_rounds_are_approved(
    home: ServerHome, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_check_up", lambda folder: None)
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    run = make(home, federation, "completed")
    with pytest.raises(ConfigError, match=r"has completed; .*server extend`\."):
        steering.resume(home.root, run)
    digest, changes = agreement.extend(home, 3)
    assert changes == ["rounds 2 -> 5"]
    agreement.Offers(home).hear("hospital", Word(approved=(digest,)), "")
    with pytest.raises(ConfigError, match=r"what is offered now waits: law_firm not yet"):
        steering.resume(home.root, run)
    agreement.Offers(home).hear("law_firm", Word(approved=(digest,)), "")
    queued = steering.resume(home.root, run)
    assert queued.note == f"Run {run} goes on under the agreement that all have approved since: rounds 2 -> 5"
    assert (row(home, run)["status"], row(home, run)["digest"]) == ("queued", digest)
    assert load_federation(home.federation_file).rounds.count == 5


def test_what_a_resumed_run_goes_on_without_is_said(
    home: ServerHome, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_check_up", lambda folder: None)
    rounds = federation.rounds.model_copy(update={"count": 5, "patience": 1})
    changed = federation.model_copy(update={"rounds": rounds})
    home.federation_file.write_text(federation_toml(changed), encoding="utf-8")
    run = make(home, federation, "failed")
    note = steering.resume(home.root, run).note or ""
    assert "goes on under the agreement it began with, without this: rounds 2 -> 5; rounds.patience: 0 -> 1" in note
    assert row(home, run)["digest"] == federation.digest


def test_a_run_under_an_offered_agreement_is_queued_until_all_have_approved_it(
    home: ServerHome, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_check_up", lambda folder: None)
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    digest, _ = agreement.extend(home, 3)
    agreement.Offers(home).hear("hospital", Word(approved=(digest,)), "")
    queued = steering.start(home.root)
    assert queued.note == (
        f"It begins once all have approved the agreement {digest[:12]}... that is offered: law_firm not yet"
    )
    assert (row(home, queued.run_id)["status"], row(home, queued.run_id)["digest"]) == ("queued", digest)
    assert agreement.waited_for(home, digest) == "law_firm not yet"
    assert agreement.waited_for(home, federation.digest) is None, "a run under the one in force waits for nobody"
    assert load_federation(home.federation_file).digest == federation.digest
    agreement.Offers(home).hear("law_firm", Word(approved=(digest,)), "")
    assert agreement.waited_for(home, digest) is None
    assert load_federation(home.federation_file).digest == digest, "in force now"
    assert steering.start(home.root).note is None
