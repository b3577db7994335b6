"""Releasing a run: the best round as a bundle that plain peft and `collegium predict` can load."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.aggregation.shares import capped_mean
from server.home import open_home
from server.opening import open_store
from server.release.key import signing_key
from server.rounds.comparing import compared
from server.rounds.outcomes import outcomes
from server.store import Store, rounds, scores
from shared.adapter import is_kept
from shared.bundle import heads_of, seal, write_bundle
from shared.errors import ConfigError, joined
from shared.federation import Federation
from shared.model.deployed import MOST_RANK, deployed
from shared.model.lowrank import add_up
from shared.tasks import TASK_TYPES

README = """\
# {name}

A LoRA adapter and {heads}, trained by Collegium across {institutions} institutions (run {run}, best round
{best} of {last}).

{table}
{carried}{cut}
Tasks: {tasks}. All metrics of all rounds are in metrics.json, the agreement is in federation.toml.
"""
WITHOUT_HEADS = "no task head (every institution keeps its heads at home)"


def release_run(folder: Path, run_id: str | None, target: Path, most: int = MOST_RANK) -> Path:
    """Write and sign the best round of a run of a coordinator's folder, the latest if not named; raises as `release`.

    It raises ConfigError too where the key that signs cannot be read.
    """
    key = signing_key(open_home(folder))
    with open_store(folder) as store:
        run = str(store.run(run_id)["run"])
        return release(store, run, target, most, finish=lambda building: seal(building, key))


def release(
    store: Store,
    run: str,
    folder: Path,
    most: int = MOST_RANK,
    *,
    finish: Callable[[Path], object] = lambda building: None,
) -> Path:
    """Write the best round of a run to a new folder; it appears whole or not at all.

    Where institutions keep their heads at home the bundle is the adapter alone. Of an adapter that has taken in steps
    of the frozen weights (`Method.folds`) at most `most` components a layer are kept; README.md and metrics.json
    (`cut_off`) say what that cuts off.

    Raises:
        ConfigError: The folder exists, the run has not completed, or institutions keep half of the adapter at home.
        StoreError: The disk refuses.
    """
    row = store.run(run)
    if row["status"] != "completed":
        raise ConfigError(f"Expected a completed run, but run {row['run']} is {row['status']}; resume it first.")
    federation, best = store.agreement(row["run"]), store.best_round(row["run"])
    assert best is not None
    found = compared(store, row["run"]).get(best)
    if "B" in federation.method.keeps:
        raise ConfigError(
            f"Expected a run with a global adapter to release, but in run {row['run']} every institution has kept its "
            "own B at home; let each write its own bundle by `collegium client bundle`."
        )
    folded = range(best + 1) if federation.method.folds else ()
    steps = add_up([store.load_checkpoint(row["run"], round).steps for round in folded])
    made = deployed(store.load_checkpoint(row["run"], best).model, steps, federation, most)
    arrays = {name: array for name, array in made.arrays.items() if not is_kept(name, federation.method.keeps)}
    metrics = {
        "run": row["run"],
        "digest": row["digest"],
        "parent": {"run": row["parent"], "round": row["parent_round"]} if row["parent"] else None,
        "best_round": best,
        "carried": [
            {"institution": institution, "task": task, "round": number}
            for (institution, task), number in (sorted(found.carried.items()) if found else ())
        ],
        "tasks": sorted(heads_of(arrays)),
        "rounds": store.rows(rounds, row["run"]),
        "scores": store.rows(scores, row["run"]),
        "settings": tuned_settings(federation, store.rows(scores, row["run"]), best),
        "cut_off": made.error,
    }
    return write_bundle(
        folder,
        federation,
        arrays,
        made.ranks,
        metrics=metrics,
        readme=_readme(federation, metrics),
        finish=finish,
    )


def tuned_settings(
    federation: Federation, scored: Sequence[Mapping[str, Any]], best: int
) -> dict[str, dict[str, float]]:
    """Per task, the settings that institutions tuned on validation records of the best round.

    The mean over institutions, weighted by their validation records as far as `rounds.max_share` lets them count.
    """
    settings: dict[str, dict[str, float]] = {}
    for task, spec in federation.tasks.items():
        for setting in TASK_TYPES[spec.type].tunable:
            tuned = {
                row["institution"]: (row["value"], row["examples"])
                for row in scored
                if (row["task"], row["metric"], row["round"], row["split"]) == (task, setting, best, "validation")
            }
            if tuned:
                settings.setdefault(task, {})[setting], _ = capped_mean(tuned, federation.rounds.max_share)
    return settings


def _readme(federation: Federation, metrics: Mapping[str, Any]) -> str:
    best = metrics["best_round"]
    return README.format(
        name=federation.name,
        heads=f"{len(metrics['tasks'])} task heads" if metrics["tasks"] else WITHOUT_HEADS,
        institutions=len(federation.rounds.institutions),
        run=metrics["run"],
        best=best,
        last=max((row["round"] for row in metrics["rounds"]), default=0),
        carried=_carried(metrics["carried"]),
        cut=_cut(metrics["cut_off"]),
        table=_table(metrics["scores"], best),
        tasks=", ".join(f"{name} ({spec.type})" for name, spec in federation.tasks.items()),
    )


def _carried(carried: Sequence[Mapping[str, Any]]) -> str:
    """What the best round was chosen without, a paragraph; empty if nothing."""
    which = joined("{institution}'s {task} (its score of round {round} counted instead)".format(**c) for c in carried)
    return f"\nNot validated in that round: {which}.\n" if carried else ""


def _cut(error: float) -> str:
    """What the limit of the rank has cut off, a paragraph; empty if nothing."""
    return f"\nIts rank was limited: of a layer's product it lacks at most {error:.2%}.\n" if error else ""


def _table(scored: Sequence[Mapping[str, Any]], best: int) -> str:
    """Every metric on the test records, before training and after, as Markdown."""
    found = outcomes(scored, best)
    columns = [key for key in ("before", "after", "personal") if any(getattr(row, key) is not None for row in found)]
    lines = [f"| institution | task | metric | {' | '.join(columns)} |", "|---|---|---|" + "---:|" * len(columns)]
    for row in found:
        values = (getattr(row, key) for key in columns)
        shown = " | ".join("" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {row.institution} | {row.task} | {row.metric} | {shown} |")
    return "\n".join(lines)
