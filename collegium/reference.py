"""The reference of the command line, written from the code.

    python -m collegium.reference > docs/cli.md

Every verb with its arguments, options, their defaults, and an example.
"""

from collections.abc import Iterator

import click
from typer.core import TyperArgument

from collegium.__main__ import VERBS, load

HEAD = """\
# Commands

Written by `python -m collegium.reference` from the code; do not edit.

`collegium --version` prints the versions of Collegium and of its protocol, `--help` after a verb what stands here.
Results go to stdout, progress and errors to stderr. The exit code is 0 if all went well, 2 if the command line is
wrong, and 1 after any other error, which is one sentence that begins with `error:`, or where the verb says so.
`python -m collegium` is the same command.
"""


def reference() -> str:
    """The whole page, Markdown."""
    commands = dict(verbs())
    lines = [f"| [`{name}`](#{name.replace(' ', '-')}) | {_help(command)[0]} |" for name, command in commands.items()]
    table = "\n".join(["| verb | |", "|---|---|", *lines])
    return "\n".join([HEAD, table, "", *(_section(name, command) for name, command in commands.items())])


def verbs() -> Iterator[tuple[str, click.Command]]:
    """Every verb by what is typed after the first word, and its command."""
    for name in VERBS:
        command = load(name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


def example(command: click.Command) -> str:
    """The command line at the end of a verb's help."""
    return (command.epilog or "").removeprefix("Example: ")


def _section(name: str, command: click.Command) -> str:
    with click.Context(command) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        rows = [_row(param, context) for param in command.params]
    table = "\n".join(["| | value | default | |", "|---|---|---|---|", *rows]) + "\n\n" if rows else ""
    text = "\n\n".join(_help(command))
    return f"## {name}\n```\ncollegium {name} {usage}\n```\n{text}\n\n{table}```\n{example(command)}\n```\n"


def _help(command: click.Command) -> list[str]:
    """Paragraphs, one line each."""
    return [" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n")]


def _row(param: click.Parameter, context: click.Context) -> str:
    text = getattr(param, "help", None) or ""
    if param.envvar:
        text += f" Else the environment's `{param.envvar}`."
    name = (param.name or "").upper() if isinstance(param, TyperArgument) else ", ".join(param.opts)
    cells = (f"`{name}`", _value(param), _default(param, context), text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(param: click.Parameter) -> str:
    if getattr(param, "is_flag", False):
        return ""
    match param.type:
        case click.Choice(choices=choices):
            found = ", ".join(f"`{choice}`" for choice in choices)
        case click.IntRange() | click.FloatRange():
            found = "integer" if isinstance(param.type, click.IntRange) else "number"
            found += f" ≥ {param.type.min:g}" if param.type.min is not None else ""
            found += f" ≤ {param.type.max:g}" if param.type.max is not None else ""
        case kind:
            found = {"integer": "integer", "float": "number", "path": "path"}.get(kind.name, "text")
    return (f"`{param.metavar}`" if param.metavar else found) + (", repeatable" if param.multiple else "")


def _default(param: click.Parameter, context: click.Context) -> str:
    if param.required:
        return "required"
    value = param.get_default(context)
    return "" if value is None or value is False or value == [] else f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")
