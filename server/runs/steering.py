"""What the operator says to runs; the daemon carries it out (`server/runs/queue.py`)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.agreement import agreement_for_run, longer_agreement, offered, standing, waited_for
from server.home import ServerHome, open_home
from server.initial import check_inheritance
from server.opening import open_store
from server.service.operator import OperatorClient
from server.store import UNENDED, Store, events, withdrawn
from server.store.releases import last_without
from shared.errors import ConfigError, ConnectionFailedError, joined, shown
from shared.federation import Federation, load_federation
from shared.federation.changes import describe_changes
from shared.process.lock import is_served

POLL_SECONDS = 0.3
"""Between two looks into the store for what happened in a run."""
UNFINISHED = (*UNENDED, "paused", "stopped", "failed")


@dataclass(frozen=True)
class Queued:
    """A run that the daemon will start."""

    run_id: str
    seen: int = 0
    """The last of its events so far; `follow` tells those after it."""
    note: str | None = None
    """What the operator should know."""


def start(folder: Path, parent: str | None = None, without: str | None = None) -> Queued:
    """Queue a new run under the offered agreement, or the folder's own where none is offered.

    Under an offered one it begins when all whom that names have approved it.

    Args:
        folder: The coordinator's.
        parent: `RUN` or `RUN:ROUND`, the best round if not named: the run begins with the state after it.
        without: An institution: the run begins with the last checkpoint that comes before it first took part in the
            named one, or in the latest run's best round.

    Raises:
        ConfigError: The federation file is wrong, there is no such state to begin with, or the run would be with the
            institution all the same.
        ConnectionFailedError: The coordinator is not up.
    """
    home = open_home(folder)
    with open_store(folder) as store:
        _check_up(folder)
        federation, notes = _agreement_to_come(home)
        if parent is None and without is None:
            return Queued(store.create_run(federation), note=_noted(notes))
        run, round = _state_of(store, parent or "")
        if without is not None:
            if without in federation.rounds.institutions and without not in withdrawn(store):
                raise ConfigError(
                    f"Expected a run without {without}, but the agreement names it and it has not withdrawn; record "
                    f"that by `collegium server withdraw {without}`, or offer an agreement without it by `collegium "
                    f"server remove {without}`."
                )
            run, round = last_without(store, run, round, without)
        check_inheritance(store.agreement(run), federation, run)
        notes.append(f"It begins with the state of run {run} after round {round}")
        return Queued(store.create_run(federation, (run, round)), note=_noted(notes))


def resume(folder: Path, run_id: str | None = None) -> Queued:
    """Queue an unfinished run again, the latest if not named: it goes on after its last checkpoint.

    An agreement that only adds institutions or rounds, and that all have approved, is then its own.

    Raises:
        ConfigError: There is no such run, or it has completed and no agreement with more rounds is approved by all.
        ConnectionFailedError: The coordinator is not up.
    """
    home = open_home(folder)
    with open_store(folder) as store:
        _check_up(folder)
        row = store.run(run_id)
        run, note = str(row["run"]), None
        seen = _last_event(store, run)
        agreed = store.agreement(run)
        longer = longer_agreement(home, agreed)
        if row["status"] == "completed" and (longer is None or longer.rounds.count == agreed.rounds.count):
            raise ConfigError(
                f"Expected an unfinished run, but run {run} has completed; start a new one, or offer more rounds by "
                f"`collegium server extend`{_waits_for(home)}."
            )
        if longer is not None:
            added = joined(describe_changes(agreed, longer), "; ")
            if agreement_for_run(home).digest == longer.digest:
                store.change_agreement(run, longer)
            note = f"Run {run} goes on under the agreement that all have approved since: {added}"
        elif changes := describe_changes(agreed, load_federation(home.federation_file)):
            note = (
                f"{home.federation_file} has changed since; run {run} goes on under the agreement it began with, "
                f"without this: {joined(changes, '; ')}"
            )
        ended = ("interrupted", "paused", "stopped", "failed", "created", *(("completed",) if longer else ()))
        store.move_run(run, "queued", of=ended, tries=0, pausing=False)
        return Queued(run, seen, note)


def _state_of(store: Store, named: str) -> tuple[str, int]:
    """The run and round that RUN:ROUND names; ConfigError if there is no such state."""
    run, _, number = named.partition(":")
    run = str(store.run(run or None)["run"])
    last, best = store.last_round(run), store.best_round(run)
    if number and not (number.isascii() and number.isdigit() and len(number) < 6):
        raise ConfigError(f"Expected RUN or RUN:ROUND, such as {run}:3, not {shown(named)}.")
    if last is None or best is None or (number and int(number) > last):
        raise ConfigError(f"Expected a round of run {run} up to {last or 0}, but {shown(named)} was named.")
    return run, int(number) if number else best


def _agreement_to_come(home: ServerHome) -> tuple[Federation, list[str]]:
    """The agreement of a run that is queued now, and what the operator should know of it."""
    offer = offered(home)
    if offer is None or (waits := waited_for(home, offer.digest)) is None:
        return agreement_for_run(home), []
    return offer, [f"It begins once all have approved the agreement {offer.digest[:12]}... that is offered: {waits}"]


def _noted(notes: list[str]) -> str | None:
    return joined(notes, ". ") or None


def _waits_for(home: ServerHome) -> str:
    """For whom an offered agreement waits, as a clause to be added; empty if none is offered."""
    offer = offered(home)
    return f" (what is offered now waits: {standing(home, offer).describe()})" if offer else ""


def look_up(folder: Path, run_id: str | None = None) -> Queued:
    """A run to follow from its beginning, the latest if not named. Raises ConfigError if there is none."""
    with open_store(folder) as store:
        return Queued(str(store.run(run_id)["run"]))


def pause(folder: Path, run_id: str | None = None) -> str:
    """Have a run end its round and then wait; what will happen, in a sentence.

    Raises:
        ConfigError: There is no such run, or it is not going on.
    """
    with open_store(folder) as store:
        row = store.run(run_id)
        run = str(row["run"])
        if store.move_run(run, "paused", of=("queued", "interrupted")):
            return f"Run {run} is paused."
        if row["status"] not in UNENDED:
            raise ConfigError(f"Expected a run that goes on, but run {run} is {row['status']}.")
        store.update_run(run, pausing=True)
        return f"Run {run} pauses at the end of its round."


def unpause(folder: Path, run_id: str | None = None) -> str:
    """Have a paused run go on, or forget that it was to pause.

    Raises:
        ConfigError: There is no such run, or it is not paused.
    """
    with open_store(folder) as store:
        row = store.run(run_id)
        run = str(row["run"])
        if store.move_run(run, "queued", of=("paused",), pausing=False, tries=0):
            return f"Run {run} goes on."
        if row["status"] in UNENDED and row["pausing"]:
            store.update_run(run, pausing=False)
            return f"Run {run} does not pause."
        raise ConfigError(f"Expected a paused run, but run {run} is {row['status']}.")


def stop(folder: Path, run_id: str | None = None) -> str:
    """End a run now. Its last checkpoint is kept, so that `resume` can go on from it.

    Raises:
        ConfigError: There is no such run, or it has ended.
    """
    with open_store(folder) as store:
        row = store.run(run_id)
        run = str(row["run"])
        if not store.move_run(run, "stopped", of=(*UNENDED, "paused"), reason="Stopped by the operator", pausing=False):
            raise ConfigError(f"Expected a run that goes on, but run {run} is {row['status']}.")
        store.add_event(run, "Stopped by the operator")
        if number := store.run(run)["flower_run"]:
            try:
                with OperatorClient(open_home(folder)) as operator:
                    operator.stop_run(int(number))
            except (ConfigError, ConnectionFailedError):  # it has ended, or the server has: nothing is left to stop
                pass
    return f"Run {run} is stopped; `collegium server resume` goes on from its last checkpoint."


def follow(
    folder: Path,
    run_id: str,
    announce: Callable[[str], None],
    *,
    seen: int | None = None,
    check: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Announce a run's events until it has ended or is paused; the server may be started again meanwhile.

    Args:
        folder: The coordinator's folder.
        run_id: The run.
        announce: Told every new event.
        seen: The id of the last event that is not new; if None, all that there are so far are old.
        check: Called at every look; may raise to stop following.

    Returns:
        The run's id, status, and the reason if it failed.
    """
    home, up = open_home(folder), True
    with open_store(folder) as store:
        told = _last_event(store, run_id) if seen is None else seen
        while True:
            if check:
                check()
            row = store.run(run_id)
            for event in store.events_after(run_id, told):
                told = event["id"]
                announce(event["text"])
            if row["status"] not in UNENDED:
                if row["status"] == "failed":
                    announce(f"The run has failed: {row['reason']}")
                return {"run": run_id, "status": row["status"], "reason": row["reason"]}
            if up and not is_served(home.lock_file):
                announce(f"The server is not up; the run goes on once it is: collegium server up {folder}")
            up = is_served(home.lock_file)
            time.sleep(POLL_SECONDS)


def _check_up(folder: Path) -> None:
    """Raise ConnectionFailedError before anything is recorded, if the coordinator is not up."""
    with OperatorClient(open_home(folder)) as operator:
        operator.nodes()


def _last_event(store: Store, run_id: str) -> int:
    return max((row["id"] for row in store.rows(events, run_id)), default=0)
