"""Does a task gain or lose when it is trained with the others? One federation of all tasks beside one for each.

    python -m simulations.benchmarks.joint simulations/configs/real.toml --data DIR --limit 250

The federation of a single task has the same seed, as many epochs (in whole rounds), and only the holders of that task.
`--method fedsa`, or `--keep B --keep heads`, say what stays at home: the scores are then of institutions' own models.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from server.store import Store
from shared.adapter import get_state
from shared.console import announce, print_table
from shared.federation import Federation, parse
from shared.model import build_model
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites
from simulations.results import Row, rows_of


def main(
    experiment: Annotated[Path, typer.Argument(help="An experiment file.")],
    data: Annotated[Path | None, typer.Option(help="Folder that its data paths start from.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most records per task and split.")] = None,
    method: Annotated[str | None, typer.Option(help="As `rounds.method`; the file's own if not given.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="What stays at home: B or heads; may be repeated.")] = None,
    fine_tune: Annotated[int, typer.Option(min=0, help="Epochs of a final local fine-tune.")] = 0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; as many as the file says if not given.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A task to leave out; may be repeated.")] = None,
) -> None:
    """Run the joint federation, then each task's own, and print both scores on the test records."""
    loaded = load_experiment(experiment, data=data, limit=limit)
    known = list(loaded.federation.tasks)
    if unknown := sorted(set(without or ()) - set(known)):
        raise typer.BadParameter(f"expected tasks among {known}, not {unknown}", param_hint="--without")
    loaded = only_tasks(loaded, [task for task in known if task not in (without or ())])
    loaded = changed(loaded, rounds=rounds)
    announce("all tasks together")
    together = changed(loaded, method=method, keep=keep or [], fine_tune=fine_tune)
    joint = {(row.institution, row.task): row for row in federated(together)}
    tuned = -(-fine_tune // loaded.federation.training.epochs_per_round)
    longer = changed(loaded, rounds=loaded.federation.rounds.count + tuned)
    table = []
    for task in loaded.federation.tasks:
        announce(f"{task} alone")
        for row in federated(only_tasks(longer, [task])):
            here = joint[row.institution, row.task]
            table.append([row.institution, task, row.metric, here.final, row.final, here.final - row.final])
    print_table(["institution", "task", "metric", "together", "alone", "difference"], table)


def changed(
    experiment: Experiment,
    *,
    rounds: int | None = None,
    method: str | None = None,
    keep: Sequence[str] = (),
    fine_tune: int = 0,
) -> Experiment:
    """The experiment in other rounds, under another method, with other parts at home.

    Raises:
        ConfigError: They do not go together.
    """
    values = experiment.federation.model_dump(mode="json", exclude_none=True)
    if rounds:
        values["rounds"]["count"] = rounds
    if method:
        values["rounds"]["method"] = method
    if keep or fine_tune:
        values["personal"] = {"keep": list(keep), "fine_tune_epochs": fine_tune}
    return experiment.model_copy(update={"federation": parse(Federation, values, where="the command line")})


def federated(experiment: Experiment) -> list[Row]:
    """Simulate a federation without baselines; its rows."""
    federation = experiment.federation
    model = build_model(federation)
    initial = get_state(model)
    sites = open_sites(experiment, model)
    with tempfile.TemporaryDirectory(prefix="collegium-joint-") as folder:
        store_url = f"sqlite:///{Path(folder) / 'collegium.db'}"
        with Store.open(store_url, checkpoints=Path(folder) / "checkpoints") as store:
            run_id = run_federation(sites, federation, initial, store, announce)
            return rows_of(store, run_id)


def only_tasks(experiment: Experiment, tasks: Collection[str]) -> Experiment:
    """The experiment with some of its tasks, and their holders only."""
    held = {
        name: {task: source for task, source in sources.items() if task in tasks}
        for name, sources in experiment.institutions.items()
    }
    holders = {name: sources for name, sources in held.items() if sources}
    values = experiment.federation.model_dump(mode="json", exclude_none=True)
    values["tasks"] = {task: values["tasks"][task] for task in tasks}
    values["rounds"] |= {"institutions": list(holders), "quorum": len(holders)}
    return experiment.model_copy(update={"federation": Federation.model_validate(values), "institutions": holders})


if __name__ == "__main__":
    typer.run(main)
