"""What the coordinator's operator should hear of: out of the store and the folder, in words of Collegium alone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from server.enrolment.certificates import look
from server.home import ServerHome
from server.runs.status import missed
from server.store import Store, events, replies, runs
from shared.enrolment.certificates import WARNING_DAYS
from shared.watching.notices import FORGET_SECONDS, Notice

MISSED = 3
"""Rounds one after the other without an institution."""
QUORUM = "Interrupted: Expected at least"
"""How the event of a run begins that had too few institutions (`shared.errors.QuorumError`)."""


@dataclass
class Finder:
    """Looks for what holds now.

    Args:
        home: The coordinator's folder.
        store: Its store.
    """

    home: ServerHome
    store: Store
    _seen: int = -1
    """The last event that was looked at; those before the first look are no news."""

    def __call__(self, since: float) -> Iterator[Notice]:
        """What holds; runs that had ended by then, in seconds since 1970, are left out."""
        lately = max(since, time.time() - FORGET_SECONDS)
        yield from self._ended(datetime.fromtimestamp(lately, UTC).isoformat(timespec="microseconds"))
        yield from self._quorum()
        for row in self.store.unended_runs():
            yield from self._institutions(row["run"])
        yield from self._certificates()

    def _ended(self, since: str) -> Iterator[Notice]:
        over = runs.c.status.in_(("failed", "completed")) & (runs.c.ended > since)
        for row in self.store.select(sa.select(runs.c.run, runs.c.status, runs.c.ended).where(over)):
            run, key = row["run"], f"{row['status']}:{row['run']}:{row['ended']}"
            if row["status"] == "completed":
                yield Notice(key, f"Run {run} has completed", "`collegium server release` writes its best round.")
            else:
                text = "`collegium server runs` says why; `collegium server resume` goes on after its last checkpoint."
                yield Notice(key, f"Run {run} has failed", text)

    def _quorum(self) -> Iterator[Notice]:
        last = self.store.select(sa.select(sa.func.max(events.c.id).label("last")))[0]["last"] or 0
        if 0 <= self._seen < last:
            new = (events.c.id > self._seen) & events.c.text.startswith(QUORUM)
            for run in {row["run"] for row in self.store.select(sa.select(events.c.run).where(new))}:
                text = "It is tried again by itself; `collegium server status` names those who are away."
                yield Notice(f"quorum:{run}", f"Run {run} lacks its quorum", text)
        self._seen = last

    def _institutions(self, run: str) -> Iterator[Notice]:
        asked = sa.select(replies).where(replies.c.run == run, replies.c.kind == "train").order_by(replies.c.id)
        answers = self.store.select(asked)
        for name in sorted({row["institution"] for row in answers}):
            if missed(answers, name) >= MISSED:
                text = f"It has missed {MISSED} rounds of run {run} or more; `collegium server status` says why."
                yield Notice(f"absent:{run}:{name}", f"{name} is absent", text)
        for name in sorted({row["institution"] for row in answers if row["refusal"] == "budget"}):
            text = f"It refused to train in run {run}, since the privacy budget of its data is spent."
            yield Notice(f"budget:{run}:{name}", f"The budget of {name} is exhausted", text)

    def _certificates(self) -> Iterator[Notice]:
        days = look(self.home)
        for name, left, command in (
            ("server", days.server, "`collegium server rotate-certificate`"),
            ("authority", days.authority, "`collegium server rotate-authority`"),
        ):
            if left < WARNING_DAYS:
                text = f"{left} days are left; {command} makes the next one."
                yield Notice(f"certificate:{name}", f"The certificate of the {name} ends soon", text)
