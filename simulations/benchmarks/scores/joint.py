r"""Does a task gain or lose when it is trained with the others? One federation of all tasks beside one for each.

    python -m simulations.benchmarks.scores.joint simulations/configs/real.toml --data DIR --limit 300 \
        --out joint.jsonl --both training.batch_tokens=512 --together 'rounds.method="fedsa"' \
        --together personal.fine_tune_epochs=4

The federation of a single task has the same seed, as many epochs (in whole rounds; a final fine-tune counts), and only
the holders of that task. `--both` changes the federation file for both, `--together` for the joint one. Where parts
stay at home or are tuned there, its scores are of institutions' own models. What is done is kept in --out.
"""

import hashlib
import json
import tempfile
import time
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from client.institution import Data
from server.store import Store
from shared.adapter import get_state
from shared.config import parse
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.process import console
from shared.process.console import announce, print_table
from simulations.benchmarks.scores.resumable import finish
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites
from simulations.results import Row, rows_of

TOGETHER = "together"
"""The row of the joint federation."""


def main(
    experiment: Annotated[Path, typer.Argument(help="An experiment file.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of finished federations; new ones are added.")],
    data: Annotated[Path | None, typer.Option(help="Folder that its data paths start from.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most records per task and split.")] = None,
    tested: Annotated[int | None, typer.Option(min=1, help="Most test records; --limit if not given.")] = None,
    both: Annotated[list[str] | None, typer.Option(help="A line of TOML for both sides; may be repeated.")] = None,
    together: Annotated[list[str] | None, typer.Option(help="And for the joint federation alone.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A task to leave out; may be repeated.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="`together`, or `TASK alone`; repeat. All if not given.")
    ] = None,
) -> None:
    """Run the joint federation and each task's own, if not in --out yet; print both scores on the test records."""
    loaded = load_experiment(experiment, data=data, limit=limit)
    known = list(loaded.federation.tasks)
    if unknown := sorted(set(without or ()) - set(known)):
        raise typer.BadParameter(f"expected tasks among {known}, not {unknown}", param_hint="--without")
    loaded = only_tasks(loaded, [task for task in known if task not in (without or ())])
    loaded = changed(loaded, both or [])
    shared = changed(loaded, together or [])
    tuned = -(-shared.federation.fine_tunes // loaded.federation.training.epochs_per_round)
    longer = changed(loaded, [f"rounds.count = {shared.federation.rounds.count + tuned}"])
    runs = {TOGETHER: shared} | {f"{task} alone": only_tasks(longer, [task]) for task in loaded.federation.tasks}
    sources = load_experiment(experiment, data=data, limit=tested or limit).institutions
    check_same(out, {name: fingerprint(run, sources) for name, run in runs.items()})
    done = finish(runs, out, only, lambda _, run: scored(run, sources))
    print_table(["institution", "task", "metric", "together", "alone", "difference"], beside(done))


def scored(experiment: Experiment, tested: Mapping[str, Mapping[str, Data]]) -> dict[str, Any]:
    """Simulate a federation; what every institution's tasks end with, and the seconds it took.

    Args:
        experiment: What is trained.
        tested: By institution and task, where test records come from.
    """
    started = time.perf_counter()
    scores = [[row.institution, row.task, row.metric, row.final] for row in federated(experiment, tested)]
    settings = fingerprint(experiment, tested)
    return {"scores": scores, "settings": settings, "seconds": round(time.perf_counter() - started)}


def fingerprint(experiment: Experiment, tested: Mapping[str, Mapping[str, Data]]) -> str:
    """Names what is trained and tested: another one, another score."""
    sources = {name: {task: str(source) for task, source in tasks.items()} for name, tasks in tested.items()}
    content = experiment.model_dump_json() + json.dumps(sources, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_same(out: Path, settings: Mapping[str, str]) -> None:
    """ConfigError if the file holds a row of other settings than these, by row."""
    for row in map(json.loads, out.read_text().splitlines()) if out.exists() else ():
        if row["row"] in settings and row["settings"] != settings[row["row"]]:
            raise ConfigError(
                f"Expected {out} to hold rows of these settings, but {row['row']!r} is not; name another."
            )


def beside(done: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Both scores of every task of every institution, as far as they are there, and their difference."""
    joint: dict[tuple[str, ...], float] = {}
    alone: dict[tuple[str, ...], float] = {}
    for run in done:
        side = joint if run["row"] == TOGETHER else alone
        side.update({tuple(key): score for *key, score in run["scores"]})
    return [
        [*key, joint.get(key), alone.get(key), joint[key] - alone[key] if key in joint and key in alone else None]
        for key in joint | alone
    ]


def changed(experiment: Experiment, lines: Sequence[str]) -> Experiment:
    """The experiment with other values in its federation file.

    Args:
        experiment: As it is.
        lines: Of TOML, with dotted keys: `rounds.count = 8`.

    Raises:
        BadParameter: They are not TOML, or not of a table.
        ConfigError: They do not go together.
    """
    values = experiment.federation.model_dump(mode="json", exclude_none=True)
    try:
        for table, changes in tomllib.loads("\n".join(lines)).items():
            values[table] = values.get(table, {}) | changes
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise typer.BadParameter(
            f"expected lines such as training.batch_tokens=512, not {list(lines)}: {error}"
        ) from None
    return experiment.model_copy(update={"federation": parse(Federation, values, where="the command line")})


def federated(experiment: Experiment, tested: Mapping[str, Mapping[str, Data]]) -> list[Row]:
    """Simulate a federation without baselines; its rows."""
    federation = experiment.federation
    model = build_model(federation)
    initial = get_state(model)
    sites = open_sites(experiment, model)
    sources = {name: {task: tested[name][task] for task in tasks} for name, tasks in experiment.institutions.items()}
    for name, other in open_sites(experiment.model_copy(update={"institutions": sources}), model).items():
        data = {task: {**own, "test": other.data[task]["test"]} for task, own in sites[name].data.items()}
        sites[name] = replace(sites[name], holdings=replace(sites[name].holdings, data=data))
    with tempfile.TemporaryDirectory(prefix="collegium-joint-") as folder:
        store_url = f"sqlite:///{Path(folder) / 'collegium.db'}"
        with Store.open(store_url, checkpoints=Path(folder) / "checkpoints") as store:
            run_id = run_federation(sites, federation, initial, store, announce)
            return rows_of(store, run_id)


def only_tasks(experiment: Experiment, tasks: Collection[str]) -> Experiment:
    """The experiment with some of its tasks, and their holders only."""
    kept = {
        name: {task: source for task, source in sources.items() if task in tasks}
        for name, sources in experiment.institutions.items()
    }
    holders = {name: sources for name, sources in kept.items() if sources}
    values = experiment.federation.model_dump(mode="json", exclude_none=True)
    values["tasks"] = {task: values["tasks"][task] for task in tasks}
    values["rounds"] |= {"institutions": list(holders), "quorum": len(holders)}
    return experiment.model_copy(update={"federation": Federation.model_validate(values), "institutions": holders})


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
