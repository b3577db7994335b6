"""The coordinator's metrics: what its store, its folder and its doors know at the moment of the question."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from server.agreement import offered, standing
from server.enrolment.certificates import authority_of, server_certificate
from server.enrolment.invitations import Invitations
from server.home import ServerHome
from server.runs.status import last_spending, missed, remaining
from server.service.operator import Node
from server.store import UNENDED, Store, replies, rounds, runs, scores, spending
from server.upkeep.retention import sizes
from shared.federation import Federation
from shared.tasks import build_task
from shared.watching.metrics import Metric, family, machine, processes

STATUSES = (*UNENDED, "paused", "stopped", "failed", "completed")


@dataclass(frozen=True)
class AtTheDoor:
    """What the SuperLink alone knows."""

    nodes: Sequence[Node]
    refused: Sequence[Mapping[str, Any]]
    """`node_id`, `limit` and `times` of who asked too much since the server was started."""
    ready: bool
    """Whether rounds could run; see `server.watching.health`."""


def metrics(home: ServerHome, store: Store, door: AtTheDoor, daemon: int | None = None) -> list[Metric]:
    """All of them.

    Labels are names of the federation file and of those who are enrolled, and words of Collegium; nothing else.

    Args:
        home: The coordinator's folder.
        store: Its store.
        door: What the SuperLink knows.
        daemon: The daemon's process id; this process's parent if not given.

    Raises:
        StoreError: The store cannot be read.
    """
    last = _current(store)
    agreed = store.agreement(last["run"]) if last else None
    roster = {node.name for node in door.nodes if node.name} | set(agreed.rounds.institutions if agreed else ())
    return [
        family("collegium_info", "Versions.", {(version("collegium"), version("flwr")): 1}, "version", "flwr"),
        family("collegium_ready", "Whether rounds could run, as far as the coordinator goes.", float(door.ready)),
        *_runs(store),
        *(_current_run(store, last, agreed) if last and agreed else ()),
        *_answers(store, roster),
        *_institutions(home, door),
        *_folder(home),
        *machine(home.root, processes(daemon or os.getppid())),
    ]


def _current(store: Store) -> dict[str, Any] | None:
    """The run that the figures of one run are of: the first that goes on, else the latest."""
    going_on = [row for row in store.unended_runs() if row["status"] != "queued"] or store.unended_runs()
    if going_on:
        return going_on[0]
    return next(iter(store.select(sa.select(runs).order_by(runs.c.started.desc()).limit(1))), None)


def _runs(store: Store) -> Iterable[Metric]:
    by_status = {(status,): 0.0 for status in STATUSES}
    for row in store.select(sa.select(runs.c.status, sa.func.count().label("count")).group_by(runs.c.status)):
        by_status[(row["status"],)] = row["count"]
    counted = sa.func.count(rounds.c.round).label("count"), sa.func.sum(rounds.c.seconds).label("seconds")
    done = store.select(sa.select(*counted))[0]
    starts = store.select(sa.select(sa.func.sum(runs.c.attempt).label("starts")))[0]["starts"] or 0
    return (
        family("collegium_runs", "Runs, by their status; `queued` wait for their turn.", by_status, "status"),
        family("collegium_run_starts_total", "Starts of the processes of runs.", starts, counter=True),
        family("collegium_rounds_total", "Rounds that were finished, in all runs.", done["count"], counter=True),
        family(
            "collegium_round_seconds_total", "Time that finished rounds took.", done["seconds"] or 0.0, counter=True
        ),
    )


def _current_run(store: Store, row: Mapping[str, Any], agreed: Federation) -> Iterable[Metric]:
    run, done = row["run"], store.rows(rounds, row["run"])
    last = max((one["round"] for one in done), default=0)
    best = store.best_round(run)
    scored = {one["round"]: one["score"] for one in done if one["score"] is not None}
    left = remaining(row, done, agreed.rounds.count)
    shown = [
        ("collegium_run_active", "Whether a run goes on.", float(row["status"] in UNENDED)),
        ("collegium_run_round", "Last finished round of the current run.", last),
        ("collegium_run_rounds_agreed", "Rounds that the current run is to have.", agreed.rounds.count),
        ("collegium_run_remaining_seconds", "About how long the current run still takes.", left),
        ("collegium_run_quorum", "Institutions that a round needs.", agreed.rounds.quorum),
        ("collegium_run_best_round", "Round of the current run that would be released.", best),
        ("collegium_run_best_score", "Validation score of that round.", scored.get(best or 0)),
        ("collegium_round_score", "Validation score of the last round.", scored.get(last)),
        ("collegium_round_last_seconds", "Time that the last round took.", done[-1]["seconds"] if done else None),
        ("collegium_epsilon_agreed", "What the agreement lets a run cost an owner.", _agreed_epsilon(agreed)),
    ]
    trained = store.select(
        sa.select(replies).where(replies.c.run == run, replies.c.kind == "train").order_by(replies.c.id)
    )
    spent = last_spending(store.rows(spending, run))
    return (
        *(family(name, text, value) for name, text, value in shown if value is not None),
        family(
            "collegium_institution_rounds_missed",
            "Rounds of the current run that an institution has missed one after the other.",
            {(name,): missed(trained, name) for name in agreed.rounds.institutions},
            "institution",
        ),
        family(
            "collegium_epsilon_spent",
            "What an institution's data have spent, as it said last.",
            {(one["institution"],): one["epsilon"] for one in spent},
            "institution",
        ),
        family(
            "collegium_score",
            "Score of a task at an institution, in the task's own metric, as of the last time that it was scored.",
            _scores(store, run, agreed),
            "institution",
            "task",
            "split",
        ),
    )


def _agreed_epsilon(agreed: Federation) -> float | None:
    return agreed.privacy.epsilon if agreed.privacy else None


def _scores(store: Store, run: str, agreed: Federation) -> dict[tuple[str, ...], float]:
    last = sa.func.max(scores.c.round).label("last")
    keys = (scores.c.institution, scores.c.task, scores.c.split, scores.c.metric)
    latest = sa.select(*keys, last).where(scores.c.run == run).group_by(*keys).subquery()
    same = [scores.c[column.name] == latest.c[column.name] for column in keys]
    query = sa.select(scores).join(latest, sa.and_(*same, scores.c.round == latest.c.last)).where(scores.c.run == run)
    metric = {name: build_task(name, spec).metric for name, spec in agreed.tasks.items()}
    return {
        (row["institution"], row["task"], row["split"]): row["value"]
        for row in store.select(query)
        if row["metric"] == metric.get(row["task"])
    }


def _answers(store: Store, roster: Collection[str]) -> Iterable[Metric]:
    """Of all runs, so that the figures only ever grow."""
    total = [sa.func.sum(replies.c[name]).label(name) for name in ("bytes_up", "bytes_down", "seconds")]
    keys = (replies.c.institution, replies.c.kind, replies.c.status, replies.c.refusal)
    found = store.select(sa.select(*keys, sa.func.count().label("count"), *total).group_by(*keys))
    rows = [row for row in found if row["institution"] in roster]

    def summed(value: str, *names: str) -> dict[tuple[str, ...], float]:
        values: dict[tuple[str, ...], float] = {}
        for row in rows:
            if all(row[name] is not None for name in names):
                key = tuple(row[name] for name in names)
                values[key] = values.get(key, 0.0) + float(row[value] or 0)
        return values

    by_institution = ("institution",)
    return (
        family(
            "collegium_answers_total",
            "Answers of institutions: ok, refused, dropped (a bad one) or missing.",
            summed("count", "institution", "kind", "status"),
            *by_institution,
            "request",
            "status",
            counter=True,
        ),
        family(
            "collegium_refusals_total",
            "Requests that institutions refused, by the kind of their reason.",
            summed("count", "institution", "refusal"),
            *by_institution,
            "kind",
            counter=True,
        ),
        family(
            "collegium_received_bytes_total",
            "Received from an institution.",
            summed("bytes_up", "institution"),
            *by_institution,
            counter=True,
        ),
        family(
            "collegium_sent_bytes_total",
            "Sent to an institution.",
            summed("bytes_down", "institution"),
            *by_institution,
            counter=True,
        ),
        family(
            "collegium_answer_seconds_total",
            "Time from requests to their answers.",
            summed("seconds", "institution", "kind"),
            *by_institution,
            "request",
            counter=True,
        ),
    )


def _institutions(home: ServerHome, door: AtTheDoor) -> Iterable[Metric]:
    named = {node.node_id: node.name for node in door.nodes if node.name}
    offer = offered(home)
    waits = standing(home, offer) if offer else None
    return (
        family(
            "collegium_institution_online",
            "Whether an institution is connected.",
            {(node.name,): float(node.status == "online") for node in door.nodes if node.name},
            "institution",
        ),
        family(
            "collegium_institution_last_seen_timestamp_seconds",
            "When an institution was last heard of.",
            {(node.name,): node.last_seen.timestamp() for node in door.nodes if node.name and node.last_seen},
            "institution",
        ),
        family(
            "collegium_door_refused_total",
            "Requests over a limit of the public door.",
            {(named[row["node_id"]], row["limit"]): row["times"] for row in door.refused if row["node_id"] in named},
            "institution",
            "limit",
            counter=True,
        ),
        family("collegium_invitations", "Invitations that are open.", len(Invitations(home.enrolment_database).open())),
        family(
            "collegium_agreement_unapproved",
            "Institutions that have not approved the agreement that is offered.",
            len(waits.silent) + len(waits.declined) if waits else 0,
        ),
    )


def _folder(home: ServerHome) -> Iterable[Metric]:
    ends = {
        ("server",): server_certificate(home).not_valid_after_utc.timestamp(),
        ("authority",): authority_of(home).not_valid_after_utc.timestamp(),
    }
    return (
        family("collegium_certificate_expiry_timestamp_seconds", "When a certificate ends.", ends, "certificate"),
        family(
            "collegium_stored_bytes",
            "Files of the coordinator's folder.",
            {(what,): float(size) for what, size in sizes(home).items()},
            "what",
        ),
    )
