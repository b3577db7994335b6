"""The table of a federation's results: one row per institution and task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.opening import open_store
from server.rounds.outcomes import primary_outcomes
from server.store import Store, replies
from shared.process.console import print_table

Scores = Mapping[str, Mapping[str, float]]
SCORES = ("before", "after", "personal", "centralised", "local_only")
"""The columns of a `Row` that are scores."""


@dataclass(frozen=True)
class Row:
    """One task at one institution; scores are the task's primary metric on the institution's test records."""

    institution: str
    task: str
    metric: str
    before: float
    after: float | None
    """Of the global model; None where there is none, because parts stay at home."""
    personal: float | None
    """Of the institution's own model, where it has one."""
    centralised: float | None
    local_only: float | None
    bytes_up: int
    """Sent by the institution in the whole run, all tasks together."""
    bytes_down: int
    seconds: float
    """From request to reply in the whole run: training, evaluation, transfer, all tasks together."""

    @property
    def final(self) -> float:
        """Of the model that the institution ends with."""
        value = self.after if self.personal is None else self.personal
        assert value is not None
        return value

    def as_dict(self) -> dict[str, Any]:
        """The row as plain values; a model that there is not is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def rows_of_run(
    home: Path, run_id: str, *, centralised: Scores | None = None, local_only: Scores | None = None
) -> list[Row]:
    """The rows of a coordinator's run, joined with baselines."""
    with open_store(home) as store:
        return rows_of(store, run_id, centralised=centralised, local_only=local_only)


def rows_of(
    store: Store, run_id: str, *, centralised: Scores | None = None, local_only: Scores | None = None
) -> list[Row]:
    """The rows of a run in a store, joined with baselines."""
    answers = store.rows(replies, run_id)

    def total(institution: str, column: str) -> float:
        return float(sum(row[column] for row in answers if row["institution"] == institution))

    return [
        Row(
            institution=found.institution,
            task=found.task,
            metric=found.metric,
            before=found.before,
            after=found.after,
            personal=found.personal,
            centralised=centralised[found.institution][found.task] if centralised else None,
            local_only=local_only[found.institution][found.task] if local_only else None,
            bytes_up=int(total(found.institution, "bytes_up")),
            bytes_down=int(total(found.institution, "bytes_down")),
            seconds=round(total(found.institution, "seconds"), 1),
        )
        for found in primary_outcomes(store, run_id)
        if found.before is not None
    ]


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table, and the means that sum it up."""
    scored = [column for column in SCORES if any(getattr(row, column) is not None for row in rows)]
    kept = ["institution", "task", "metric", *scored]
    tail = ["bytes_up", "bytes_down", "seconds"]
    headings = [name.replace("_", " ") for name in kept + tail]
    print_table(headings, [[getattr(row, name) for name in kept + tail] for row in rows])
    found = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in means(rows).items())
    print(f"mean score: {found or 'none, since no institution has scored test records'}")


def means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean over rows of every score column; none of no rows."""
    values = {column: [getattr(row, column) for row in rows] for column in SCORES}
    return {column: sum(v) / len(v) for column, v in values.items() if v and None not in v}
