import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from client.enrolment.template import init_folder, institution_text
from client.institution import Institution, load_institution
from shared.config import parse
from shared.errors import ConfigError
from shared.federation import Federation


def uncommented(text: str) -> str:
    """With the tables of all tasks, as an institution would have them that holds all."""
    return "\n".join(
        line[1:] if line.startswith("#") and line[1:2] not in (" ", "") else line for line in text.split("\n")
    )


def test_the_file_is_one_as_soon_as_a_task_is_uncommented(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation()
    text = institution_text("hospital", address="fl.example.org:8443", enrolment="h:8445", federation=federation)
    site = parse(Institution, tomllib.loads(uncommented(text)), where="it")
    assert site.data.keys() == federation.tasks.keys()
    assert site.server.enrolment == "h:8445"
    assert site.policy.federations == (), "nothing is approved yet"
    with pytest.raises(ConfigError, match=r"data: expected a table \[data.TASK\]"):
        parse(Institution, tomllib.loads(text), where="it")
    assert max(map(len, text.splitlines())) <= 120


def test_it_is_written_beside_a_folder_for_data_and_nothing_is_overwritten(tmp_path: Path) -> None:
    file = init_folder(tmp_path / "site", name="hospital", address="fl.example.org:8443")
    assert sorted(path.name for path in file.parent.iterdir()) == ["data", "institution.toml"]
    file.write_text(uncommented(file.read_text()))
    assert load_institution(file).data["topics"].train == file.parent / "data" / "topics.train.jsonl"
    with pytest.raises(ConfigError, match="there is one"):
        init_folder(tmp_path / "site", name="hospital", address="fl.example.org:8443")
    with pytest.raises(ConfigError, match="address"):
        init_folder(tmp_path / "other", name="hospital", address="fl.example.org")
    assert not (tmp_path / "other").exists()


def test_a_relative_backbone_starts_from_the_file(tmp_path: Path) -> None:
    file = init_folder(tmp_path / "site", name="hospital", address="fl.example.org:8443")
    file.write_text('backbone = "bert"\n' + uncommented(file.read_text()))
    assert load_institution(file).backbone == "bert", "an alias or a hub id, as far as is known"
    (tmp_path / "site" / "bert").mkdir()
    assert load_institution(file).backbone == str(tmp_path / "site" / "bert")
