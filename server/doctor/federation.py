"""The agreement against what the coordinator knows: who is enrolled, what has run, what was said of labels."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from server.service.operator import Node
from server.store import UNENDED, Store, events, runs
from shared.doctor.findings import Finding
from shared.errors import joined
from shared.federation import Federation
from shared.nodekeys import fingerprint

DOUBTS = ("No institution ", "Of those who have answered ", " does not annotate ", " has no training record with ")
"""In events of a run that are about labels (`server.rounds.handshake`)."""
SHOWN = 5


def check_enrolled(federation: Federation, nodes: list[Node] | None) -> Finding:
    """Whether those that the agreement names are enrolled, and nobody else is.

    Args:
        federation: The agreement.
        nodes: Those enrolled; None where the server is not up to ask.
    """
    if nodes is None:
        return Finding(
            "enrolled",
            "warning",
            "Who is enrolled is not known, since the server is not up.",
            "Start it and ask again.",
        )
    named, enrolled = set(federation.rounds.institutions), {node.name for node in nodes}
    parts, advice = [], []
    if missing := sorted(named - enrolled):
        parts.append(f"{joined(missing)} of the federation file {'is' if len(missing) == 1 else 'are'} not enrolled")
        advice.append("`collegium server invite NAME` or `enrol NAME` lets them in.")
    if others := sorted(enrolled - named):
        parts.append(f"{joined(others)} enrolled and not in the federation file")
        advice.append("They are never asked; revoke them, or propose a file that names them.")
    if parts:
        few = len(named & enrolled) < federation.rounds.quorum
        return Finding("enrolled", "error" if few else "warning", f"{'; '.join(parts)}.", " ".join(advice))
    online = sum(node.status == "online" for node in nodes)
    return Finding("enrolled", "ok", f"All {len(named)} institutions are enrolled, {online} of them online.")


def check_keys(federation: Federation, nodes: list[Node] | None) -> Finding | None:
    """Whether `[secure_aggregation.keys]` names the keys that are enrolled; None where there is nothing to compare."""
    if federation.secure_aggregation is None or nodes is None:
        return None
    agreed = {name: fingerprint(line) for name, line in federation.secure_aggregation.keys.items()}
    wrong = [node.name for node in nodes if node.name in agreed and agreed[node.name] != node.fingerprint]
    if wrong:
        return Finding(
            "keys",
            "error",
            f"[secure_aggregation.keys] names another key than the enrolled one for {joined(wrong)}.",
            "Propose a file with their present keys, and have the fingerprints compared.",
        )
    return Finding("keys", "ok", "[secure_aggregation.keys] names the enrolled keys.")


def check_runs(store: Store | None, federation: Federation) -> Finding:
    """Which runs have not ended, and whether the last one was under this agreement."""
    rows = store.rows(runs) if store else []
    if not rows:
        return Finding("runs", "ok", "There was no run yet.")
    unfinished = [row for row in rows if row["status"] in (*UNENDED, "paused")]
    if unfinished:
        named = joined(f"{row['run']} ({row['status']})" for row in unfinished)
        return Finding(
            "runs", "warning", f"Not ended: {named}.", "The server goes on with them; paused ones wait for `unpause`."
        )
    last = rows[-1]
    if last["digest"] != federation.digest:
        return Finding(
            "runs",
            "ok",
            f"The last run, {last['run']} ({last['status']}), was under another agreement than the federation file.",
            "Institutions train under this one once they have approved it.",
        )
    return Finding("runs", "ok", f"The last run, {last['run']}, is {last['status']}; it was under this agreement.")


def check_labels(store: Store | None) -> Finding:
    """What the last run was told of labels and tasks that nobody holds."""
    rows = store.rows(runs) if store else []
    if not store or not rows:
        return Finding("labels", "ok", "No institution was asked for its labels yet: the next run does so first.")
    said = [row["text"] for row in store.rows(events, rows[-1]["run"])]
    doubts = list(dict.fromkeys(text for text in said if any(doubt in text for doubt in DOUBTS)))
    if doubts:
        text = f"When institutions were asked last: {joined(doubts, '; ', most=SHOWN)}."
        return Finding("labels", "warning", text, "Ask those institutions whether that is meant (rename, annotates).")
    return Finding("labels", "ok", "When institutions were asked last, labels and tasks met the federation's.")


def latest(store: Store | None) -> datetime | None:
    """The last time at which a run began or ended."""
    rows: list[Mapping[str, Any]] = list(store.rows(runs)) if store else []
    times = [datetime.fromisoformat(time) for row in rows for time in (row["started"], row["ended"]) if time]
    return max(times, default=None)
