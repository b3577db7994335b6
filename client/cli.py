"""`collegium client ...`: the institution's verbs."""

from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import JsonOption, LogFormatOption, WatchOption, announce, print_json, print_table, verbs
from shared.process.memory import loading
from shared.watching.logs import choose

LONGEST_WAIT = 3600.0
"""Seconds that `up --once` waits for a request, unless it is told otherwise."""
InstitutionOption = Annotated[Path, typer.Option("--institution", help="Your institution.toml.")]
app = verbs("The institution: train beside your own data.")


@app.command(epilog="Example: collegium client join hospital.invitation")
def join(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator gave you.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder to make, or an empty one; your institution's name if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take up an invitation: a key is made here, and a folder with institution.toml, federation.toml and ca.crt.

    Of the key only the public half is sent. What the coordinator sends is checked against the CA's fingerprint in the
    invitation. If the answer is lost, run the same command again.
    """
    from client.enrolment.joining import join as take_up

    site = take_up(invitation, folder)
    file = site.folder / "institution.toml"
    if as_json:
        print_json({"name": site.name, "folder": str(site.folder), "institution": str(file), "digest": site.digest})
        return
    announce(f"{site.name} has joined; wrote {site.folder}.")
    announce(f"Read {site.folder / 'federation.toml'}, whose digest is {site.digest}.")
    announce(f"If you approve it, add the digest to policy.federations of {file}, with a table for each of your tasks.")
    announce(f"Then: collegium client doctor {file}, and collegium client up {file}")


@app.command(epilog="Example: collegium client init hospital --name hospital --address fl.example.org:8443")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make, or to add to.")] = Path("."),
    name: Annotated[str, typer.Option(help="This institution, as the federation file is to name it.")] = "hospital",
    address: Annotated[str, typer.Option(help="HOST:PORT of the coordinator's public door.")] = "fl.example.org:8443",
    as_json: JsonOption = False,
) -> None:
    """Write a commented institution.toml and a folder for data; `join` does so where there is an invitation."""
    from client.enrolment.template import init_folder

    file = init_folder(folder, name=name, address=address)
    if as_json:
        print_json({"institution": str(file), "data": str(file.parent / "data")})
    else:
        announce(f"Wrote {file}: read it and edit it. Records go to {file.parent / 'data'}.")
        announce(f"Next: collegium client keygen {file.parent / 'node.key'}, and federation.toml and ca.crt beside it.")


@app.command(epilog="Example: collegium client rotate-key institution.toml")
def rotate_key(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    to: Annotated[
        Path | None, typer.Option(help="A private key that `keygen` made; a new one is made if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replace your key, here and at the coordinator: the old one signs the new one, and is good no more.

    The daemon may stay up and connects with the new key; a round that it is in may be lost. Receipts of before stay
    verifiable. If it is interrupted, run the same command again.
    """
    from client.enrolment.rotating import rotate_key as rotate
    from shared.nodekeys import fingerprint

    rotated = rotate(institution, to)
    if as_json:
        print_json({"old": rotated.old, "new": rotated.new})
    else:
        announce(f"The key {fingerprint(rotated.new)} has taken the place of {fingerprint(rotated.old)}.")


@app.command(epilog="Example: collegium client leave institution.toml")
def leave(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    as_json: JsonOption = False,
) -> None:
    """Leave the federation for good: the coordinator marks you as left, and your key is never enrolled again.

    What you have sent before stays where it is. The daemon ends. To come again takes a new invitation and a new key.
    """
    from client.enrolment.leaving import leave as say_goodbye

    member = say_goodbye(institution)
    if as_json:
        print_json({"left": member.name})
    else:
        announce(f"{member.name} has left. Keep {member.runtime.state}: it has your receipts and your privacy ledger.")


@app.command(epilog="Example: collegium client keygen node.key")
def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; PATH.pub gets the public one.")],
    as_json: JsonOption = False,
) -> None:
    """Make the key that proves who you are; send only the public half to the coordinator."""
    from client.keys import generate_node_key

    generate_node_key(path)
    public = path.with_suffix(".pub")
    if as_json:
        print_json({"private_key": str(path), "public_key": str(public)})
    else:
        announce(f"Wrote {path} (keep it here) and {public} (send it to the coordinator).")


@app.command(epilog="Example: collegium client doctor institution.toml")
def doctor(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that relative paths of data files start from, instead of institution.toml's own."),
    ] = None,
    forecast: Annotated[
        bool, typer.Option("--forecast/--no-forecast", help="Try a piece of a round, and say what a run would take.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check whether your site and its data are ready, and what a run would take and cost.

    Data: bad rows, duplicates, leaks between splits, lengths, broken text, labels. Site: agreement, permissions,
    backbone, memory, disk, privacy budget. Way to the coordinator: name, proxy, TLS, clocks, whether your key is
    enrolled. Of a file with several federations it looks at each. With [secure_aggregation] it also shows the
    fingerprints of the node keys that the federation file names.

    Nothing of your data leaves this machine. The exit code is 1 if the verdict is `blocked`, and 0 for `ready` and
    `review`.
    """
    with loading():
        from client.doctor.examination import all_as_json, examine_all, print_all, verdicts_of

    from shared.doctor.findings import worst

    found = examine_all(institution, data, tried=forecast)
    if as_json:
        print_json(all_as_json(found))
    else:
        print_all(found)
    if worst(verdicts_of(found)) == "error":
        raise typer.Exit(1)


@app.command(epilog="Example: collegium client inspect notes.csv --task topics")
def inspect(
    file: Annotated[Path, typer.Argument(help="A file of records, or a folder.")],
    task: Annotated[str, typer.Option(metavar="NAME", help="What the federation calls the task.")] = "TASK",
    as_json: JsonOption = False,
) -> None:
    """Guess what a file holds (format, columns, task), show three records, and write the [data] table that reads it."""
    from client.data.inspection import as_json as plain
    from client.data.inspection import inspect as look
    from client.data.inspection import print_inspected

    found = look(file)
    if as_json:
        print_json(plain(found, task))
    else:
        print_inspected(found, task)


@app.command(epilog="Example: collegium client ledger institution.toml --verify")
def ledger(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare it with the receipts of what has left.")
    ] = False,
    approve: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Let a new data set that waits for approval start its own budget."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the privacy budget that your data have spent and have left, over all rounds, runs and coordinators.

    The exit code is 1 if the ledger has been edited, cannot be read, or with --verify is older than the receipts.
    """
    with loading():
        from client.privacy.report import approve_dataset, examine_ledger, print_report, report_as_json

    if approve is not None:
        approved = approve_dataset(institution, approve)
        if as_json:
            print_json({"approved": approved.fingerprint})
        else:
            announce(f"The data set {approved.fingerprint} starts its own budget: {approved.owners} owners.")
        return
    report = examine_ledger(institution, verify=verify)
    if as_json:
        print_json(report_as_json(report))
    else:
        print_report(report)


@app.command(epilog="Example: collegium client outbox institution.toml --verify")
def outbox(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    approve: Annotated[str | None, typer.Option(metavar="ID", help="Release an update that waits.")] = None,
    reject: Annotated[
        str | None, typer.Option(metavar="ID", help="Delete an update that waits; it never leaves.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain and every signature.")] = False,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key that earlier receipts were signed with; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what has left your site, a signed receipt each, and decide on the updates that wait under policy.hold.

    With --verify the exit code is 1 if a receipt was edited, removed or moved, and the message says which.
    """
    from client.institution import load_institution
    from client.leaving import outbox as box

    if approve and reject:
        raise typer.BadParameter("give either --approve or --reject")
    site = load_institution(institution)
    if name := approve or reject:
        decision: box.Decision = "approved" if approve else "rejected"
        box.decide(site.runtime.state, name, decision)
        if as_json:
            print_json({"id": name, "decision": decision})
        else:
            announce(f"Update {name} is {decision}.")
        return
    report = box.report(site.runtime.state, [site.identity.key, *(key or ())] if verify else None)
    if as_json:
        print_json(report)
    else:
        box.print_report(report)


@app.command(epilog="Example: collegium client bundle institution.toml --out bundle")
def bundle(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    out: Annotated[Path, typer.Option(help="Folder to make: the bundle.")] = Path("bundle"),
    as_json: JsonOption = False,
) -> None:
    """Write your own model of the last run's released round as a bundle, with parts kept at home and your fine-tune.

    It was trained on your records: treat it as you treat them. Nothing is sent, and no daemon needs to be up.
    """
    with loading():
        from client.round.personal import write_own_bundle

    made = write_own_bundle(institution, out)
    if as_json:
        print_json({"bundle": str(made)})
    else:
        announce(f"Wrote {made}; try: collegium predict {made} --help")


@app.command(epilog="Example: collegium client agreement institution.toml")
def agreement(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    as_json: JsonOption = False,
) -> None:
    """Show what the coordinator offers to agree on next, and how it differs from what is in force, key by key."""
    from client.agreement.report import examine, print_report

    report = examine(institution)
    if as_json:
        print_json(report)
    else:
        print_report(report, institution)


@app.command(epilog="Example: collegium client approve 5c1e... --institution institution.toml")
def approve(
    digest: Annotated[str, typer.Argument(help="All 64 digits, as `collegium client agreement` shows them.")],
    institution: InstitutionOption = Path("institution.toml"),
    as_json: JsonOption = False,
) -> None:
    """Approve the agreement that is offered: it is in force here with the first request under it, without a restart."""
    from client.agreement.report import decide

    told = decide(institution, digest, approved=True)
    if as_json:
        print_json({"approved": digest})
    else:
        announce(told)


@app.command(epilog="Example: collegium client decline 5c1e... --institution institution.toml")
def decline(
    digest: Annotated[str, typer.Argument(help="All 64 digits, as `collegium client agreement` shows them.")],
    institution: InstitutionOption = Path("institution.toml"),
    as_json: JsonOption = False,
) -> None:
    """Decline the agreement that is offered, or take back an approval that is not in force yet."""
    from client.agreement.report import decide

    told = decide(institution, digest, approved=False)
    if as_json:
        print_json({"declined": digest})
    else:
        announce(told)


@app.command(epilog="Example: collegium client consent bundle --key release.pub --institution institution.toml")
def consent(
    release: Annotated[Path, typer.Argument(help="The bundle that the coordinator has released and handed to you.")],
    institution: InstitutionOption = Path("institution.toml"),
    out: Annotated[Path | None, typer.Option(help="File to make; NAME.consent if not given.")] = None,
    key: Annotated[Path | None, typer.Option(help="The coordinator's public/release.pub.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign that a release may name your institution, with its rounds, counts and scores, and the licences of your data.

    The bundle is verified first. Nothing is sent: hand the file to the coordinator, which releases once more with it.
    """
    from client.agreement.consent import consent as agree

    file, signed = agree(institution, release, out, key)
    if as_json:
        print_json({"file": str(file), "release": signed.release, "licences": signed.licences})
    else:
        announce(f"{signed.name} consents to release {signed.release}; hand {file} to the coordinator.")


@app.command(epilog="Example: collegium client report institution.toml --month 2026-11")
def report(
    month: Annotated[str, typer.Option(help="Such as 2026-11, in UTC.")],
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    as_json: JsonOption = False,
) -> None:
    """Write what left in a month, when, to whom and under which epsilon, as a page for those who must sign it.

    It is made of the receipts, which are verified first: the exit code is 1 if one was edited, removed or moved.
    """
    from client.upkeep.report import as_markdown
    from client.upkeep.report import report as of_month

    told = of_month(institution, month)
    if as_json:
        print_json(told)
    else:
        print(as_markdown(told))


@app.command(epilog="Example: collegium client backup /mnt/backups/2026-11-29.tar institution.toml")
def backup(
    file: Annotated[Path, typer.Argument(help="File to make, outside the state folder.")],
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
) -> None:
    """Copy key, settings, state folder and privacy ledger while the daemon runs; not your data, nor the backbone.

    It holds your key: keep it as a secret. Only the latest copy counts: an older ledger trains nothing.
    """
    from client.upkeep.backup import backup as copy

    announce(f"Wrote {copy(institution, file)}: it holds your key, so keep it as a secret.")


@app.command(epilog="Example: collegium client restore /mnt/backups/2026-11-29.tar institution")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Make an institution's folder of a backup, whole and verified or not at all.

    A privacy ledger that is older than what the receipts or the coordinator remember trains nothing from then on.
    """
    from client.upkeep.backup import restore as make

    for key, path in make(file, folder).items():
        announce(f'Set {key} = "{path}" in institution.toml: that is where it lies now.')
    announce(f"Restored {folder}: put your data where institution.toml says, then: collegium client up")


@app.command(epilog="Example: collegium client page institution.toml")
def page(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on loopback; 0 picks a free one.")] = 0,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in your browser too.")] = True,
) -> None:
    """Show your site in a browser on this machine until you stop it: what runs, left, waits for release, is spent.

    You sign in with a token that is new at every start. Nobody but this machine can reach the page, the daemon need
    not be up, and no text of a record is on it.
    """
    from client.dashboard.serving import serve
    from shared.process.supervisor import run_until_signal

    run_until_signal(lambda stop: serve(institution, port=port, show=show, stop=stop, announce=announce))


@app.command(epilog="Example: collegium client status institution.toml --watch")
def status(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what your site does: last round, what left and waits, privacy, agreement; the daemon need not be up."""
    from client.institution import load_institution
    from client.watching.metrics import Left
    from client.watching.status import report, shown
    from client.watching.status import watch as keep_showing

    if watch:
        return keep_showing(institution, announce)
    site = load_institution(institution)
    told = report(site, Left(site))
    if as_json:
        print_json(told)
    else:
        print_table(("", site.name), list(shown(told).items()), wrapped=site.name)


@app.command(epilog="Example: collegium client up institution.toml")
def up(
    institution: Annotated[Path, typer.Argument(help="Your institution.toml.")] = Path("institution.toml"),
    once: Annotated[
        bool, typer.Option("--once", help="Answer one round, then end: for jobs of a batch system.")
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="With --once: end if nobody asks for so long; 3600 if not given."),
    ] = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Run the institution's daemon until you stop it with Ctrl-C or SIGTERM.

    With --once it ends when it has trained and scored one round, when the run is over, or when nobody asks for anything
    within --wait. The exit code is 1 if it could not answer: it refused, was not connected, or was stopped before.
    """
    from client.service.daemon import serve
    from shared.process.supervisor import run_until_signal

    choose(log_format)
    if wait is not None and not once:
        raise typer.BadParameter("give --wait with --once alone")
    seconds = (wait or LONGEST_WAIT) if once else None
    run_until_signal(lambda stop: serve(institution, stop=stop, announce=announce, once=seconds))
