"""The command finds every verb, and loads nothing else."""

import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from typer.testing import CliRunner

from collegium.__main__ import VERBS, app, load
from shared.protocol import PROTOCOL_VERSION

LOADED = """
import sys
from collegium.__main__ import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    """The top-level modules that a command line has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout
    return set(done.stderr.split())


def test_help_loads_nothing_that_trains_or_serves() -> None:
    assert {"typer", "server", "client", "simulations"} <= loaded("--help")
    assert not {"torch", "flwr", "numpy", "pydantic", "sqlalchemy", "fastapi"} & loaded("--help")


@pytest.mark.parametrize("room", ["server", "client", "simulations"])
def test_a_verb_loads_its_own_room_alone(room: str) -> None:
    verb = {"simulations": "simulate"}.get(room, room)
    assert {"server", "client", "simulations", "torch", "flwr"} & loaded(verb, "--help") == {room}


@pytest.mark.parametrize("verb", VERBS)
def test_every_entry_of_the_table_is_a_verb_with_a_help(verb: str) -> None:
    command = load(verb)
    assert command.name == verb
    assert command.help
    assert isinstance(command, click.Group) == (verb in ("server", "client"))


@pytest.mark.parametrize(
    ("line", "meant"), [("simulat", "simulate"), ("client dcotor", "doctor"), ("server statu", "status")]
)
def test_a_misspelt_verb_is_told_once_what_it_may_have_meant(line: str, meant: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    assert result.output.count(f"Did you mean '{meant}'?") == 1


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"collegium {version('collegium')} (protocol {PROTOCOL_VERSION})\n"
