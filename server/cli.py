"""`collegium server ...`: the coordinator's verbs. Each is one function here over the module that does the work."""

from pathlib import Path
from typing import Annotated

import typer

from server.release.cli import release, withdraw
from shared.process.console import JsonOption, LogFormatOption, WatchOption, announce, print_json, verbs
from shared.watching.logs import choose

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
    enrolment_port: Annotated[int, typer.Option(help="TCP port for invitations, new keys and good-byes.")] = 8445,
    backbone: Annotated[str, typer.Option(help="Alias, folder or hub id of the BERT.")] = "minilm-l6",
    as_json: JsonOption = False,
) -> None:
    """Make a coordinator's folder: CA, certificate, tokens, the key that signs releases, a federation.toml."""
    from server.home import init_home
    from server.release.key import signing_key
    from server.template import federation_template

    made = init_home(
        home,
        hosts=host or ["localhost", "127.0.0.1"],
        public_port=port,
        operator_port=operator_port,
        enrolment_port=enrolment_port,
        federation=federation_template(name=name, institutions=institution or ["hospital", "bank"], backbone=backbone),
    )
    signing_key(made)
    if as_json:
        print_json({"home": str(made.root), "federation": str(made.federation_file), "ca": str(made.ca_certificate)})
        return
    announce(f"Wrote {made.federation_file}: read it and edit it. Keep {made.root / 'secrets'} to yourself.")
    announce(f"Next: collegium server up {home}, and an invitation for every institution (collegium server invite)")


@app.command(epilog="Example: collegium server up coordinator")
def up(home: Home, log_format: LogFormatOption = "text") -> None:
    """Run the coordinator's daemon until you stop it with Ctrl-C or SIGTERM."""
    from server.home import open_home
    from server.service.daemon import serve
    from shared.process.supervisor import run_until_signal

    choose(log_format)
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
    from server.agreement import naming
    from server.enrolment.keys import agreement_line, fingerprint, read_public_key
    from server.home import open_home
    from server.service.operator import OperatorClient

    coordinator = open_home(home)
    key = read_public_key(public_key)
    line = agreement_line(key)
    naming(coordinator, name)
    with OperatorClient(coordinator) as operator:
        node = operator.register_node(name, key)
    if as_json:
        print_json({"name": name, "node_id": str(node), "public_key": line})
    else:
        announce(f"Enrolled {name}, whose key is {fingerprint(key)}.")
        announce("Its line of [secure_aggregation.keys], for a federation.toml that has it:")
        print(f'{name} = "{line}"')


@app.command(epilog="Example: collegium server invite hospital --home coordinator")
def invite(
    name: Annotated[str, typer.Argument(help="The institution's name, as in federation.toml.")],
    home: HomeOption = Path("."),
    out: Annotated[Path | None, typer.Option(help="The file to make; NAME.invitation if not given.")] = None,
    days: Annotated[float, typer.Option(min=0.01, max=90, help="How long it is good.")] = 7.0,
    as_json: JsonOption = False,
) -> None:
    """Write an invitation, by which an institution joins once: address, the CA's fingerprint, and a secret code.

    An earlier one for the same institution is good no more.
    """
    from server.enrolment.members import invite as write
    from server.home import open_home

    path = out or Path(f"{name}.invitation")
    invitation = write(open_home(home), name, path, days=days)
    if as_json:
        print_json({"file": str(path), "expires": invitation.expires.isoformat(), "authority": invitation.authority})
        return
    announce(f"Wrote {path}, good once and until {invitation.expires:%Y-%m-%d %H:%M} UTC: hand it to {name}, secretly.")
    announce(f"There: collegium client join {path.name}   (the CA's fingerprint is {invitation.authority})")


@app.command(epilog="Example: collegium server revoke hospital --home coordinator")
def revoke(
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    home: HomeOption = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Cut an institution off at once and for ever, in mid-round too; its key is never enrolled again.

    The agreement still names it: `collegium server remove` makes one without it.
    """
    from server.enrolment.members import revoke as cut_off
    from server.home import open_home

    node = cut_off(open_home(home), name)
    if as_json:
        print_json({"name": name, "node_id": str(node.node_id), "fingerprint": node.fingerprint})
    else:
        announce(f"Revoked {name}: its key {node.fingerprint} is refused from now on, under any name.")


@app.command(epilog="Example: collegium server remove hospital --home coordinator")
def remove(
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    home: HomeOption = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Offer the agreement without an institution; runs begin under it once all others have approved it.

    Runs that have begun go on under theirs. Its key stays enrolled; `collegium server revoke` ends that.
    """
    from server.enrolment.members import remove as take_off
    from server.home import open_home

    _tell_of_offer(*take_off(open_home(home), name), as_json)


@app.command(epilog="Example: collegium server rotate-certificate coordinator")
def rotate_certificate(home: Home, as_json: JsonOption = False) -> None:
    """Issue a new server certificate, with a new key and the present `hosts`, by the same CA; no restart is needed.

    New connections get it, open ones stay, and institutions need nothing new. It happens by itself when fewer than 30
    days are left.
    """
    from server.enrolment.certificates import look, renew
    from server.home import open_home, read_settings

    coordinator = open_home(home)
    renew(coordinator, read_settings(coordinator))
    days = look(coordinator)
    if as_json:
        print_json({"certificate_days": days.server, "authority_days": days.authority})
    else:
        announce(f"The doors show a new certificate, good for {days.server} days.")


@app.command(epilog="Example: collegium server rotate-authority coordinator")
def rotate_authority(
    home: Home,
    finish: Annotated[
        bool, typer.Option("--finish", help="All institutions have the new ca.crt: end the old authority.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the CA in two steps: first both stand in public/ca.crt, for all institutions; --finish ends the old one.

    The server has to be down for --finish. Who has the old ca.crt alone is refused after that, until it has the new
    one. No key changes.
    """
    from server.enrolment.certificates import begin_authority, finish_authority, look
    from server.home import open_home, read_settings
    from shared.process.lock import only_one

    coordinator = open_home(home)
    if finish:
        with only_one(coordinator.lock_file, serving=str(home), advice="stop it, finish, and start it again"):
            finish_authority(coordinator, read_settings(coordinator))
        announce(
            f"The doors show a certificate of the new authority, which stands alone in {coordinator.ca_certificate}."
        )
    else:
        begin_authority(coordinator)
        announce(f"{coordinator.ca_certificate} has the old authority and the next one: give it to every institution.")
        announce(f"When all have it: collegium server rotate-authority {home} --finish")
    if as_json:
        days = look(coordinator)
        print_json({"certificate_days": days.server, "authority_days": days.authority, "finished": finish})


@app.command(epilog="Example: collegium server propose next.toml --home coordinator")
def propose(
    file: Annotated[Path | None, typer.Argument(help="The federation file to agree on next.")] = None,
    home: HomeOption = Path("."),
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back what is offered.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Offer a federation file to all institutions; runs begin under it once all whom it names have approved it.

    A run that is under way ends under the old one.
    """
    from server.agreement import propose as offer
    from server.agreement import withdraw as take_back
    from server.home import open_home

    if withdraw == (file is not None):
        raise typer.BadParameter("give either a file or --withdraw")
    if file is None:
        take_back(open_home(home))
        announce("Nothing is offered any more.")
    else:
        _tell_of_offer(*offer(open_home(home), file), as_json)


@app.command(epilog="Example: collegium server extend coordinator --rounds 4")
def extend(
    home: Home,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds more.")],
    as_json: JsonOption = False,
) -> None:
    """Offer the agreement in force with more rounds; once all have approved it, `resume` goes on with a run.

    A completed run goes on after its last round, and its best round is then chosen anew.
    """
    from server.agreement import extend as offer_more
    from server.home import open_home

    _tell_of_offer(*offer_more(open_home(home), rounds), as_json)


@app.command(epilog="Example: collegium server doctor coordinator")
def doctor(
    home: Home,
    forecast: Annotated[bool, typer.Option("--forecast/--no-forecast", help="Say what a run would take.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Check whether the coordinator is ready, and what a run would take; the server may be up or not.

    Settings, permissions, certificates, ports, database, disk, clock, backbone, Flower, the federation file against
    those who are enrolled, runs that have not ended, labels as institutions last told them.

    Nothing is changed. The exit code is 1 if the verdict is `blocked`, and 0 for `ready` and `review`.
    """
    from server.doctor.examination import as_json as plain_data
    from server.doctor.examination import examine, print_examination
    from shared.doctor.findings import worst

    found = examine(home, measured=forecast)
    if as_json:
        print_json(plain_data(found))
    else:
        print_examination(found)
    if worst(finding.verdict for finding in found.findings) == "error":
        raise typer.Exit(1)


@app.command(epilog="Example: collegium server run coordinator")
def run(
    home: Home,
    parent: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN[:ROUND]", help="Begin with the state of an earlier run; its best round."),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="From the last checkpoint before this institution first took part."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run and follow it; the exit code is 0 only if the run completed.

    With --from, tasks that the earlier run had too keep their heads, new ones begin with fresh heads. With --without it
    is the latest run if none is named.
    """
    from server.runs.following import tell_of
    from server.runs.steering import start

    tell_of(home, start(home, parent, without), "Run {} is queued.", as_json)


@app.command(epilog="Example: collegium server resume coordinator --run 3f2a")
def resume(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Continue a failed, stopped or paused run after its last checkpoint, and follow it."""
    from server.runs.following import tell_of
    from server.runs.steering import resume as go_on

    tell_of(home, go_on(home, run), "Run {} continues.", as_json)


@app.command(epilog="Example: collegium server follow coordinator")
def follow(home: Home, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Tell what happens in a run until it has ended, from its beginning."""
    from server.runs.following import tell_of
    from server.runs.steering import look_up

    tell_of(home, look_up(home, run), "Run {}.", as_json)


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
def status(home: Home, run: RunOption = None, watch: WatchOption = False, as_json: JsonOption = False) -> None:
    """Show who is enrolled and online, and how the runs went; without a server, what the store knows."""
    if watch:
        from server.runs.live import watch as keep_showing

        return keep_showing(home, run)
    from server.runs.status import status_report
    from server.runs.tables import print_status

    report = status_report(home, run)
    if as_json:
        print_json(report)
    else:
        print_status(report)


@app.command(epilog="Example: collegium server page coordinator")
def page(
    home: Home,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in your browser too.")] = True,
    new_viewer_token: Annotated[
        bool,
        typer.Option("--new-viewer-token", help="Make a token for people who may look, and end the earlier one."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say where the coordinator's page is, on this machine, and open it: runs, curves, institutions, agreement.

    You sign in with the operator's token. Your browser is shown the coordinator's own certificate: import
    public/ca.crt, or compare the fingerprint before you go on.
    """
    from server.dashboard.address import new_viewer_token as renew
    from server.dashboard.address import tell
    from server.home import open_home

    coordinator = open_home(home)
    if new_viewer_token:
        renew(coordinator)
    tell(coordinator, as_json=as_json, show=show)


app.command(epilog="Example: collegium server release coordinator bundle")(release)
app.command(epilog="Example: collegium server withdraw hospital --home coordinator")(withdraw)


@app.command(epilog="Example: collegium server backup /mnt/backups/2026-11-29.tar --home coordinator")
def backup(
    file: Annotated[Path, typer.Argument(help="File to make, outside the folder.")],
    home: HomeOption = Path("."),
    without_store: Annotated[
        bool, typer.Option("--without-store", help="The store is at a URL of its own: copied by that database's tools.")
    ] = False,
) -> None:
    """Copy a coordinator's folder while it serves: settings, secrets, databases, checkpoints; keep it as a secret."""
    from server.upkeep.backup import backup as copy

    announce(f"Wrote {copy(home, file, without_store=without_store)}: it holds the secrets, so keep it as one.")


@app.command(epilog="Example: collegium server restore /mnt/backups/2026-11-29.tar coordinator")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Make a coordinator's folder of a backup, whole and verified or not at all; runs then go on from there."""
    from server.upkeep.backup import restore as make

    announce(f"Restored {make(file, folder)}. Next: collegium server up {folder}")


def _tell_of_offer(digest: str, changes: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"offered": digest, "changes": changes})
        return
    for line in changes:
        print(line)
    announce(f"Offered {digest}: `collegium server status` shows who has approved it.")
