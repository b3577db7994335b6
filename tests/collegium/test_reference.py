"""docs/cli.md is what the code says, and every command line that people are shown is one that parses."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from collegium.reference import example, reference, verbs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
VERBS = dict(verbs())


def parse(line: str, *, whole: bool = True) -> None:
    """Parse a command line as `collegium` would, without doing anything; of parts, only look the options up."""
    words = shlex.split(line, comments=True)
    assert words.pop(0) == "collegium"
    if words[0] == "--version":
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    command, rest = VERBS[name], words[len(name.split()) :]
    if whole:
        command.make_context(name, rest)
        return
    known = {option for param in command.params for option in param.opts} | {"--help"}
    assert {word for word in rest if word.startswith("--")} <= known


def blocks(page: Path) -> Iterator[str]:
    """The command lines of a page that stand in blocks of their own."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if (found := re.search(r"(?:^|/bin/)(collegium .*)", line)) and "[OPTIONS]" not in line:
                yield found[1]


def mentions(page: Path) -> Iterator[str]:
    """The command lines of a page that stand in its sentences."""
    text = re.sub(r"^```\w*\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.findall(r"`(collegium\s[^`]+)`", text):
        yield " ".join(found.split())


def advised(node: ast.AST) -> Iterator[str]:
    """The command lines that a string names; what is filled in later is VALUE."""
    match node:
        case ast.Constant(value=str() as text):
            pass
        case ast.JoinedStr(values=parts):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in parts)
        case _:
            return
    for found in re.findall(r"`(collegium\s[^`]+)`", text):
        if "..." not in found:
            yield " ".join(found.split())


def test_the_page_is_the_codes_own() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference(), (
        "run `python -m collegium.reference > docs/cli.md`"
    )


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_an_example_of_its_own_that_parses(name: str) -> None:
    line = example(VERBS[name])
    assert line.startswith(f"collegium {name}")
    parse(line)


@pytest.mark.parametrize("name", VERBS)
def test_everything_of_a_verb_says_what_it_is(name: str) -> None:
    assert VERBS[name].help
    assert [param.name for param in VERBS[name].params if not getattr(param, "help", None)] == []


@pytest.mark.parametrize("name", VERBS)
def test_the_help_shows_every_word(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in brackets is no markup."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    command = VERBS[name]
    with pytest.raises(SystemExit):
        command.main(["--help"], prog_name=name)
    shown = "".join(re.findall(r"[\w\[\]]", capsys.readouterr().out))
    texts = [command.help or "", *(getattr(param, "help", "") for param in command.params)]
    assert [text for text in texts if "".join(re.findall(r"[\w\[\]]", text)) not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_every_page_parses(page: Path) -> None:
    for line in blocks(page):
        parse(line)
    for line in mentions(page):
        parse(line, whole=False)


@pytest.mark.parametrize("room", ["collegium", "server", "client", "shared", "simulations"])
def test_every_command_that_the_code_advises_parses(room: str) -> None:
    """In errors, help texts, generated files and docstrings."""
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for line in advised(node):
                try:
                    parse(line, whole=False)
                except (KeyError, AssertionError):
                    pytest.fail(f"{file.relative_to(ROOT)} advises `{line}`")


def test_a_wrong_command_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `collegium server\nvanish` or `collegium tasks --all`.\n```\ncollegium server enrol bank\n```\n"
    )
    assert list(mentions(page)) == ["collegium server vanish", "collegium tasks --all"]
    assert list(blocks(page)) == ["collegium server enrol bank"]
    for line in mentions(page):
        with pytest.raises((KeyError, AssertionError)):
            parse(line, whole=False)
    with pytest.raises(click.MissingParameter):
        parse("collegium server enrol bank")
