"""What the page shows of a run: plain rows, worked out of its picture."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from server.dashboard.reader import Curve, Picture
from server.enrolment.invitations import Departure
from server.runs.status import LATELY
from server.service.operator import Node
from server.store import UNENDED

MOST_POINTS = 150
"""Of a curve, as it is drawn: more than a screen's pixels say nothing."""
PHASES = {
    "query": "Asking what they hold",
    "train": "Training",
    "evaluate": "Scoring",
    "shares": "Sharing keys",
    "open": "Opening shares",
    "mask": "Masked updates",
    "confirm": "Confirming who is there",
    "unmask": "Unmasking the sum",
}
TONES = {
    "completed": "good",
    "running": "busy",
    "starting": "busy",
    "queued": "busy",
    "paused": "calm",
    "stopped": "calm",
    "interrupted": "warn",
    "failed": "bad",
    "online": "good",
    "offline": "bad",
    "registered": "calm",
    "unknown": "calm",
    "revoked": "bad",
    "left": "calm",
    "not enrolled": "warn",
    "ok": "good",
    "refused": "warn",
    "dropped": "bad",
    "missing": "bad",
}
"""How a word is coloured; the word itself always stands there too."""


@dataclass(frozen=True)
class Scores:
    """One institution's scores in one task."""

    institution: str
    before: float | None
    first: float | None
    last: float | None
    best: float | None
    after: float | None
    own: float | None
    change: float | None
    worst: bool
    """Whether its last validation score is the lowest of all."""


def progress(picture: Picture, now: datetime | None = None) -> dict[str, Any]:
    """Where a run is, for whom it waits until when, and about how long it takes."""
    now = now or datetime.now(UTC)
    row, count = picture.row, picture.federation.rounds.count
    done = max((each["round"] for each in picture.rounds), default=0)
    lately = [each["seconds"] for each in picture.rounds[-LATELY:]]
    mean = statistics.fmean(lately) if lately else None
    goes_on = row["status"] in UNENDED
    asking = picture.asking
    names: Sequence[str] = asking["names"] if asking else []
    waiting = picture.waiting_for
    share = 0.0
    if asking and names and asking["kind"] in ("train", "evaluate"):
        share = (len(names) - len(waiting)) / len(names) / 2 + (0.5 if asking["kind"] == "evaluate" else 0.0)
    started = datetime.fromisoformat(row["started"])
    ended = datetime.fromisoformat(row["ended"]) if row["ended"] else now
    return {
        "run": row["run"],
        "status": row["status"],
        "tone": TONES.get(row["status"], "calm"),
        "pausing": bool(row["pausing"]),
        "reason": row["reason"],
        "round": min(count, done + 1) if goes_on and count > done else done,
        "done": done,
        "count": count,
        "percent": round(100 * min(1.0, (done + (share if goes_on and done < count else 0)) / count), 1),
        "goes_on": goes_on,
        "started": row["started"],
        "ended": row["ended"],
        "took": (ended - started).total_seconds(),
        "remaining": mean * (count - done) if mean is not None and goes_on else None,
        "round_seconds": mean,
        "phase": PHASES.get(asking["kind"], asking["kind"]) if asking else None,
        "since": asking["since"] if asking else None,
        "until": asking["until"] if asking else None,
        "asked": len(names),
        "answered": len(names) - len(waiting),
        "waiting": waiting,
        "score": next((each["score"] for each in reversed(picture.rounds) if each["score"] is not None), None),
        "best": best_round(picture),
    }


def best_round(picture: Picture) -> tuple[int, float] | None:
    """The round with the best federated validation score so far, and that; the released one of a completed run."""
    scored = [(each["score"], -each["round"]) for each in picture.rounds if each["score"] is not None]
    if not scored:
        return None
    score, round = max(scored)
    return -round, score


def score_tables(picture: Picture) -> dict[str, list[Scores]]:
    """By task, every institution's scores, the lowest last score first."""
    best = best_round(picture)
    found = {}
    for task in picture.federation.tasks:
        curves = picture.curves.get(task, {})
        names = {*curves, *(name for each, name in picture.tests if each == task)}
        last = {name: _last(curves.get(name, {})) for name in names}
        known = [value for value in last.values() if value is not None]
        rows = [
            _scores(picture, task, name, curves.get(name, {}), best, len(known) > 1 and last[name] == min(known))
            for name in names
        ]
        if rows:
            found[task] = sorted(rows, key=lambda one: (one.last is None, one.last, one.institution))
    return found


def _scores(
    picture: Picture, task: str, name: str, curve: Curve, best: tuple[int, float] | None, worst: bool
) -> Scores:
    tests = picture.tests.get((task, name), {})
    before, after = tests.get(0), _last({number: value for number, value in tests.items() if number})
    first, last = _first(curve), _last(curve)
    return Scores(
        name,
        before,
        first,
        last,
        curve.get(best[0]) if best else None,
        after,
        _last(picture.own.get((task, name), {})),
        last - first if last is not None and first is not None else None,
        worst,
    )


def curves(picture: Picture, task: str) -> dict[str, Any]:
    """A task's curves as they are drawn: rounds, and a line for every institution, thinned out to MOST_POINTS."""
    lines = picture.curves.get(task, {})
    rounds = thinned(sorted({round for curve in lines.values() for round in curve}))
    drawn = {name: [_rounded(curve.get(round)) for round in rounds] for name, curve in sorted(lines.items())}
    last = {name: value for name, curve in lines.items() if (value := _last(curve)) is not None}
    means = [_mean(curve.get(round) for curve in lines.values()) for round in rounds]
    return {
        "task": task,
        "metric": picture.metrics.get(task, ""),
        "rounds": rounds,
        "mean": means,
        "lines": drawn,
        "worst": min(last, key=lambda name: (last[name], name)) if len(last) > 1 else None,
    }


def thinned(rounds: Sequence[int], most: int = MOST_POINTS) -> list[int]:
    """So many of some rounds at most, evenly spaced, the first and the last among them."""
    if len(rounds) <= most:
        return list(rounds)
    return [rounds[round(index * (len(rounds) - 1) / (most - 1))] for index in range(most)]


def institutions(
    picture: Picture | None, nodes: Sequence[Node] | None, gone: Sequence[Departure], refused: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Every institution that is enrolled, agreed on or gone, with what a run knows of it; trouble comes first.

    Args:
        picture: The run, if there is one.
        nodes: Who is enrolled; None while the SuperLink does not say.
        gone: Who was revoked or has left.
        refused: By name, how often a limit of the public door was passed.
    """
    agreed = list(picture.federation.rounds.institutions) if picture else []
    enrolled = {node.name or str(node.node_id): node for node in nodes or ()}
    departed = {each.name: each for each in gone if each.how != "rotated" and each.name not in enrolled}
    rows = []
    for name in dict.fromkeys([*agreed, *enrolled, *departed]):
        node, seat = enrolled.get(name), picture.seats.get(name) if picture else None
        status = node.status if node else departed[name].how if name in departed else "not enrolled"
        if nodes is None and name not in departed:
            status = "unknown"
        seen = node.last_seen if node else None
        rows.append(
            {
                "name": name,
                "status": status,
                "tone": TONES.get(status, "calm"),
                "seen": seen.isoformat(timespec="seconds") if seen else None,
                "agreed": name in agreed,
                "enrolled": node is not None,
                "fingerprint": node.fingerprint if node else None,
                "seat": seat,
                "answer_tone": TONES.get(seat.status or "", "calm") if seat else "calm",
                "missed": len(seat.missed) if seat else 0,
                "limited": refused.get(name, 0),
            }
        )
    return sorted(rows, key=lambda row: (-row["missed"], row["status"] not in ("offline", "not enrolled"), row["name"]))


def _first(curve: Curve) -> float | None:
    return curve[min(curve)] if curve else None


def _last(curve: Curve) -> float | None:
    return curve[max(curve)] if curve else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None
