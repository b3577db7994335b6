"""Where a state comes from: whose updates are in it, with how many records, at what cost of privacy, how it does."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from server.rounds.outcomes import outcomes
from server.store import Store, evaluations, replies, scores, spending, withdrawn
from server.store.releases import ancestry, contributions
from shared.bundle.consent import Consent
from shared.tasks import build_task


@dataclass(frozen=True)
class Worst:
    """The lowest score of a task's own metric on the test records of an institution that trained it."""

    institution: str
    task: str
    metric: str
    value: float


def scored_worst(store: Store, run: str, best: int) -> tuple[Worst | None, list[tuple[str, str]]]:
    """The lowest score of the released round, and the institutions and tasks without one that have trained."""
    metrics = {name: build_task(name, spec).metric for name, spec in store.agreement(run).tasks.items()}
    found = {
        (row.institution, row.task): row.after
        for row in outcomes(store.rows(scores, run), best)
        if row.after is not None and row.metric == metrics[row.task]
    }
    trained = {
        (name, task)
        for name, rounds in store.trained(run, before=best + 1).items()
        for tasks in rounds.values()
        for task in tasks
    }
    lowest = min(found, key=lambda pair: (found[pair], pair), default=None)
    worst = Worst(*lowest, metrics[lowest[1]], found[lowest]) if lowest else None
    return worst, sorted(trained - found.keys())


def lineage(
    store: Store, run: str, best: int, named: Collection[str], consents: Mapping[str, Consent]
) -> dict[str, Any]:
    """Per institution whose updates are in a state, what the coordinator knows of it.

    Args:
        store: The coordinator's.
        run: Whose state it is.
        best: The round after which.
        named: Institutions of which more is told than their rounds and what they have spent.
        consents: Of those among them that have signed one.

    Returns:
        `runs`: each with the round up to which the state comes from it. `institutions`: `institution`, `rounds` by
        run, `examples` by task as the last update told them (as its policy shares them; 1 where it shares none),
        `epsilon` and `evaluation_epsilon` (None without [privacy]), `licences` by task of those who consent.
    """
    runs = ancestry(store, run, best)
    parts = contributions(store, run, best)
    examples, epsilon = _told_examples(store, runs), _spent(store, runs)
    scoring = _spent(store, runs, evaluations)
    return {
        "runs": [{"run": each, "up_to": last} for each, last in runs],
        "institutions": [
            {
                "institution": name,
                "rounds": parts[name],
                "examples": examples.get(name, {}) if name in named else {},
                "epsilon": epsilon.get(name),
                "evaluation_epsilon": scoring.get(name),
                "licences": dict(consents[name].licences) if name in consents else {},
                "named": name in named,
            }
            for name in sorted(parts)
        ],
    }


def withdrawals_of(store: Store, run: str, best: int) -> list[dict[str, Any]]:
    """Institutions that have withdrawn and belong to the agreement of a run, or to a run that its state comes from.

    With `rounds` by run whose updates are in the state, and `time`.
    """
    runs, parts = ancestry(store, run, best), contributions(store, run, best)
    named = {name for each, _ in runs for name in store.agreement(each).rounds.institutions}
    return [
        {"institution": name, "time": time, "rounds": parts.get(name, {})}
        for name, time in sorted(withdrawn(store).items())
        if name in named
    ]


def pseudonyms(names: Collection[str], named: Collection[str]) -> dict[str, str]:
    """What each institution is called in a release: its name, if it may be named, else a number drawn at random."""
    hidden = sorted(set(names) - set(named))
    random.SystemRandom().shuffle(hidden)
    return {name: name for name in named} | {name: f"institution {n}" for n, name in enumerate(hidden, start=1)}


def called(value: Any, names: Mapping[str, str]) -> Any:
    """The same data, with every `institution` called as `names` says.

    Lists of what is about institutions are sorted anew, since their order would tell who is who.
    """
    if isinstance(value, Mapping):
        return {
            key: names.get(each, each) if key == "institution" and isinstance(each, str) else called(each, names)
            for key, each in value.items()
        }
    if not isinstance(value, list):
        return value
    found = [called(each, names) for each in value]
    if all(isinstance(each, Mapping) and "institution" in each for each in found):
        found.sort(key=lambda each: (each.get("round", 0), each["institution"], each.get("task", "")))
    return found


def _told_examples(store: Store, runs: Collection[tuple[str, int]]) -> dict[str, dict[str, int]]:
    """By institution and task, the records of the last update that is in the state."""
    found: dict[str, dict[str, int]] = {}
    for run, last in runs:
        taken = (replies.c.kind == "train") & (replies.c.status == "ok") & (replies.c.round <= last)
        for row in store.select(sa.select(replies).where(replies.c.run == run, taken).order_by(replies.c.id)):
            found.setdefault(row["institution"], {}).update(row["examples"] or {})
    return found


def _spent(store: Store, runs: Collection[tuple[str, int]], table: sa.Table = spending) -> dict[str, float]:
    """By institution, the most that its data have spent up to a state; sums over earlier rounds are in it."""
    found: dict[str, float] = {}
    for run, last in runs:
        for row in store.rows(table, run):
            if row["round"] <= last:
                found[row["institution"]] = max(row["epsilon"], found.get(row["institution"], 0.0))
    return found
