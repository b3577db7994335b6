"""The table of a federation's results: one row per institution and task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.running import open_store
from server.store import Store, replies, scores
from shared.console import print_table
from shared.tasks import build_task

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One task at one institution; scores are the task's primary metric on the institution's test records."""

    institution: str
    task: str
    metric: str
    before: float
    after: float
    centralised: float | None
    local_only: float | None
    bytes_up: int
    """Sent by the institution in the whole run, all tasks together."""
    bytes_down: int
    seconds: float
    """From request to reply in the whole run: training, evaluation, transfer, all tasks together."""

    def as_dict(self) -> dict[str, Any]:
        """The row as plain values; a baseline that was not computed is left out."""
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
    tasks = {name: build_task(name, spec) for name, spec in store.agreement(run_id).tasks.items()}
    answers = store.rows(replies, run_id)
    tested = [row for row in store.rows(scores, run_id) if row["split"] == "test"]
    tested = [row for row in tested if row["metric"] == tasks[row["task"]].metric]
    before = {(row["institution"], row["task"]): row["value"] for row in reversed(tested) if row["round"] == 0}
    after = {(row["institution"], row["task"]): row["value"] for row in tested}

    def total(institution: str, column: str) -> float:
        return float(sum(row[column] for row in answers if row["institution"] == institution))

    return [
        Row(
            institution=institution,
            task=task,
            metric=tasks[task].metric,
            before=before[institution, task],
            after=value,
            centralised=centralised[institution][task] if centralised else None,
            local_only=local_only[institution][task] if local_only else None,
            bytes_up=int(total(institution, "bytes_up")),
            bytes_down=int(total(institution, "bytes_down")),
            seconds=round(total(institution, "seconds"), 1),
        )
        for (institution, task), value in sorted(after.items())
        if (institution, task) in before
    ]


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table, and the means that sum it up."""
    columns = ["institution", "task", "metric", "before", "after", "centralised", "local_only"]
    kept = [c for c in columns if c not in ("centralised", "local_only") or getattr(rows[0], c) is not None]
    tail = ["bytes_up", "bytes_down", "seconds"]
    headings = [name.replace("_", " ") for name in kept + tail]
    print_table(headings, [[getattr(row, name) for name in kept + tail] for row in rows])
    print("mean score: " + ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in means(rows).items()))


def means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean over rows of every score column."""
    columns = ("before", "after", "centralised", "local_only")
    values = {column: [getattr(row, column) for row in rows] for column in columns}
    return {column: sum(v) / len(v) for column, v in values.items() if None not in v}
