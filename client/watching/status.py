"""`collegium client status`: what this site does now, out of its own files; the daemon need not be up."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client.agreement.approval import read_agreements
from client.institution import Institution, load_institution
from client.leaving import outbox
from client.watching.metrics import Left, epsilon_budget
from shared.errors import CollegiumError
from shared.process.lock import is_served
from shared.watching.live import facts, live, on_terminal

LOCK = "daemon.lock"
"""In the state folder, as `client.service.daemon` has it, which would load Flower."""
LOOK_SECONDS = 1.0


def report(institution: Institution, left: Left) -> dict[str, Any]:
    """What is known, as plain data.

    Args:
        institution: The site.
        left: What has left so far; looked at again.
    """
    left.look()
    budget = epsilon_budget(institution)
    try:
        agreements = read_agreements(institution)
        agreement, offered = agreements.current.digest, agreements.offered and agreements.offered.digest
        rounds = agreements.current.rounds.count
    except CollegiumError as error:
        agreement, offered, rounds = f"error: {error}", None, None
    last = left.run
    return {
        "institution": institution.name,
        "coordinator": institution.server.address,
        "daemon": "up" if is_served(institution.runtime.state / LOCK) else "down",
        "agreement": agreement,
        "offered": offered,
        "run": last.get("run"),
        "round": last.get("round"),
        "rounds": rounds,
        "last_answer": last.get("time"),
        "answers": dict(sorted(left.kinds.items())),
        "bytes": left.bytes,
        "waiting": [each["id"] for each in outbox.waiting(institution.runtime.state) if each["waiting"]],
        "epsilon_spent": left.epsilon,
        "epsilon_left": None if budget is None else max(0.0, budget - (left.epsilon or 0.0)),
    }


def shown(told: Mapping[str, Any]) -> dict[str, object]:
    """The report in words."""
    done = None if told["round"] is None else f"{told['round']} of {told['rounds']}, in run {told['run']}"
    epsilon = None
    if told["epsilon_spent"] is not None or told["epsilon_left"] is not None:
        rest = "no limit" if told["epsilon_left"] is None else f"{told['epsilon_left']:.2f} left"
        epsilon = f"{told['epsilon_spent'] or 0.0:.2f} spent, {rest}"
    answers = ", ".join(f"{count} {kind}" for kind, count in told["answers"].items()) or "nothing"
    return {
        "coordinator": told["coordinator"],
        "daemon": told["daemon"],
        "last round": done,
        "last answer": told["last_answer"],
        "left this site": f"{answers}; {told['bytes'] / 1e6:.1f} MB",
        "waits for release": ", ".join(told["waiting"]) or "nothing",
        "privacy": epsilon,
        "agreement": told["agreement"],
        "offered": told["offered"],
    }


def watch(file: Path, announce: Callable[[str], None], over: Callable[[], bool] = lambda: False) -> None:
    """Show it until the operator has seen enough; without a terminal, a line for whatever has changed.

    Args:
        file: institution.toml.
        announce: Told the lines.
        over: Whether to end.
    """
    institution = load_institution(file)
    left = Left(institution)
    if on_terminal():
        with live(lambda: facts(institution.name, shown(report(institution, left)))) as look:
            while not over():
                look()
                time.sleep(LOOK_SECONDS / 4)
        return
    before: dict[str, object] = {}
    while not over():
        now = shown(report(institution, left))
        for name, value in now.items():
            if before.get(name) != value and not (value is None and name not in before):
                announce(f"{name}: {'-' if value is None else value}")
        before = now
        time.sleep(LOOK_SECONDS)
