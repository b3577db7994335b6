"""The `collegium` command: the rooms' verbs and the researcher's own."""

import json
import os
import signal
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.cli import app as client_app
from server.cli import app as server_app
from shared.process import console
from shared.process.console import JsonOption, announce, print_json
from shared.process.files import private_umask

app = typer.Typer(
    name="collegium",
    help="Train one BERT together across institutions that may not share their text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(server_app, name="server")
app.add_typer(client_app, name="client")


@app.command(epilog="Example: collegium demo --workdir demo")
def demo(
    workdir: Annotated[Path | None, typer.Option(help="Keep everything here; a new or empty folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a hospital, a law firm and a bank train one model on this machine."""
    folder = _fresh_folder(workdir)  # before torch is loaded: a wrong folder is told at once
    from simulations.demo import as_json as result_as_json
    from simulations.demo import run_demo
    from simulations.results import print_rows

    for number in (signal.SIGINT, signal.SIGTERM):  # both end the daemons first, also where a shell ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    result = run_demo(folder, announce)
    if as_json:
        print_json(result_as_json(result))
        return
    print_rows(result.rows)
    print(f"The bundle is in {result.bundle}; try: collegium predict {result.bundle} --task clauses --text '...'")


@app.command(epilog="Example: collegium simulate simulations/configs/demo.toml --data simulations/samples")
def simulate(
    experiment: Annotated[Path, typer.Argument(help="The experiment file.")],
    data: Annotated[Path | None, typer.Option(help="Folder that the data paths start from.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many records per task and split.")] = None,
    workdir: Annotated[Path | None, typer.Option(help="Keep the store and checkpoints here.")] = None,
    search: Annotated[
        Literal["task-weights"] | None, typer.Option(help="Run the federation many times, to find what validates best.")
    ] = None,
    method: Annotated[Literal["grid", "random"], typer.Option(help="How --search goes about it.")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Most runs of --search.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Run a whole federation, and its baselines, in this process."""
    if search:
        _search(experiment, method, trials, data=data, limit=limit, workdir=workdir, as_json=as_json)
        return
    from simulations.results import means, print_rows
    from simulations.simulate import run_experiment

    rows = run_experiment(experiment, data=data, limit=limit, workdir=_fresh_folder(workdir), announce=announce)
    if as_json:
        print_json({"rows": [row.as_dict() for row in rows], "means": means(rows)})
    else:
        print_rows(rows)


@app.command(epilog="Example: collegium audit experiment.toml --data DIR --out audit")
def audit(
    target: Annotated[Path, typer.Argument(help="An experiment file to train, or a released bundle.")],
    out: Annotated[Path, typer.Option(help="Folder for audit.html and audit.json.")] = Path("audit"),
    data: Annotated[Path | None, typer.Option(help="Experiment: folder that the data paths start from.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Experiment: most records per task and split.")] = None,
    kind: Annotated[
        Literal["gradient", "text", "secrets", "site"],
        typer.Option(help="Experiment: canaries for the trainer, texts or numbers for a federation, or a whole site."),
    ] = "gradient",
    canaries: Annotated[int | None, typer.Option(min=1, help="Experiment: how many, or how many runs.")] = None,
    institution: Annotated[str | None, typer.Option(help="Experiment: whose training data they join.")] = None,
    noise_factor: Annotated[
        float, typer.Option(min=0, help="Experiment: multiply the noise, which the audit should find out.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Experiment: decides the canaries and their coins.")] = 13,
    task: Annotated[str | None, typer.Option(help="The task of the text canaries, or of the bundle's records.")] = None,
    members: Annotated[Path | None, typer.Option(help="Bundle: a file of records that it was trained on.")] = None,
    others: Annotated[Path | None, typer.Option(help="Bundle: a file of records that it was not.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Bundle: where the BERT is, if not as it says.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Attack a private training, or a released bundle, and hold what is found against what is promised.

    The exit code is 1 where more is certainly lost than the accounting reports.
    """
    from simulations.audit import audit_target
    from simulations.auditing import report
    from simulations.auditing.plan import Plan

    plan = Plan(kind, canaries, institution, task, noise_factor, seed)
    found = audit_target(
        target,
        plan,
        data=data,
        limit=limit,
        members=members,
        others=others,
        backbone=backbone,
        announce=announce,
    )
    report.write_report(found, out)
    if as_json:
        print_json(report.as_json(found))
    else:
        print("\n".join([*report.lines(found), f"The page is {out / report.PAGE_FILE}."]))
    if report.is_violated(found):
        raise typer.Exit(1)


@app.command(epilog="Example: collegium methods")
def methods(as_json: JsonOption = False) -> None:
    """List what rounds.method may be: what travels, whether the mean is exact, and what it can be combined with."""
    from shared.federation.methods import METHODS, columns

    if as_json:
        print_json({name: asdict(method) for name, method in METHODS.items()})
        return
    for name, method in METHODS.items():
        print(f"{name}: {method.summary} ({method.source})")
        for key, text in columns(method).items():
            print(f"  {key:20}{text}")


@app.command(epilog="Example: collegium tasks")
def tasks(as_json: JsonOption = False) -> None:
    """List the types of task: what a record holds, head, loss, metrics, and the papers behind them."""
    from shared.tasks import TASK_TYPES

    cards = {name: asdict(task.card) for name, task in sorted(TASK_TYPES.items())}
    if as_json:
        print_json(cards)
        return
    for name, card in cards.items():
        print(f"{name}: {card.pop('summary')}")
        for key, text in card.items():
            print(f"  {key:8}{text}")


@app.command(epilog="Example: collegium predict bundle --task clauses --text 'The buyer pays within 30 days.'")
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `collegium server release` wrote.")],
    task: Annotated[str, typer.Option(help="One of the bundle's tasks.")],
    text: Annotated[str | None, typer.Option(help="The text to read.")] = None,
    second: Annotated[str | None, typer.Option(help="The question, or the other text of a pair.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of records instead of one text.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not as the bundle says.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Also print the head's raw output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a released bundle to new text."""
    from client.predict import open_bundle, records_of

    predictor = open_bundle(bundle, backbone=backbone)
    records = records_of(predictor, task, text=text, second=second, file=file)
    rows = [{"prediction": prediction} for prediction in predictor.predict(task, records)]
    if logits:
        rows = [row | {"logits": predictor.logits(task, r).tolist()} for row, r in zip(rows, records, strict=True)]
    if as_json:
        print_json({"task": task, "rows": rows})
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if logits else json.dumps(row["prediction"], ensure_ascii=False))


def _search(
    experiment: Path,
    method: Literal["grid", "random"],
    trials: int,
    *,
    data: Path | None,
    limit: int | None,
    workdir: Path | None,
    as_json: bool,
) -> None:
    from simulations import search

    found = search.search_task_weights(
        experiment,
        method=method,
        trials=trials,
        data=data,
        limit=limit,
        workdir=_fresh_folder(workdir),
        announce=announce,
    )
    if as_json:
        print_json(search.as_json(found))
    else:
        search.print_trials(found)


def _fresh_folder(workdir: Path | None) -> Path:
    from shared.errors import ConfigError

    if workdir is None:
        return Path(tempfile.mkdtemp(prefix="collegium-"))
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ConfigError(f"Expected --workdir to be a new or empty folder, but {workdir} has content; name another.")
    workdir.mkdir(parents=True, exist_ok=True)
    return workdir.resolve()


def main() -> None:
    """Entry point of the console script."""
    private_umask()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: the machine may be busy with other sites
    console.run(app)


if __name__ == "__main__":
    main()
