"""`collegium server release` and `withdraw`: their place among the coordinator's verbs is in `server/cli.py`."""

from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import JsonOption, announce, print_json


def release(
    home: Annotated[Path, typer.Argument(help="The coordinator's folder, made by `collegium server init`.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make: the released bundle.")],
    run: Annotated[str | None, typer.Option("--run", help="A run's id; the latest run if not given.")] = None,
    rank: Annotated[
        int, typer.Option(min=1, help="Most components of a layer, where rounds have added to the frozen weights.")
    ] = 64,
    consent: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What `client consent` wrote; may be repeated.")
    ] = None,
    audit: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="An audit.json about this model; may be repeated.")
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Not signed, and whatever it misses: to be audited.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the best round of a run as a signed bundle: peft adapter, heads, federation file, metrics, model card.

    It is refused if it misses what `[release]` of the agreement asks. Its card names no institution but those whose
    consents are given: release once, have it signed by `collegium client consent`, and release again with the files.
    """
    from server.release.making import release_run
    from shared.bundle import release_of

    made = release_run(home, run, folder, rank, consents=consent or (), audits=audit or (), draft=draft)
    if as_json:
        print_json({"bundle": str(made), "release": release_of(made), "signed": not draft})
    elif draft:
        announce(f"Wrote a draft to {made}; audit it: collegium audit {made} --help")
    else:
        announce(f"Released to {made}; try: collegium verify {made}, and collegium predict {made} --help")
        announce(f"Readers need {home / 'public' / 'release.pub'} to know that it is yours.")


def withdraw(
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    home: Annotated[
        Path, typer.Option("--home", envvar="COLLEGIUM_SERVER_HOME", help="The coordinator's folder.")
    ] = Path("."),
    mark: Annotated[
        list[Path] | None,
        typer.Option(metavar="BUNDLE", help="A release that lies elsewhere now; its card is marked too. Repeatable."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="It was said in error: take back record and marks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Record that an institution leaves: no round from now on is with it, and the cards of releases say so.

    What it has sent stays in the models that have it: `collegium server run --from RUN --without NAME` makes one that
    has not. The agreement still names it (`collegium server remove`), and its key is still enrolled (`revoke`).
    """
    from server.release.withdrawal import withdraw as leave

    found = leave(home, name, undo=undo, more=mark or ())
    unmarked = {str(bundle): why for bundle, why in found.unmarked.items()}
    if as_json:
        marked = [str(bundle) for bundle in found.marked]
        print_json({"name": name, "without_from": found.without, "marked": marked, "unmarked": unmarked})
        return
    announce(f"{name} takes part again." if undo else f"{name} has withdrawn.")
    if not undo:
        for run, number in found.without.items():
            announce(f"Run {run} is without it from round {number} on.")
    for bundle in found.marked:
        announce(f"The card of {bundle} says so; hand it out again.")
    for each, why in unmarked.items():
        announce(f"The card of {each} does not: {why} Where it lies elsewhere, name that by --mark.")
