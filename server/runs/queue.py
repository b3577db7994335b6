"""What the coordinator's daemon does for runs: starts queued ones in their turn, takes up again what was cut off.

Everything that it goes by is in the store: a daemon that was killed, or a machine that was started again, goes on where
the last one was. Every start of a run has a number, which the run's process must show (`server/app.py`): a process of
an earlier start, which Flower may still hold or begin, is turned away.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from server.bundle import RUN_KEY, pointer_bundle
from server.service.operator import RunStatus
from server.store import Store
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, joined
from shared.watching.logs import about

LOOK_SECONDS, IDLE_SECONDS = 0.3, 1.0
"""Between two looks into the store: while a run has not ended, and while there is none, which should cost nothing."""
FLOWER_SECONDS = 3.0
"""Between two questions to Flower whether a run's process is alive."""
PATIENCE_SECONDS = 30.0
"""How long runs may be out of reach before the operator hears of it."""
MOST_TRIES = 3
"""How often a run is taken up again without a finished round in between."""
PAUSES = (1.0, 10.0, 60.0)
"""Seconds before each of these tries."""
Row = Mapping[str, Any]


class Flower(Protocol):
    """What is needed of `server.service.operator.OperatorClient`."""

    def start_run(self, fab: bytes, run_config: Mapping[str, str | int | float | bool]) -> int:
        """Start a run; its number."""

    def run_status(self, run_id: int) -> RunStatus:
        """How far it is."""

    def stop_run(self, run_id: int) -> None:
        """Stop it."""


class Queue:
    """Looks after the runs of one store. Runs of different institutions go side by side, others one after the other.

    Args:
        store: The coordinator's. What a daemon before this one has left running is queued again, as not its own fault.
        flower: The SuperLink; one that does not answer is asked again at the next look.
        alive: Whether the process of a run lives.
        announce: Told what happens to a run, which its events keep too.
        clock: Seconds; a test may pass its own.
        obstacle: What keeps all runs from going on, such as a full disk, as a sentence, or nothing. They wait until the
            operator has mended it, and it costs them no try.
        waited_for: For whom a run under an agreement of this digest waits, to approve it; None if for nobody.
    """

    def __init__(
        self,
        store: Store,
        flower: Flower,
        alive: Callable[[str], bool],
        announce: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        obstacle: Callable[[], str] = str,
        waited_for: Callable[[str], str | None] = lambda digest: None,
    ) -> None:
        self._waited_for = waited_for
        self._store, self._flower, self._alive, self._announce, self._clock = store, flower, alive, announce, clock
        self._obstacle, self._hindered = obstacle, ""
        self._institutions: dict[str, frozenset[str]] = {}
        self._not_before: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._behind: dict[str, frozenset[str]] = {}
        self._unapproved: dict[str, str] = {}
        for row in store.unended_runs():
            if row["status"] != "queued" and store.move_run(row["run"], "queued"):
                self._say(row, "The server was stopped in the middle of the run, which goes on now")

    def look(self) -> bool:
        """Do what is due; whether there is a run that has not ended.

        Raises:
            ConnectionFailedError: The SuperLink does not answer.
            StoreError: The store cannot be read or written.
        """
        rows, hindered = self._store.unended_runs(), self._is_hindered()
        busy: dict[str, frozenset[str]] = {}
        for row in rows:
            if row["status"] == "interrupted":
                if not hindered:
                    self._take_up_again(row)
            elif row["status"] != "queued":
                self._watch(row)
                busy[row["run"]] = self._taking_part(row)
        for row in rows:
            if row["status"] == "queued" and not self._waits_for_a_word(row):
                mine = self._taking_part(row)
                others = frozenset(run for run, theirs in busy.items() if mine & theirs)
                if others:
                    self._wait_behind(row, others)
                elif not hindered and self._clock() >= self._not_before.get(row["run"], 0.0):
                    self._start(row)
                busy[row["run"]] = mine  # so that nobody is overtaken by a later run
        return bool(rows)

    def _is_hindered(self) -> bool:
        """Whether something keeps all runs from going on, which is said once."""
        if (found := self._obstacle()) and not self._hindered:
            self._announce(found)
        self._hindered = found
        return bool(found)

    def _start(self, row: Row) -> None:
        run, attempt = row["run"], row["attempt"] + 1
        if row["flower_run"]:
            self._stop_in_flower(int(row["flower_run"]))
        if not self._store.move_run(
            run, "starting", of=("queued",), at=row["attempt"], attempt=attempt, flower_run=None
        ):
            return
        try:
            number = self._flower.start_run(pointer_bundle(), {RUN_KEY: f"{run}:{attempt}"})
        except ConnectionFailedError:
            self._store.move_run(run, "queued", of=("starting",))
            raise
        except CollegiumError as error:
            self._fail(row, "starting", f"It was not started: {error}")
            return
        self._store.update_run(run, flower_run=str(number))
        self._behind.pop(run, None)

    def _watch(self, row: Row) -> None:
        """Notice a run whose process has gone without a word."""
        run, now = row["run"], self._clock()
        if row["status"] == "running" and not self._alive(run):
            self._interrupt(row, "The run's process has died.")
            return
        if row["flower_run"] is None or now - self._asked.get(run, -FLOWER_SECONDS) < FLOWER_SECONDS:
            return
        self._asked[run] = now
        try:
            status = self._flower.run_status(int(row["flower_run"]))
        except ConfigError:  # the SuperLink has a new database
            reason = "Flower does not know the run's process any more."
        else:
            how = f"{status.sub_status or status.status}: {status.details or 'no details'}"
            reason = f"Flower ended the run's process as {how}." if status.finished else ""
        if reason:
            self._interrupt(row, reason)

    def _interrupt(self, row: Row, reason: str) -> None:
        """Unless it has come to its end meanwhile."""
        self._store.move_run(row["run"], "interrupted", of=("starting", "running"), at=row["attempt"], reason=reason)

    def _take_up_again(self, row: Row) -> None:
        run, tries, reason = row["run"], row["tries"], row["reason"] or "for no known reason"
        if tries >= MOST_TRIES:
            self._fail(row, "interrupted", f"{reason} It was taken up {MOST_TRIES} times without finishing a round.")
            return
        pause = PAUSES[tries]
        if self._store.move_run(run, "queued", of=("interrupted",), tries=tries + 1):
            self._not_before[run] = self._clock() + pause
            self._say(row, f"Interrupted: {reason} Try {tries + 1} of {MOST_TRIES} begins in {pause:g} s")

    def _fail(self, row: Row, status: str, reason: str) -> None:
        """End a run for good; who follows it reads the reason beside its status."""
        if self._store.move_run(row["run"], "failed", of=(status,), reason=reason):
            with about(run=row["run"]):
                self._announce(f"Run {row['run']} has failed: {reason}")

    def _wait_behind(self, row: Row, others: frozenset[str]) -> None:
        if self._behind.get(row["run"]) != others:
            self._behind[row["run"]] = others
            self._say(row, f"Waiting for run {joined(sorted(others))}, in which the same institutions take part")

    def _waits_for_a_word(self, row: Row) -> bool:
        """Whether a run that has never begun waits for an agreement to be approved: others may go before it."""
        run = row["run"]
        waits = None if row["attempt"] else self._waited_for(row["digest"])
        if waits and self._unapproved.get(run) != waits:
            self._say(row, f"Waiting for the agreement {row['digest'][:12]}... to be approved: {waits}")
        if waits:
            self._unapproved[run] = waits
        elif self._unapproved.pop(run, None):
            self._say(row, f"The agreement {row['digest'][:12]}... is not waited for any more")
        return waits is not None

    def _stop_in_flower(self, number: int) -> None:
        try:
            self._flower.stop_run(number)
        except ConfigError:  # it is finished, or unknown to a SuperLink that has a new database
            return

    def _taking_part(self, row: Row) -> frozenset[str]:
        digest = row["digest"]  # a run may go on under another agreement
        if digest not in self._institutions:
            agreed = self._store.agreement(row["run"]).rounds.institutions
            self._institutions[digest] = frozenset(agreed)
        return self._institutions[digest]

    def _say(self, row: Row, text: str) -> None:
        self._store.add_event(row["run"], text)
        with about(run=row["run"]):
            self._announce(f"Run {row['run']}: {text}")


def conduct(queue: Queue, *, over: Callable[[float], bool], announce: Callable[[str], None]) -> None:
    """Look after runs until all is over. What goes wrong for some time is said once, and tried again for ever.

    Args:
        queue: The runs.
        over: Waits some seconds; whether the daemon ends.
        announce: Told what goes wrong.
    """
    since, said, pause = time.monotonic(), False, LOOK_SECONDS
    while not over(pause):
        try:
            pause = LOOK_SECONDS if queue.look() else IDLE_SECONDS
            since, said = time.monotonic(), False
        except CollegiumError as error:
            if not said and time.monotonic() - since > PATIENCE_SECONDS:  # a SuperLink takes seconds to start
                announce(f"Runs cannot be looked after: {error}")
                said = True
