"""The doctor's report on records: as JSON and as tables, its exit code, and that it never loads the weights."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from transformers import BertModel
from typer.testing import CliRunner

from client.cli import app
from client.keys import generate_node_key, read_public_key
from server.enrolment import authority
from server.enrolment.authority import create_authority
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model import frozen
from shared.nodekeys import fingerprint, line_of
from simulations.nodekeys import public_keys

NOBODY = "127.0.0.1:1"
"""Where no coordinator answers."""
WriteRecords = Callable[..., Path]


@pytest.fixture
def institution(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: WriteRecords) -> Path:
    """A site with good data; its rows are in the order of the labels, so train is every other one."""
    federation = tiny_federation().model_dump(mode="json", exclude_none=True)
    (tmp_path / "federation.toml").write_text(tomli_w.dumps(federation), encoding="utf-8")
    write_records(tmp_path / "data" / "train.jsonl", "clauses", slice(0, None, 2))
    write_records(tmp_path / "data" / "test.jsonl", "clauses", slice(1, None, 2))
    path = tmp_path / "institution.toml"
    data = {"clauses": {"train": "data/train.jsonl", "test": "data/test.jsonl"}}
    path.write_text(tomli_w.dumps({"name": "hospital", "server": {"address": NOBODY}, "data": data}), encoding="utf-8")
    generate_node_key(tmp_path / "node.key")
    (tmp_path / "ca.crt").write_bytes(create_authority("of a test").certificate)
    return path


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the doctor must not load the weights")

    monkeypatch.setattr(BertModel, "from_pretrained", refuse)


def test_good_data_pass(institution: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)])
    assert result.exit_code == 0, result.output
    assert "Verdict: review. Errors: 0, warnings: 4, ok: 12." in result.output
    assert "validation (held out)" in result.output


def test_bad_data_are_shown_and_the_exit_code_is_1(institution: Path) -> None:
    train = institution.parent / "data" / "train.jsonl"
    train.write_text(train.read_text() + '{"text": "[/b] x", "label": "[bold]gossip"}\n' * 7, encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)])
    assert result.exit_code == 1
    assert "train.jsonl:13" in result.output
    assert "'[bold]gossip' is not among" in result.output  # brackets in data are no markup
    assert "and 2 more; --json lists them all" in result.output
    assert "7 of 19 rows (36.8%)" in result.output
    assert "Verdict: blocked. Errors: 1, warnings: 4" in result.output


def test_warnings_alone_are_no_failure(institution: Path) -> None:
    train = institution.parent / "data" / "train.jsonl"
    train.write_text(train.read_text() * 2, encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)])
    assert result.exit_code == 0
    assert "keep one of each" in result.output


def test_json_has_everything(institution: Path) -> None:
    train = institution.parent / "data" / "train.jsonl"
    train.write_text(train.read_text() + "{oops}\n" * 7, encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verdict"] == "blocked"
    assert len(report["tasks"]["clauses"]["files"]["train"]["bad"]) == 7
    assert report["summary"]["clauses"]["bad_rows"] == 7
    assert {finding["verdict"] for finding in report["findings"]} == {"ok", "error"}


def test_another_folder_may_hold_the_data(institution: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (institution.parent / "data").rename(moved / "data")
    assert CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)]).exit_code == 1
    assert CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution), "--data", str(moved)]).exit_code == 0


def test_an_institution_file_that_is_wrong_is_an_error_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(tmp_path / "none.toml")])
    assert isinstance(result.exception, ConfigError)


def test_a_ca_that_ends_soon_is_spoken_of(institution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", 10)
    (institution.parent / "ca.crt").write_bytes(create_authority("of a test").certificate)
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution), "--json"])
    assert result.exit_code == 0
    warnings = [each["text"] for each in json.loads(result.stdout)["site"] if each["verdict"] == "warning"]
    assert any("ends in 9 days" in text for text in warnings)


def test_agreed_node_keys_are_shown_and_held_to_the_sites_own(
    institution: Path, tiny_federation: Callable[..., Federation]
) -> None:
    names, key = ("hospital", "law_firm", "bank"), institution.parent / "node.key"
    own = line_of(read_public_key(key))
    keys = public_keys(names) | {"hospital": own}
    agreed = {"rounds": {"quorum": 3, "method": "fedavg"}, "secure_aggregation": {"threshold": 3, "keys": keys}}
    for said, federation in (
        (0, tiny_federation(names, **agreed)),
        (1, tiny_federation(names, rounds=agreed["rounds"], secure_aggregation={"threshold": 3})),
    ):
        content = tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))
        (institution.parent / "federation.toml").write_text(content, encoding="utf-8")
        result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution), "--json"])
        assert result.exit_code == said
        if said == 0:
            assert json.loads(result.stdout)["node_keys"] == {name: fingerprint(line) for name, line in keys.items()}
            shown = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)])
            assert fingerprint(own) in shown.output
        else:
            assert isinstance(result.exception, ConfigError)
            assert f"own key {fingerprint(own)} under hospital" in str(result.exception)


def finding_of_layers(institution: Path) -> str:
    report = json.loads(CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution), "--json"]).stdout)
    (found,) = [finding["text"] for finding in report["findings"] if finding["check"] == "layers"]
    return str(found)


def test_what_layers_spare(institution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'adapter.layers = "top-1" would compute layer 0 of 2 once per text: 50% of a step' in finding_of_layers(
        institution
    )
    file = institution.parent / "federation.toml"
    federation = tomllib.loads(file.read_text(encoding="utf-8"))

    def change(**adapter: Any) -> None:
        file.write_text(tomli_w.dumps({**federation, "adapter": adapter}), encoding="utf-8")

    change(layers="top-1")
    assert finding_of_layers(institution).startswith("adapter.layers spares layer 0 of 2 once per text: 50% of a step")
    monkeypatch.setattr(frozen, "_memory", lambda: 4000)
    assert ", of which 0 MB may be used" in finding_of_layers(institution)
    change(layers="top-1", dropout=0.1)
    assert finding_of_layers(institution).startswith("Every text passes all 2 layers in every step")
    change(layers="top-3")
    result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(institution)])
    assert result.exit_code == 1
    assert "adapter.layers must be at most" in result.output
