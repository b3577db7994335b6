"""`collegium server ...`: the coordinator's verbs. Each is one function here over the module that does the work."""

from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import JsonOption, announce, print_json, print_table, verbs

app = verbs("The coordinator: enrol institutions, run rounds, release models.")
Home = Annotated[Path, typer.Argument(help="The coordinator's folder, made by `collegium server init`.")]
HomeOption = Annotated[Path, typer.Option("--home", envvar="COLLEGIUM_SERVER_HOME", help="The coordinator's folder.")]
RunOption = Annotated[str | None, typer.Option("--run", help="A run's id; the latest run if not given.")]


@app.command(epilog="Example: collegium server init coordinator --institution hospital --institution bank")
def init(
    home: Annotated[Path, typer.Argument(help="Folder to make.")],
    name: Annotated[str, typer.Option(help="The federation's name.")] = "federation",
    institution: Annotated[list[str] | None, typer.Option(help="Name of an institution; may be repeated.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Host name or address that institutions connect to; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port for institutions.")] = 8443,
    operator_port: Annotated[int, typer.Option(help="TCP port for your own commands, on loopback only.")] = 8444,
    backbone: Annotated[str, typer.Option(help="Alias, folder or hub id of the BERT.")] = "minilm-l6",
    as_json: JsonOption = False,
) -> None:
    """Make a coordinator's folder: CA, server certificate, operator token, a commented federation.toml."""
    from server.home import init_home
    from server.template import federation_template

    made = init_home(
        home,
        hosts=host or ["localhost", "127.0.0.1"],
        public_port=port,
        operator_port=operator_port,
        federation=federation_template(name=name, institutions=institution or ["hospital", "bank"], backbone=backbone),
    )
    if as_json:
        print_json({"home": str(made.root), "federation": str(made.federation_file), "ca": str(made.ca_certificate)})
        return
    announce(f"Wrote {made.federation_file}: read it, edit it, and give every institution a copy.")
    announce(f"Give every institution {made.ca_certificate}; keep {made.root / 'secrets'} to yourself.")
    announce(f"Next: collegium server up {home}")


@app.command(epilog="Example: collegium server up coordinator")
def up(home: Home) -> None:
    """Run the coordinator's daemon until you stop it with Ctrl-C or SIGTERM."""
    from server.home import open_home
    from server.service.daemon import serve
    from shared.process.supervisor import run_until_signal

    coordinator = open_home(home)
    run_until_signal(lambda stop: serve(coordinator, stop=stop, announce=announce))


@app.command(epilog="Example: collegium server enrol hospital --public-key hospital.pub --home coordinator")
def enrol(
    name: Annotated[str, typer.Argument(help="The institution's name, as in federation.toml.")],
    public_key: Annotated[Path, typer.Option(help="The public key that the institution sent.")],
    home: HomeOption = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Let an institution in: register its public key under its name."""
    from server.enrolment.keys import agreement_line, fingerprint, read_public_key
    from server.home import open_home
    from server.service.operator import OperatorClient

    key = read_public_key(public_key)
    line = agreement_line(key)
    with OperatorClient(open_home(home)) as operator:
        node = operator.register_node(name, key)
    if as_json:
        print_json({"name": name, "node_id": str(node), "public_key": line})
    else:
        announce(f"Enrolled {name}, whose key is {fingerprint(key)}.")
        announce("Its line of [secure_aggregation.keys], for a federation.toml that has it:")
        print(f'{name} = "{line}"')


@app.command(epilog="Example: collegium server run coordinator")
def run(home: Home, as_json: JsonOption = False) -> None:
    """Start a run and follow it; the exit code is 0 only if the run completed."""
    from server.running import follow, start

    running = start(home)
    announce(f"Run {running.run_id} has started.")
    _finish(follow(home, running.run_id, announce), as_json)


@app.command(epilog="Example: collegium server resume coordinator --run 3f2a")
def resume(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Continue an unfinished run after its last checkpoint and follow it."""
    from server.running import follow, start

    running = start(home, resume=True, run_id=run)
    announce(f"Run {running.run_id} continues.")
    _finish(follow(home, running.run_id, announce), as_json)


@app.command(epilog="Example: collegium server status coordinator")
def status(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Show who is enrolled and online, and how the runs went."""
    from server.running import status_report

    report = status_report(home, run)
    if as_json:
        print_json(report)
        return
    print_table(
        ["institution", "status", "last seen"],
        [[n["name"], n["status"], n["last_seen"]] for n in report["institutions"]],
        title="Institutions",
    )
    if report["limited"]:
        print_table(
            ["institution", "limit", "times refused"],
            [[row["institution"], row["limit"], row["times"]] for row in report["limited"]],
            title="Limits of the public door that were passed",
        )
    print_table(
        ["run", "federation", "status", "rounds", "started", "reason"],
        [[r["run"], r["federation"], r["status"], r["rounds"], r["started"], r["reason"]] for r in report["runs"]],
        title="Runs",
    )
    if report["rounds"]:
        print_table(
            ["round", "score", "took part", "did not", "bytes up", "bytes down", "seconds"],
            [
                [r[key] for key in ("round", "score", "took_part", "absent", "bytes_up", "bytes_down", "seconds")]
                for r in report["rounds"]
            ],
            title=f"Run {report['run']}",
        )
        for row in report["rounds"]:
            if row["carried"]:
                announce(f"Round {row['round']}'s score was compared with {row['carried']}, since they were away")
    if report["tests"]:
        scored = [key for key in ("before", "after", "personal") if any(t[key] is not None for t in report["tests"])]
        columns = ["institution", "task", "metric", *scored]
        print_table(columns, [[test[key] for key in columns] for test in report["tests"]], title="Test scores")
    if report["spending"]:
        print_table(
            ["institution", "after round", "epsilon spent"],
            [[s["institution"], s["round"], s["epsilon"]] for s in report["spending"]],
            title="Privacy",
        )
    if report["cuts"]:
        print_table(
            ["institution", "task", "records of", "last in round", "reported", "counted"],
            [[c[key] for key in ("institution", "task", "split", "round", "told", "used")] for c in report["cuts"]],
            title="Counts above their share",
        )
    if report["evaluations"]:
        print_table(
            ["institution", "records", "after round", "epsilon spent on scores"],
            [[e["institution"], e["split"], e["round"], e["epsilon"]] for e in report["evaluations"]],
            title="Privacy of scores",
        )
    if report["outliers"]:
        print_table(
            ["institution", "part", "round", "norm", "cosine", "verdict", "rounds held back", "reason"],
            [
                [o[key] for key in ("institution", "part", "round", "norm", "cosine", "verdict", "held_back", "reason")]
                for o in report["outliers"]
            ],
            title="Outliers",
            wrapped="reason",
        )
    if report["refusals"]:
        print_table(
            ["institution", "refused by", "request", "last in round", "reason"],
            [[r["institution"], r["kind"], r["request"], r["round"], r["reason"]] for r in report["refusals"]],
            title="Refusals",
            wrapped="reason",
        )


@app.command(epilog="Example: collegium server release coordinator bundle")
def release(
    home: Home,
    folder: Annotated[Path, typer.Argument(help="Folder to make: the released bundle.")],
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the best round of a run as a bundle: peft adapter, heads, federation file, metrics."""
    from server.running import release_run

    made = release_run(home, run, folder)
    if as_json:
        print_json({"bundle": str(made)})
    else:
        announce(f"Released to {made}; try: collegium predict {made} --help")


def _finish(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(result)
    if result["status"] != "completed":
        raise typer.Exit(1)
