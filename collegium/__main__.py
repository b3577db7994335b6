"""`collegium`: finds the verb that is asked for, and loads the module of that one alone."""

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import click
import typer
from typer.core import TyperArgument, TyperGroup
from typer.utils import get_params_from_function

from shared.process.console import run, verbs
from shared.process.files import private_umask

VERBS: Mapping[str, str] = {
    "demo": "simulations.cli:app",
    "simulate": "simulations.cli:app",
    "audit": "simulations.cli:app",
    "bench": "simulations.cli:app",
    "digest": "collegium.everyone:app",
    "methods": "collegium.everyone:app",
    "tasks": "collegium.everyone:app",
    "predict": "collegium.everyone:app",
    "serve": "collegium.everyone:app",
    "verify": "collegium.everyone:app",
    "card": "collegium.everyone:app",
    "merge": "collegium.everyone:app",
    "optimize": "collegium.everyone:app",
    "server": "server.cli:app",
    "client": "client.cli:app",
}
"""Where each verb stands, as `module:app`: a verb of that app, or the whole app with verbs of its own."""


class Verbs(TyperGroup):
    """The verbs of the table, in its order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb; None if there is none of this name."""
        if cmd_name in VERBS:
            return load(cmd_name)
        self.commands = {verb: load(verb) for verb in VERBS}  # click suggests one of these
        return None


def load(verb: str) -> click.Command:
    """Import the module of a verb; the verb, or the group of verbs."""
    module, _, name = VERBS[verb].partition(":")
    group = typer.main.get_group(getattr(import_module(module), name))
    group.name = verb
    for command in group.commands.values():
        _restore_help(command)
        _leave_files_to_their_readers(command)
    return group.commands.get(verb, group)


def _restore_help(command: click.Command) -> None:
    """Say again what each argument is, which click from 8.5 on forgets under this typer."""
    assert command.callback is not None
    declared = get_params_from_function(command.callback)
    for param in command.params:
        if isinstance(param, TyperArgument) and param.name:
            param.help = declared[param.name].default.help


def _leave_files_to_their_readers(command: click.Command) -> None:
    """Click would look whether a path may be read, and show the usage if not; whoever reads it says what is wrong."""
    for param in command.params:
        if isinstance(param.type, click.Path):
            param.type.readable = False


app = verbs("Train one BERT together across institutions that may not share their text.", cls=Verbs)


def _print_version(wanted: bool) -> None:
    if wanted:
        from shared.protocol import PROTOCOL_VERSION

        print(f"collegium {version('collegium')} (protocol {PROTOCOL_VERSION})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of Collegium and its protocol.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point of the console script."""
    private_umask()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: the machine may be busy with other sites
    run(app)


if __name__ == "__main__":
    main()
