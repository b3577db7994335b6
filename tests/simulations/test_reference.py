"""docs/configuration.md is what the code says, of every file that people write."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from client.institution import Institution, Membership
from server.home import ServerSettings
from shared.federation import Federation
from shared.tasks import TaskSpec
from simulations.experiment import Experiment
from simulations.reference import (
    EXPERIMENT,
    FEDERATION,
    INSTITUTION,
    SERVER,
    _is_table,
    _parts,
    reference,
)

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
FILES: Mapping[str, tuple[type[BaseModel], Mapping[str, type[BaseModel]]]] = {
    "federation.toml": (Federation, FEDERATION),
    "institution.toml": (Institution, INSTITUTION),
    "server.toml": (ServerSettings, SERVER),
    "experiment.toml": (Experiment, EXPERIMENT),
}
TASKS = get_args(get_args(TaskSpec)[0])


def tables(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and every one below it."""
    yield model
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from tables(part)


def section(file: str) -> str:
    """What the page says of a file."""
    return reference().split(f"\n## {file}\n")[1].split("\n## ")[0]


def test_the_page_is_the_codes_own() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run `python -m simulations.reference > docs/configuration.md`"
    )


@pytest.mark.parametrize("file", FILES)
def test_every_table_of_every_file_is_there(file: str) -> None:
    root, listed = FILES[file]
    elsewhere = {Federation: {*TASKS}, Experiment: {*TASKS, *FEDERATION.values(), *INSTITUTION.values()}}
    instead = {Membership} if root is Institution else set()  # of a key, where there are several federations
    found = {model for model in tables(root) if model not in elsewhere.get(root, set())}
    assert found | instead == set(listed.values())
    assert all(f"### [{name}]" in section(file) for name in listed if name)


@pytest.mark.parametrize("file", FILES)
def test_every_key_of_every_table_is_there(file: str) -> None:
    blocks = dict(re.findall(r"^### (.*)\n((?:(?!#).*\n)*)", section(file), re.MULTILINE))
    for name, model in FILES[file][1].items():
        keys = [key for key, field in model.model_fields.items() if not any(map(_is_table, _parts(field.annotation)))]
        assert re.findall(r"^\| `(\w+)` \|", blocks[f"[{name}]" if name else "At the top"], re.MULTILINE) == keys


def test_every_key_says_what_it_is() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_bounds_of_a_value_that_may_be_left_out_are_shown() -> None:
    assert "| `max_epsilon` | number > 0 |" in reference()
    assert "| `limit` | integer ≥ 1 or number > 0 < 1 |" in reference()
    assert "| `ranks` | table of integer ≥ 1 ≤ 256 |" in reference()
