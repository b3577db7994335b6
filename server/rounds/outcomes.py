"""What a run came to: test scores of the initial state, of the released one, and of institutions' own models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.store import Store, scores
from shared.tasks import build_task

PERSONAL = "personal"
"""The split under which scores on test records by institutions' own models are stored."""


@dataclass(frozen=True)
class Outcome:
    """One metric of one task on the test records of one institution."""

    institution: str
    task: str
    metric: str
    before: float | None
    """Of the initial state."""
    after: float | None
    """Of the released global model; None where there is none, because parts stay at home."""
    personal: float | None
    """Of the institution's own model, where it has one: with its parts, after its fine-tune."""


def outcomes(scored: Sequence[Mapping[str, Any]], best: int) -> list[Outcome]:
    """All that was tested after the released round, sorted.

    Args:
        scored: Rows of a run's scores.
        best: The released round.
    """
    values = {
        (row["split"], row["round"], row["institution"], row["task"], row["metric"]): row["value"] for row in scored
    }
    keys = sorted({key[2:] for key in values if key[0] in ("test", PERSONAL) and key[1] == best})
    return [
        Outcome(
            *key, values.get(("test", 0, *key)), values.get(("test", best, *key)), values.get((PERSONAL, best, *key))
        )
        for key in keys
    ]


def primary_outcomes(store: Store, run: str) -> list[Outcome]:
    """What a run came to in each task's own metric; nothing before it has a released round."""
    best = store.best_round(run)
    metrics = {name: build_task(name, spec).metric for name, spec in store.agreement(run).tasks.items()}
    found = outcomes(store.rows(scores, run), best) if best else []
    return [row for row in found if row.metric == metrics[row.task]]
