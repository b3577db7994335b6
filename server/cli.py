"""`collegium server ...`: the coordinator's verbs. Each is one function here over the module that does the work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.process.console import JsonOption, announce, print_json, verbs

if TYPE_CHECKING:
    from server.runs.steering import Queued

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
    from server.runs.steering import start

    _follow(home, start(home), "Run {} is queued.", as_json)


@app.command(epilog="Example: collegium server resume coordinator --run 3f2a")
def resume(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Continue a failed, stopped or paused run after its last checkpoint, and follow it."""
    from server.runs.steering import resume as go_on

    _follow(home, go_on(home, run), "Run {} continues.", as_json)


@app.command(epilog="Example: collegium server follow coordinator")
def follow(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Tell what happens in a run until it has ended, from its beginning."""
    from server.runs.steering import look_up

    _follow(home, look_up(home, run), "Run {}.", as_json)


@app.command(epilog="Example: collegium server runs coordinator")
def runs(home: Home, as_json: JsonOption = False) -> None:
    """List all runs; the server need not be up."""
    from server.opening import open_store
    from server.runs.status import runs_report
    from server.runs.tables import print_runs

    with open_store(home) as store:
        report = runs_report(store)
    if as_json:
        print_json({"runs": report})
    else:
        print_runs(report)


@app.command(epilog="Example: collegium server pause coordinator")
def pause(home: Home, run: RunOption = None) -> None:
    """Have a run end its round and then wait until `unpause`."""
    from server.runs.steering import pause as wait

    announce(wait(home, run))


@app.command(epilog="Example: collegium server unpause coordinator")
def unpause(home: Home, run: RunOption = None) -> None:
    """Have a paused run go on."""
    from server.runs.steering import unpause as go_on

    announce(go_on(home, run))


@app.command(epilog="Example: collegium server stop coordinator")
def stop(home: Home, run: RunOption = None) -> None:
    """End a run now; its last checkpoint is kept, and `resume` goes on from there."""
    from server.runs.steering import stop as end

    announce(end(home, run))


@app.command(epilog="Example: collegium server status coordinator")
def status(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Show who is enrolled and online, and how the runs went; without a server, what the store knows."""
    from server.runs.status import status_report
    from server.runs.tables import print_status

    report = status_report(home, run)
    if as_json:
        print_json(report)
    else:
        print_status(report)


@app.command(epilog="Example: collegium server release coordinator bundle")
def release(
    home: Home,
    folder: Annotated[Path, typer.Argument(help="Folder to make: the released bundle.")],
    run: RunOption = None,
    rank: Annotated[
        int, typer.Option(min=1, help="Most components of a layer, where rounds have added to the frozen weights.")
    ] = 64,
    as_json: JsonOption = False,
) -> None:
    """Write the best round of a run as a bundle: peft adapter, heads, federation file, metrics."""
    from server.release import release_run

    made = release_run(home, run, folder, rank)
    if as_json:
        print_json({"bundle": str(made)})
    else:
        announce(f"Released to {made}; try: collegium predict {made} --help")


def _follow(home: Path, queued: "Queued", text: str, as_json: bool) -> None:
    """Tell of a run until it has ended; the exit code is 0 only if it completed."""
    from server.runs.steering import follow

    announce(text.format(queued.run_id))
    if queued.note:
        announce(queued.note)
    try:
        result = follow(home, queued.run_id, announce, seen=queued.seen)
    except KeyboardInterrupt:
        announce(
            f"Run {queued.run_id} goes on without this window: `collegium server follow {home}` shows it again, "
            f"`collegium server stop {home}` ends it."
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json(result)
    if result["status"] != "completed":
        raise typer.Exit(1)
