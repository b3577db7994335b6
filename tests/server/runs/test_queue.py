"""The queue of runs: who starts when, and what is taken up again, against a SuperLink of a few lines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.bundle import RUN_KEY
from server.runs.queue import FLOWER_SECONDS, IDLE_SECONDS, LOOK_SECONDS, MOST_TRIES, PAUSES, Queue, conduct
from server.service.operator import RunStatus
from server.store import Store, events
from shared.errors import ConfigError, ConnectionFailedError
from shared.federation import Federation


class SuperLink:
    """Knows runs by number; `ends` says how one has ended."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[int] = []
        self.ends: dict[int, str] = {}
        self.down = False
        self.refuses = False

    def start_run(self, fab: bytes, run_config: Any) -> int:
        if self.down:
            raise ConnectionFailedError("no server answers")
        if self.refuses:
            raise ConfigError("the bundle is too large.")
        assert fab
        self.started.append(run_config[RUN_KEY])
        return len(self.started)

    def run_status(self, run_id: int) -> RunStatus:
        if self.down:
            raise ConnectionFailedError("no server answers")
        ended = self.ends.get(run_id)
        return RunStatus("finished" if ended else "running", ended or "", "")

    def stop_run(self, run_id: int) -> None:
        if run_id in self.stopped:
            raise ConfigError("it is finished already")
        self.stopped.append(run_id)


class Bench:
    """A store, a SuperLink, a clock, and which processes of runs live."""

    def __init__(self, store: Store, federation: Callable[..., Federation]) -> None:
        self.store, self.superlink, self.now = store, SuperLink(), 0.0
        self.alive: set[str] = set()
        self.lines: list[str] = []
        self.obstacle = ""
        self.unapproved: dict[str, str] = {}
        self._federation = federation
        self.queue = self.daemon()

    def daemon(self) -> Queue:
        """As a daemon that starts makes it."""
        return Queue(
            self.store,
            self.superlink,
            self.alive.__contains__,
            self.lines.append,
            lambda: self.now,
            obstacle=lambda: self.obstacle,
            waited_for=self.unapproved.get,
        )

    def run(self, *institutions: str) -> str:
        agreed = {"institutions": list(institutions), "quorum": 1}
        return self.store.create_run(self._federation(rounds=agreed))

    def begin(self, run: str, attempt: int) -> bool:
        """What the run's process does first."""
        begun = self.store.move_run(run, "running", of=("starting",), at=attempt)
        if begun:
            self.alive.add(run)
        return begun

    def status(self, run: str) -> str:
        return str(self.store.run(run)["status"])

    def events(self, run: str) -> list[str]:
        return [row["text"] for row in self.store.rows(events, run)]


@pytest.fixture
def bench(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Iterator[Bench]:
    with Store.open(f"sqlite:///{tmp_path / 's.db'}", checkpoints=tmp_path / "checkpoints") as store:
        yield Bench(store, tiny_federation)


def test_runs_of_the_same_institution_go_one_after_the_other(bench: Bench) -> None:
    first, second = bench.run("hospital", "law_firm"), bench.run("law_firm")
    third, fourth = bench.run("bank"), bench.run("bank", "law_firm")
    for _ in range(3):
        bench.queue.look()
    assert bench.superlink.started == [f"{first}:1", f"{third}:1"]
    assert bench.events(second) == [f"Waiting for run {first}, in which the same institutions take part"], "said once"
    assert bench.begin(first, 1)
    assert bench.store.move_run(first, "completed", of=("running",))
    bench.queue.look()
    assert bench.superlink.started[2:] == [f"{second}:1"]
    assert bench.store.move_run(third, "stopped")
    bench.queue.look()
    assert bench.status(fourth) == "queued", "law_firm is still in the second"


def test_a_later_run_overtakes_nobody(bench: Bench) -> None:
    first, second, third = bench.run("bank"), bench.run("bank", "hospital"), bench.run("hospital")
    bench.queue.look()
    assert bench.superlink.started == [f"{first}:1"]
    assert (bench.status(second), bench.status(third)) == ("queued", "queued")


def test_a_dead_process_is_taken_up_three_times_without_a_round(bench: Bench) -> None:
    run = bench.run("bank")
    bench.queue.look()
    for attempt in range(1, MOST_TRIES + 2):
        assert bench.begin(run, attempt)
        bench.queue.look()
        assert bench.status(run) == "running"
        bench.alive.clear()
        bench.queue.look()  # notices
        bench.queue.look()  # acts
        if attempt > MOST_TRIES:
            break
        assert bench.status(run) == "queued"
        bench.now += PAUSES[attempt - 1] - 0.1
        bench.queue.look()
        assert len(bench.superlink.started) == attempt, "it waits before a try"
        bench.now += 0.2
        bench.queue.look()
    assert bench.status(run) == "failed"
    assert bench.superlink.started == [f"{run}:{n}" for n in range(1, MOST_TRIES + 2)]
    assert bench.superlink.stopped == list(range(1, MOST_TRIES + 1)), "Flower's own run is ended before the next"
    assert bench.store.run(run)["reason"].startswith("The run's process has died. It was taken up 3 times")


def test_a_finished_round_gives_all_tries_back(bench: Bench) -> None:
    run = bench.run("bank")
    for number in range(1, 3 * MOST_TRIES):
        bench.now += max(PAUSES)
        bench.queue.look()
        assert bench.begin(run, number)
        bench.store.add_round(run, number, 1.0, {})
        bench.alive.clear()
        bench.queue.look()
        bench.queue.look()
        assert bench.status(run) == "queued"


def test_what_flower_has_ended_is_taken_up_again(bench: Bench) -> None:
    run = bench.run("bank")
    bench.queue.look()
    bench.queue.look()
    bench.superlink.ends[1] = "failed"  # it could not even be started
    bench.now += FLOWER_SECONDS
    bench.queue.look()
    bench.queue.look()
    assert bench.events(run)[-1] == (
        "Interrupted: Flower ended the run's process as failed: no details. Try 1 of 3 begins in 1 s"
    )


def test_a_process_of_an_earlier_start_is_turned_away(bench: Bench) -> None:
    run = bench.run("bank")
    bench.queue.look()
    bench.queue = bench.daemon()  # it died before the process began
    bench.queue.look()
    assert bench.superlink.started == [f"{run}:1", f"{run}:2"]
    assert not bench.begin(run, 1)
    assert bench.begin(run, 2)


def test_a_new_daemon_goes_on_and_counts_no_try(bench: Bench) -> None:
    run = bench.run("bank")
    bench.queue.look()
    assert bench.begin(run, 1)
    for number in range(2, 2 + 2 * MOST_TRIES):
        bench.alive.clear()
        bench.queue = bench.daemon()
        bench.queue.look()
        assert bench.begin(run, number)
    assert bench.store.run(run)["tries"] == 0


def test_a_superlink_that_is_down_loses_nothing(bench: Bench) -> None:
    run = bench.run("bank")
    bench.superlink.down = True
    with pytest.raises(ConnectionFailedError):
        bench.queue.look()
    assert bench.status(run) == "queued"
    bench.superlink.down = False
    bench.queue.look()
    assert bench.status(run) == "starting"


def test_a_run_that_cannot_be_started_fails_and_lets_the_next_one_go(bench: Bench) -> None:
    first, second = bench.run("bank"), bench.run("bank")
    bench.superlink.refuses = True
    bench.queue.look()
    assert bench.status(first) == "failed"
    assert "too large" in bench.store.run(first)["reason"]
    bench.superlink.refuses = False
    bench.queue.look()
    assert bench.status(second) == "starting"


@pytest.mark.parametrize("status", ["stopped", "paused", "completed", "failed"])
def test_an_ended_run_is_left_alone(bench: Bench, status: str) -> None:
    run = bench.run("bank")
    bench.queue.look()
    assert bench.begin(run, 1)
    assert bench.store.move_run(run, status)
    bench.alive.clear()
    bench.superlink.ends[1] = "completed"
    for _ in range(5):
        bench.now += 100
        bench.queue.look()
    assert (bench.status(run), len(bench.superlink.started)) == (status, 1)


def test_what_keeps_runs_from_going_on_costs_them_no_try(bench: Bench) -> None:
    first, second = bench.run("hospital"), bench.run("bank")
    bench.queue.look()
    assert bench.begin(first, 1)
    assert bench.begin(second, 1)
    bench.obstacle = "Runs wait for room on the disk."
    bench.alive.clear()
    for _ in range(2 * MOST_TRIES):
        bench.queue.look()
        bench.now += 100.0
    assert (bench.status(first), bench.status(second)) == ("interrupted", "interrupted")
    third = bench.run("court")
    bench.queue.look()
    assert bench.status(third) == "queued"
    assert bench.lines.count(bench.obstacle) == 1
    bench.obstacle = ""
    bench.queue.look()
    bench.now += PAUSES[0]
    bench.queue.look()
    assert [bench.status(run) for run in (first, second, third)] == ["starting"] * 3
    assert bench.store.run(first)["tries"] == 1


def test_a_run_waits_for_its_agreement_and_others_go_before_it(bench: Bench) -> None:
    first = bench.run("hospital", "law_firm")
    digest = str(bench.store.run(first)["digest"])
    bench.unapproved[digest] = "law_firm not yet"
    second = bench.run("hospital")
    for _ in range(3):
        bench.queue.look()
    assert (bench.status(first), bench.status(second)) == ("queued", "starting")
    assert bench.events(first) == [f"Waiting for the agreement {digest[:12]}... to be approved: law_firm not yet"]
    bench.unapproved[digest] = "law_firm declined"
    bench.queue.look()
    assert bench.events(first)[-1].endswith("to be approved: law_firm declined")
    bench.store.move_run(second, "completed")
    bench.unapproved.clear()
    bench.queue.look()
    assert bench.status(first) == "starting"
    assert bench.events(first)[-1] == f"The agreement {digest[:12]}... is not waited for any more"
    bench.begin(first, 1)
    bench.unapproved[digest] = "hospital not yet"  # of one that is offered again, say
    bench.store.move_run(first, "interrupted")
    bench.queue.look()
    bench.now += PAUSES[0]
    bench.queue.look()
    assert bench.status(first) == "starting", "a run that has begun goes on"


def test_without_a_run_the_store_is_looked_into_less_often() -> None:
    waited, unended = list[float](), iter([True, False, False])

    def over(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 4

    conduct(cast(Queue, SimpleNamespace(look=lambda: next(unended))), over=over, announce=print)
    assert waited == [LOOK_SECONDS, LOOK_SECONDS, IDLE_SECONDS, IDLE_SECONDS]
