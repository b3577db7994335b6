"""Starting, following, resuming and releasing runs from the coordinator's command line."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.bundle import RUN_KEY, pointer_bundle
from server.home import open_home
from server.opening import open_store
from server.rounds.comparing import compared
from server.rounds.outcomes import primary_outcomes
from server.service.operator import OperatorClient
from server.store import cuts, evaluations, events, findings, replies, rounds, runs, spending
from shared.errors import CollegiumError, ConfigError, joined
from shared.federation import load_federation

POLL_SECONDS = 0.3
"""Between two looks into the store for what happened in a run."""
ENDED = ("completed", "failed")
FLOWER_SECONDS = 3.0
"""Between two questions to Flower whether the run's process is alive."""


@dataclass(frozen=True)
class Started:
    """A run that Flower has accepted."""

    run_id: str
    flower_run: int


def start(folder: Path, *, resume: bool = False, run_id: str | None = None) -> Started:
    """Start a run under the folder's federation.toml, or go on with an unfinished one.

    Raises:
        ConfigError: The federation file is wrong, or the run to resume has completed.
        ConnectionFailedError: The coordinator is not up.
    """
    home = open_home(folder)
    with OperatorClient(home) as operator, open_store(folder) as store:
        operator.nodes()  # say that the coordinator is not up before a run is recorded
        if resume:
            row = store.run(run_id)
            if row["status"] == "completed":
                raise ConfigError(f"Expected an unfinished run, but run {row['run']} has completed; start a new one.")
            run_id = str(row["run"])
        else:
            run_id = store.create_run(load_federation(home.federation_file))
        try:
            flower_run = operator.start_run(pointer_bundle(), {RUN_KEY: run_id})
        except CollegiumError as error:
            store.update_run(run_id, status="failed", reason=f"It was not started: {error}")
            raise
        store.update_run(run_id, flower_run=str(flower_run), status="created", reason=None)
        return Started(run_id, flower_run)


def follow(
    folder: Path, run_id: str, announce: Callable[[str], None], *, check: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Announce a run's events until it has ended.

    Args:
        folder: The coordinator's folder.
        run_id: The run.
        announce: Told every new event.
        check: Called at every look; may raise to stop following.

    Returns:
        The run's id, status, and the reason if it failed.
    """
    with OperatorClient(open_home(folder)) as operator, open_store(folder) as store:
        told = max((row["id"] for row in store.rows(events, run_id)), default=0) if store.last_round(run_id) else 0
        flower_run = int(store.run(run_id)["flower_run"])
        asked = -math.inf
        while True:
            if check:
                check()
            row = store.run(run_id)
            ended = False
            if row["status"] not in ENDED and time.monotonic() - asked >= FLOWER_SECONDS:
                flower, asked = operator.run_status(flower_run), time.monotonic()
                ended = flower.finished
            for event in store.events_after(run_id, told):
                told = event["id"]
                announce(event["text"])
            if row["status"] in ENDED:
                break
            if ended:
                row = store.run(run_id)
                if row["status"] not in ENDED:
                    how = flower.sub_status or flower.status
                    reason = f"Flower ended the run as {how}: {flower.details or 'no details'}"
                    store.update_run(run_id, status="failed", reason=reason)
                    row = store.run(run_id)
                break
            time.sleep(POLL_SECONDS)
        if row["status"] == "failed":
            announce(f"The run has failed: {row['reason']}")
        return {"run": run_id, "status": row["status"], "reason": row["reason"]}


def status_report(folder: Path, run_id: str | None) -> dict[str, Any]:
    """Institutions, runs, and the rounds, test scores, refusals and epsilons of one run (the latest if not named).

    `limited` are those who asked too much of the public door since the server was started.
    """
    with OperatorClient(open_home(folder)) as operator, open_store(folder) as store:
        nodes = operator.nodes()
        institutions = [{"name": node.name, "status": node.status, "last_seen": str(node.last_seen)} for node in nodes]
        names = {node.node_id: node.name for node in nodes}
        limited = [
            {
                "institution": names.get(row["node_id"], str(row["node_id"])),
                "limit": row["limit"],
                "times": row["times"],
            }
            for row in operator.refused()
        ]
        rows = store.rows(runs)
        chosen = store.run(run_id)["run"] if rows or run_id else None
        done = store.rows(rounds, chosen) if chosen else []
        replied = store.rows(replies, chosen) if chosen else []
        scored = compared(store, chosen) if chosen else {}
        answers = [row for row in replied if row["kind"] == "train"]
        return {
            "institutions": institutions,
            "limited": limited,
            "runs": [
                {
                    "run": row["run"],
                    "federation": row["federation"],
                    "status": row["status"],
                    "rounds": len(store.rows(rounds, row["run"])),
                    "started": row["started"][:19],
                    "reason": row["reason"],
                }
                for row in rows
            ],
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
            "outliers": outliers(store.rows(findings, chosen)) if chosen else [],
        }


def release_run(folder: Path, run_id: str | None, target: Path) -> Path:
    """Write the best round of a run (the latest if not named) as a bundle."""
    from server.release import release

    with open_store(folder) as store:
        return release(store, str(store.run(run_id)["run"]), target)


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
