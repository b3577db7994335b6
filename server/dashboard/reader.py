"""A run out of the store, for pages that follow it: what is new is read and added, however long the run has been going.

A run of 500 rounds and 50 institutions has about 150,000 rows. They are read once; from then on one question tells
whether there is anything new, and only that is read.
"""

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from server.rounds.outcomes import PERSONAL
from server.store import Store, evaluations, events, findings, replies, rounds, runs, scores, spending
from shared.config import parse
from shared.federation import Federation
from shared.tasks import build_task

KEPT_EVENTS = 100
Row = dict[str, Any]
Curve = dict[int, float]
"""Scores by round."""


@dataclass
class Seat:
    """What is known of one institution in a run."""

    seconds: float | None = None
    """Of its last training."""
    bytes_up: int = 0
    bytes_down: int = 0
    missed: set[int] = field(default_factory=set)
    """Rounds since its last update."""
    last_round: int | None = None
    """Of its last update."""
    trouble: str | None = None
    """Why its last training did not count."""
    status: str | None = None
    """Of its last training."""
    software: str | None = None
    epsilon: float | None = None
    scores_epsilon: dict[str, float] = field(default_factory=dict)
    """By split, what private scores have cost."""
    held_back: int = 0
    """How often a robust filter held its step back."""
    finding: str | None = None
    """The last reason for that."""


@dataclass
class Picture:
    """A run, as far as it has come."""

    row: Row
    federation: Federation
    rounds: list[Row] = field(default_factory=list)
    seats: dict[str, Seat] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Validation scores by task and institution, in the task's own metric."""
    tests: dict[tuple[str, str], Curve] = field(default_factory=dict)
    """Scores on test records by task and institution; round 0 is before training."""
    own: dict[tuple[str, str], Curve] = field(default_factory=dict)
    """The same of institutions' own models."""
    answered: dict[str, str] = field(default_factory=dict)
    """Who has answered what is asked now, and how."""
    events: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

    @cached_property
    def metrics(self) -> Mapping[str, str]:
        """Each task's own metric."""
        return {name: build_task(name, spec).metric for name, spec in self.federation.tasks.items()}

    @property
    def asking(self) -> Row | None:
        """Whom it waits for, if it runs; see `server.store.schema`."""
        return self.row["asking"] if self.row["status"] == "running" else None

    @property
    def waiting_for(self) -> list[str]:
        """Who has not answered yet."""
        return [name for name in self.asking["names"] if name not in self.answered] if self.asking else []

    def seat(self, name: str) -> Seat:
        """An institution's."""
        return self.seats.setdefault(name, Seat())


class Reader:
    """Keeps the picture of one run; threads may share it.

    Args:
        store: The coordinator's.
        run: The run.

    Raises:
        ConfigError: There is no such run.
        StoreError: The store cannot be read; every reading may say so.
    """

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run, self._lock = store, run, threading.Lock()
        self._picture = Picture(row := store.run(run), _agreement(row))
        self._stamp: Row = {}
        self._version = 0

    def read(self) -> tuple[Picture, int]:
        """The run as it is now, and a number that is another one whenever something has changed."""
        with self._lock:
            stamp = self._store.select(_question(self._run))[0]
            if stamp != self._stamp:
                self._add(self._stamp, stamp)
                self._stamp = stamp
                self._version += 1
            return self._picture, self._version

    def _add(self, before: Row, now: Row) -> None:
        picture = self._picture
        row = self._store.run(self._run)
        if row["digest"] != picture.row["digest"]:
            picture.federation = _agreement(row)
            picture.__dict__.pop("metrics", None)
        asked = (picture.row["asking"] or {}).get("since"), (row["asking"] or {}).get("since")
        if asked[0] != asked[1]:
            picture.answered = {}
        picture.row = row
        if before.get("rounds") != now["rounds"]:
            picture.rounds = self._store.rows(rounds, self._run)
        for name, add in READ.items():
            if (last := before.get(name)) != now[name]:
                table = TABLES[name]
                new = (table.c.id > (last or 0)) & (table.c.id <= now[name])
                query = sa.select(table).where(table.c.run == self._run, new)
                add(picture, self._store.select(_narrowed(name, query, picture).order_by(table.c.id)))


def _agreement(row: Row) -> Federation:
    return parse(Federation, json.loads(row["agreement"]), where=f"run {row['run']}")


def _question(run: str) -> sa.Select[Any]:
    """Whether anything is new, in one question."""
    newest = {
        name: sa.select(sa.func.max(table.c.id)).where(table.c.run == run).scalar_subquery().label(name)
        for name, table in TABLES.items()
    }
    last = sa.select(sa.func.max(rounds.c.round)).where(rounds.c.run == run).scalar_subquery().label("rounds")
    own = (runs.c.status, runs.c.pausing, runs.c.reason, runs.c.digest, runs.c.attempt, runs.c.asking)
    return sa.select(*own, last, *newest.values()).where(runs.c.run == run)


def _narrowed(name: str, query: sa.Select[Any], picture: Picture) -> sa.Select[Any]:
    """Of scores only those that are shown, of events only the last."""
    if name == "scores":
        return query.where(scores.c.metric.in_(set(picture.metrics.values())))
    if name == "events":
        newest = sa.select(events.c.id).where(events.c.run == picture.row["run"]).order_by(events.c.id.desc())
        return query.where(events.c.id.in_(newest.limit(KEPT_EVENTS).scalar_subquery()))
    return query


def _add_replies(picture: Picture, rows: Sequence[Row]) -> None:
    asking = picture.row["asking"] or {}
    for row in rows:
        seat = picture.seat(row["institution"])
        seat.bytes_up += row["bytes_up"]
        seat.bytes_down += row["bytes_down"]
        seat.software = row["software"] or seat.software
        if _answers(row, asking):
            picture.answered[row["institution"]] = row["status"]
        if row["kind"] != "train":
            continue
        seat.status = row["status"]
        if row["status"] == "ok":
            seat.missed.clear()
            seat.last_round, seat.seconds, seat.trouble = row["round"], row["seconds"], None
        else:
            seat.missed.add(row["round"])
            seat.trouble = f"{row['refusal']}: {row['reason']}" if row["refusal"] else row["reason"]


def _answers(row: Row, asking: Row) -> bool:
    """Whether a reply is one to what is asked now; a query names no round."""
    if not asking or row["kind"] != asking["kind"] or row["id"] <= asking["after"]:
        return False
    return asking["round"] in (None, row["round"])


def _add_scores(picture: Picture, rows: Sequence[Row]) -> None:
    for row in rows:
        task, institution = row["task"], row["institution"]
        if row["metric"] != picture.metrics.get(task):
            continue
        if row["split"] == "validation":
            curve = picture.curves.setdefault(task, {}).setdefault(institution, {})
        else:
            kept = picture.own if row["split"] == PERSONAL else picture.tests
            curve = kept.setdefault((task, institution), {})
        curve[row["round"]] = row["value"]


def _add_spending(picture: Picture, rows: Sequence[Row]) -> None:
    for row in rows:
        picture.seat(row["institution"]).epsilon = row["epsilon"]


def _add_evaluations(picture: Picture, rows: Sequence[Row]) -> None:
    for row in rows:
        picture.seat(row["institution"]).scores_epsilon[row["split"]] = row["epsilon"]


def _add_findings(picture: Picture, rows: Sequence[Row]) -> None:
    for row in rows:
        if row["verdict"] != "kept":
            seat = picture.seat(row["institution"])
            seat.held_back += 1
            seat.finding = row["reason"] or row["verdict"]


def _add_events(picture: Picture, rows: Sequence[Row]) -> None:
    picture.events.extend(rows)


TABLES = {
    "replies": replies,
    "scores": scores,
    "spending": spending,
    "evaluations": evaluations,
    "findings": findings,
    "events": events,
}
READ = {
    "replies": _add_replies,
    "scores": _add_scores,
    "spending": _add_spending,
    "evaluations": _add_evaluations,
    "findings": _add_findings,
    "events": _add_events,
}
"""How the rows of each table are added to a picture."""
