"""A run out of the store, for pages that follow it: what is new is read and added, however long the run has been going.

A run of 500 rounds and 50 institutions has more than 100,000 rows. What is shown of them is read once; from then on one
question tells whether there is anything new, and only that is read.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
MOST_ROUNDS = 150
"""Of which scores are read when a run is seen for the first time."""
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

    def read(self) -> tuple[Picture, Row]:
        """The run as it is now, and the last row of each table that is in it, which tells whether something is new."""
        with self._lock:
            stamp = self._store.select(_question(self._run))[0]
            if stamp != self._stamp:
                self._add(self._stamp, stamp)
                self._stamp = stamp
            return self._picture, self._stamp

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
        if not before:
            self._sum_up(now)
        for name, add in READ.items():
            if (last := before.get(name)) != now[name]:
                table, (add_rows, columns) = TABLES[name], add
                new = (table.c.run == self._run) & (table.c.id > (last or 0)) & (table.c.id <= now[name])
                if name in NEEDED and not before:
                    new &= NEEDED[name](picture, new, now)
                query = sa.select(table.c.id, *(table.c[column] for column in columns)).where(new)
                add_rows(picture, self._store.select(query.order_by(table.c.id)))
                if name == "replies" and before:
                    self._count(self._store.select(_sums(new)))

    def _sum_up(self, now: Row) -> None:
        """The bytes of all replies so far, by institution."""
        if now["replies"]:
            self._count(self._store.select(_sums((replies.c.run == self._run) & (replies.c.id <= now["replies"]))))

    def _count(self, sums: Sequence[Row]) -> None:
        for row in sums:
            seat = self._picture.seat(row["institution"])
            seat.bytes_up += row["up"]
            seat.bytes_down += row["down"]


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


def _sums(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    up, down = sa.func.sum(replies.c.bytes_up).label("up"), sa.func.sum(replies.c.bytes_down).label("down")
    return sa.select(replies.c.institution, up, down).where(which).group_by(replies.c.institution)


Narrow = Callable[[Picture, sa.ColumnElement[bool], Row], sa.ColumnElement[bool]]


def _needed_replies(picture: Picture, new: sa.ColumnElement[bool], _: Row) -> sa.ColumnElement[bool]:
    """Of all replies so far: who trained last, who did not, what is asked now, and who said what it holds."""
    train = replies.c.kind == "train"
    last = (
        sa.select(sa.func.max(replies.c.id)).where(new, train, replies.c.status == "ok").group_by(replies.c.institution)
    )
    after = (picture.row["asking"] or {}).get("after", 0)
    asked = (replies.c.id > after) if after else sa.false()
    return (train & ((replies.c.status != "ok") | replies.c.id.in_(last))) | (replies.c.kind == "query") | asked


def _needed_scores(picture: Picture, new: sa.ColumnElement[bool], now: Row) -> sa.ColumnElement[bool]:
    """Of all scores so far: those that are drawn of a long run, the last ones, and what is not a curve's."""
    step = 1 + (now["rounds"] or 0) // MOST_ROUNDS
    best = max(picture.rounds, key=lambda each: (each["score"] or 0.0, -each["round"]), default={"round": 0})["round"]
    of = (scores.c.institution, scores.c.task, scores.c.metric)
    last = sa.select(sa.func.max(scores.c.id)).where(new, scores.c.split == "validation").group_by(*of)
    drawn = (scores.c.round % step == 0) | scores.c.round.in_((1, best)) | scores.c.id.in_(last)
    return (scores.c.split != "validation") | drawn


def _needed_events(_: Picture, new: sa.ColumnElement[bool], __: Row) -> sa.ColumnElement[bool]:
    newest = sa.select(events.c.id).where(new).order_by(events.c.id.desc()).limit(KEPT_EVENTS)
    return events.c.id.in_(newest.scalar_subquery())


NEEDED: Mapping[str, Narrow] = {"replies": _needed_replies, "scores": _needed_scores, "events": _needed_events}
"""Which rows are read when a run is seen for the first time, so that a page of 500 rounds is there at once."""


def _add_replies(picture: Picture, rows: Sequence[Row]) -> None:
    asking = picture.row["asking"] or {}
    for row in rows:
        seat = picture.seat(row["institution"])
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
READ: Mapping[str, tuple[Callable[[Picture, Sequence[Row]], None], tuple[str, ...]]] = {
    "replies": (_add_replies, ("round", "kind", "institution", "status", "refusal", "reason", "seconds", "software")),
    "scores": (_add_scores, ("round", "split", "institution", "task", "metric", "value")),
    "spending": (_add_spending, ("institution", "epsilon")),
    "evaluations": (_add_evaluations, ("institution", "split", "epsilon")),
    "findings": (_add_findings, ("institution", "verdict", "reason")),
    "events": (_add_events, ("text", "time")),
}
"""How the rows of each table are added to a picture, and which columns that takes."""
