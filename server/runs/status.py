"""What the operator is told of institutions and runs: out of the store, and of the SuperLink where it is up."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.agreement import offered, standing
from server.enrolment.certificates import look
from server.enrolment.invitations import Departure, Invitations
from server.home import ServerHome, open_home
from server.opening import open_store
from server.rounds.comparing import compared
from server.rounds.outcomes import primary_outcomes
from server.service.operator import OperatorClient
from server.store import (
    UNENDED,
    Store,
    cuts,
    evaluations,
    findings,
    releases,
    replies,
    rounds,
    runs,
    spending,
    withdrawn,
)
from server.upkeep.retention import sizes
from shared.errors import ConnectionFailedError, joined

LATELY = 3
"""Rounds whose seconds tell what the next ones take."""


def status_report(folder: Path, run_id: str | None) -> dict[str, Any]:
    """Institutions, runs, and the rounds, test scores, refusals and epsilons of one run (the latest if not named).

    `limited` are those who asked too much of the public door since the server was started. Where the server is not
    up, `server` says so, and of institutions only what the run knows is told.
    """
    home = open_home(folder)
    offer = offered(home)
    with open_store(folder) as store:
        rows = store.rows(runs)
        chosen = store.run(run_id)["run"] if rows or run_id else None
        done = store.rows(rounds, chosen) if chosen else []
        replied = store.rows(replies, chosen) if chosen else []
        scored = compared(store, chosen) if chosen else {}
        answers = [row for row in replied if row["kind"] == "train"]
        return {
            **_institutions(home, answers, store.agreement(chosen).rounds.institutions if chosen else ()),
            "offer": {"digest": offer.digest, **asdict(standing(home, offer))} if offer else None,
            "bytes": sizes(home),
            "runs": runs_report(store),
            "run": chosen,
            "rounds": [
                {
                    "round": row["round"],
                    "score": row["score"],
                    "carried": scored[row["round"]].describe() if row["round"] in scored else "",
                    "took_part": joined(_names(answers, row["round"], ok=True)),
                    "absent": joined(_names(answers, row["round"], ok=False)),
                    "bytes_up": sum(reply["bytes_up"] for reply in replied if reply["round"] == row["round"]),
                    "bytes_down": sum(reply["bytes_down"] for reply in replied if reply["round"] == row["round"]),
                    "seconds": row["seconds"],
                }
                for row in done
            ],
            "tests": [asdict(row) for row in primary_outcomes(store, chosen)] if chosen else [],
            "refusals": refusals(replied),
            "spending": last_spending(store.rows(spending, chosen)) if chosen else [],
            "cuts": last_cuts(store.rows(cuts, chosen)) if chosen else [],
            "evaluations": last_evaluations(store.rows(evaluations, chosen)) if chosen else [],
            "withdrawn": [{"institution": name, "time": time} for name, time in sorted(withdrawn(store).items())],
            "releases": [dict(row) for row in store.rows(releases, chosen)] if chosen else [],
            "outliers": outliers(store.rows(findings, chosen)) if chosen else [],
        }


def runs_report(store: Store) -> list[dict[str, Any]]:
    """Every run: how far it is, and about how many seconds are left of one that goes on."""
    return [_run_report(row, store) for row in store.rows(runs)]


def _run_report(row: dict[str, Any], store: Store) -> dict[str, Any]:
    done, count = store.rows(rounds, row["run"]), store.agreement(row["run"]).rounds.count
    left = remaining(row, done, count)
    return {
        "run": row["run"],
        "federation": row["federation"],
        "status": row["status"],
        "pausing": bool(row["pausing"]),
        "rounds": _last(done),
        "of": count,
        "remaining_seconds": None if left is None else round(left, 1),
        "parent": row["parent"] and f"{row['parent']}:{row['parent_round']}",
        "started": row["started"][:19],
        "ended": row["ended"] and row["ended"][:19],
        "reason": row["reason"],
    }


def remaining(row: Mapping[str, Any], done: Sequence[Mapping[str, Any]], count: int) -> float | None:
    """About how many seconds a run still takes; None if it does not go on, or no round tells.

    Args:
        row: The run's.
        done: Of its rounds.
        count: Rounds that it is to have.
    """
    lately = [one["seconds"] for one in done[-LATELY:]]
    if row["status"] not in UNENDED or not lately:
        return None
    return statistics.fmean(lately) * (count - _last(done))


def _last(done: Iterable[Mapping[str, Any]]) -> int:
    return max((one["round"] for one in done), default=0)


def _institutions(home: ServerHome, answers: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """What is known of institutions; `missed` are rounds of the run that each has missed one after the other."""
    lacks = {name: missed(answers, name) for name in names}
    invitations = Invitations(home.enrolment_database)
    common = {
        "invited": {name: _moment(until) for name, until in invitations.open().items()},
        "days_left": asdict(look(home)),
    }
    try:
        with OperatorClient(home) as operator:
            nodes, refused = operator.nodes(), operator.refused()
    except ConnectionFailedError:
        unknown = [{"name": name, "status": "unknown", "last_seen": None, "missed": lacks[name]} for name in names]
        return {"server": "down", "institutions": unknown, "limited": [], **common}
    known = {node.node_id: node.name for node in nodes}
    return {
        "server": "up",
        "institutions": [
            {
                "name": node.name,
                "status": node.status,
                "last_seen": node.last_seen and node.last_seen.isoformat(sep=" ", timespec="seconds"),
                "missed": lacks.get(node.name),
            }
            for node in nodes
        ]
        + _gone(invitations.departures(), set(known.values())),
        **common,
        "limited": [
            {
                "institution": known.get(row["node_id"], str(row["node_id"])),
                "limit": row["limit"],
                "times": row["times"],
            }
            for row in refused
        ],
    }


def _gone(departures: list[Departure], enrolled: set[str]) -> list[dict[str, Any]]:
    """Institutions that were revoked or have left, and since when, unless they have come again."""
    last = {each.name: each for each in departures if each.how != "rotated" and each.name not in enrolled}
    return [
        {"name": name, "status": each.how, "last_seen": _moment(each.time), "missed": None}
        for name, each in last.items()
    ]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")


def missed(answers: Iterable[Mapping[str, Any]], name: str) -> int:
    """Rounds that an institution has missed one after the other, from the answers to requests to train."""
    last: dict[int, bool] = {row["round"]: row["status"] == "ok" for row in answers if row["institution"] == name}
    took_part = [number for number, ok in last.items() if ok]
    return sum(number > max(took_part, default=0) for number in last)


def refusals(replied: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each institution's refusals, by kind (such as `policy`) and reason, each reason once with its last round."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in replied:
        if row["refusal"]:
            found[row["institution"], row["refusal"], row["reason"]] = {
                "institution": row["institution"],
                "kind": row["refusal"],
                "request": row["kind"],
                "round": row["round"],
                "reason": row["reason"],
            }
    return list(found.values())


def outliers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a robust filter found last of every institution and part, and in how many rounds it held the step back."""
    last = {(row["institution"], row["part"]): row for row in rows}
    held = Counter((row["institution"], row["part"]) for row in rows if row["verdict"] != "kept")
    keys = ("institution", "part", "round", "filter", "norm", "cosine", "verdict", "reason")
    return [{key: row[key] for key in keys} | {"held_back": held[which]} for which, row in sorted(last.items())]


def last_cuts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts above their share, as last reported and used, by institution, task and split."""
    last = {(row["institution"], row["task"], row["split"]): row for row in rows}
    keys = ("institution", "task", "split", "round", "told", "used")
    return [{key: row[key] for key in keys} for _, row in sorted(last.items())]


def last_spending(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each institution's data have spent, as last reported."""
    last = {row["institution"]: row for row in rows}
    return [{key: row[key] for key in ("institution", "round", "epsilon")} for _, row in sorted(last.items())]


def last_evaluations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What private scores have cost the owners of each institution's splits, as last reported."""
    last = {(row["institution"], row["split"]): row for row in rows}
    return [{key: row[key] for key in ("institution", "split", "round", "epsilon")} for _, row in sorted(last.items())]


def _names(answers: list[dict[str, Any]], number: int, *, ok: bool) -> list[str]:
    return [
        row["institution"] if ok else f"{row['institution']} ({row['status']}: {_why(row)})"
        for row in answers
        if row["round"] == number and (row["status"] == "ok") == ok
    ]


def _why(row: dict[str, Any]) -> str:
    return f"{row['refusal']}: {row['reason']}" if row["refusal"] else str(row["reason"])
