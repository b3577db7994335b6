"""Scores of rounds that can be compared: every round's mean rests on the same institutions and tasks.

Who is away in a round is not scored in it. Were the round's score a mean over the others, the absence of the
institution with the hardest task would raise it, and choose the release. So every pair of institution and task that was
ever scored counts in every round in which anybody was: where it was not scored, with its last score before, or with its
first one if there is none before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server.aggregation.shares import capped_mean
from server.store import Store, scores
from shared.errors import joined
from shared.tasks import build_task

Pair = tuple[str, str]
"""An institution and a task."""


@dataclass(frozen=True)
class Compared:
    """A round's score, over the same pairs as every other round's."""

    score: float
    """The mean over tasks of the capped mean over institutions."""
    carried: Mapping[Pair, int]
    """Pairs that were not scored in this round, and the round whose score counts for them."""

    def describe(self) -> str:
        """Which scores are other rounds'; empty if none is."""
        return joined(
            f"{institution}'s {task} as in round {round}" for (institution, task), round in sorted(self.carried.items())
        )


def compare(
    scored: Iterable[Mapping[str, Any]], metrics: Mapping[str, str], max_share: float, split: str = "validation"
) -> dict[int, Compared]:
    """Every round's score over all pairs of institution and task that were scored in any round.

    Args:
        scored: Rows of a run's scores.
        metrics: The metric of each task.
        max_share: See `capped_mean`.
        split: Which scores to compare.

    Returns:
        By round, of those in which anybody was scored.
    """
    by_pair: dict[Pair, dict[int, tuple[float, int]]] = {}
    for row in scored:
        if row["split"] == split and row["metric"] == metrics.get(row["task"]):
            pair = row["institution"], row["task"]
            by_pair.setdefault(pair, {})[row["round"]] = row["value"], row["examples"]
    rounds = sorted({round for found in by_pair.values() for round in found})
    return {round: _compared(by_pair, round, max_share) for round in rounds}


def compared(store: Store, run: str) -> dict[int, Compared]:
    """Every round's validation score of a stored run; see `compare`."""
    agreed = store.agreement(run)
    metrics = {name: build_task(name, spec).metric for name, spec in agreed.tasks.items()}
    return compare(store.rows(scores, run), metrics, agreed.rounds.max_share)


def _compared(by_pair: Mapping[Pair, Mapping[int, tuple[float, int]]], round: int, max_share: float) -> Compared:
    used = {pair: _nearest(found, round) for pair, found in by_pair.items()}
    by_task: dict[str, dict[str, tuple[float, int]]] = {}
    for (institution, task), source in used.items():
        by_task.setdefault(task, {})[institution] = by_pair[institution, task][source]
    means = [capped_mean(values, max_share, task)[0] for task, values in by_task.items()]
    return Compared(sum(means) / len(means), {pair: source for pair, source in used.items() if source != round})


def _nearest(rounds: Iterable[int], round: int) -> int:
    """The last of the rounds up to `round`; the first of all if there is none."""
    return max((one for one in rounds if one <= round), default=min(rounds))
