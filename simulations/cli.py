"""The researcher's verbs: whole federations on this machine, and attacks on what they promise."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.errors import ConfigError
from shared.process.console import JsonOption, announce, print_json, print_table, verbs
from shared.process.files import check_folder
from shared.process.memory import loading

app = verbs("Research: whole federations in one process.")


@app.command(epilog="Example: collegium demo --workdir demo")
def demo(
    workdir: Annotated[Path | None, typer.Option(help="Keep everything here; a new or empty folder.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Then train on all records at one place too, and show both scores.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a hospital, a law firm and a bank train one model on this machine."""
    with _fresh_folder(workdir) as folder:  # before torch is loaded: a wrong folder is reported at once
        from simulations.demo import as_json as result_as_json
        from simulations.demo import run_demo
        from simulations.results import print_rows

        for number in (signal.SIGINT, signal.SIGTERM):  # both end the daemons first, also where a shell ignores SIGINT
            signal.signal(number, signal.default_int_handler)
        result = run_demo(folder, announce, compare=compare)
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
        Literal["task-weights"] | None,
        typer.Option(help="Run the federation many times, to find the best by validation."),
    ] = None,
    method: Annotated[Literal["grid", "random"], typer.Option(help="How --search chooses what to try.")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Most runs of --search.")] = 20,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that institutions work in. [default: the cores, as memory allows]"),
    ] = None,
    backend: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="`ray`: Flower's Simulation Runtime, on this machine or RAY_ADDRESS; needs collegium[ray]."),
    ] = "processes",
    group: Annotated[
        int | None,
        typer.Option(min=1, help="Institutions that train in one forward pass, in one process. [default: 8 on a GPU]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole federation, and its baselines, on this machine."""
    if group and ((workers or 1) > 1 or search or backend == "ray"):
        raise ConfigError(
            "Expected --group without --workers, --search and --backend ray, for a group is of one process; choose one."
        )
    if search:
        if backend == "ray":
            raise ConfigError("Expected --search without --backend ray; leave one of them out.")
        _search(experiment, method, trials, data=data, limit=limit, workdir=workdir, workers=workers, as_json=as_json)
        return
    with loading():
        from simulations.results import means, print_rows
        from simulations.simulate import run_experiment

    with _fresh_folder(workdir) as folder:
        rows = run_experiment(
            experiment,
            data=data,
            limit=limit,
            workdir=folder,
            announce=announce,
            workers=workers,
            backend=backend,
            group=group,
        )
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
        typer.Option(
            help="Experiment: gradient canaries, planted texts, secret numbers, or one owner of a whole site."
        ),
    ] = "gradient",
    canaries: Annotated[
        int | None, typer.Option(min=1, help="Experiment: how many canaries, or for `site` how many runs.")
    ] = None,
    institution: Annotated[
        str | None, typer.Option(help="Experiment: the institution whose training data they join.")
    ] = None,
    noise_factor: Annotated[
        float, typer.Option(min=0, help="Experiment: multiply the noise; the audit should detect a small factor.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Experiment: seed of the canaries, and of which are included.")] = 13,
    task: Annotated[str | None, typer.Option(help="The task of the text canaries, or of the bundle's records.")] = None,
    members: Annotated[Path | None, typer.Option(help="Bundle: a file of records that it was trained on.")] = None,
    others: Annotated[Path | None, typer.Option(help="Bundle: a file of records that it was not trained on.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Bundle: where the BERT is, if not where the bundle says.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Attack a private training or a released bundle, and compare what is found with what is promised.

    The exit code is 1 if provably more is lost than the accounting reports.
    """
    with loading():
        from simulations.audit import audit_target
        from simulations.auditing import report
        from simulations.auditing.plan import Plan

    check_folder(out)  # an audit may take hours
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


@app.command(epilog="Example: collegium bench aggregation --turns 7")
def bench(
    name: Annotated[str | None, typer.Argument(help="The benchmark; without it all are listed.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="How often each side is measured.")] = 5,
    data: Annotated[
        Path | None, typer.Option(help="Folder of public data sets to read; else the demonstration's texts.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure Collegium beside what it is compared with, on one thread, in turns on this machine."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch are loaded
    from simulations.benchmarks.measured import Asked
    from simulations.benchmarks.page import COMPARED, compared
    from simulations.benchmarks.table import BENCHMARKS, run

    if name is None:
        if as_json:
            print_json({name: benchmark.summary for name, benchmark in BENCHMARKS.items()})
        else:
            print_table(["benchmark", "what is measured"], [[name, b.summary] for name, b in BENCHMARKS.items()])
        return
    result = run(name, Asked(turns=turns, data=data))
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    print_table(COMPARED, [compared(one) for one in result.comparisons])
    for table in result.tables:
        print_table(table.columns, table.rows, title=table.title)


def _search(
    experiment: Path,
    method: Literal["grid", "random"],
    trials: int,
    *,
    data: Path | None,
    limit: int | None,
    workdir: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    from simulations import search

    with _fresh_folder(workdir) as folder:
        found = search.search_task_weights(
            experiment,
            method=method,
            trials=trials,
            data=data,
            limit=limit,
            workdir=folder,
            announce=announce,
            workers=workers,
        )
    if as_json:
        print_json(search.as_json(found))
    else:
        search.print_trials(found)


@contextmanager
def _fresh_folder(workdir: Path | None) -> Iterator[Path]:
    """A new or empty folder; of a verb that fails before a first checkpoint, or a daemon's log, nothing stays in it."""
    if workdir is not None and workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ConfigError(f"Expected --workdir to be a new or empty folder, but {workdir} has content; name another.")
    folder = Path(tempfile.mkdtemp(prefix="collegium-")) if workdir is None else workdir.resolve()
    made = not folder.exists() or workdir is None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not any(file.suffix in (".safetensors", ".log") for file in folder.rglob("*")):
            for entry in (folder,) if made else list(folder.iterdir()):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise
