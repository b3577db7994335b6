"""The whole verb once, by a site whose coordinator is up, with a trial in a process of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.doctor import examination
from client.doctor.examination import Examination
from client.keys import generate_node_key
from client.service.daemon import LOCK
from server.enrolment.keys import read_public_key
from server.home import read_settings
from server.service.operator import OperatorClient
from shared.doctor.findings import Finding
from shared.errors import ConfigError
from shared.federation import Federation
from simulations.attacks.coordinator import forked, new_home


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_site_that_is_ready(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> None:
    home, folder = new_home(tmp_path / "coordinator"), tmp_path / "site"
    write_records(folder / "train.jsonl", "clauses", slice(0, None, 2))
    write_records(folder / "validation.jsonl", "clauses", slice(1, None, 2))
    federation = tiny_federation(["hospital"])
    content = tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))
    (folder / "federation.toml").write_text(content, encoding="utf-8")
    generate_node_key(folder / "node.key")
    institution = {
        "name": "hospital",
        "server": {"address": f"localhost:{read_settings(home).public_port}", "ca": str(home.ca_certificate)},
        "data": {"clauses": {"train": "train.jsonl", "validation": "validation.jsonl"}},
        "policy": {"federations": [federation.digest]},
    }
    (folder / "institution.toml").write_text(tomli_w.dumps(institution), encoding="utf-8")
    with forked(home):
        with OperatorClient(home) as operator:
            operator.register_node("hospital", read_public_key(folder / "node.pub"))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        result = CliRunner().invoke(app, ["doctor", str(folder / "institution.toml"), "--json"])
    report = json.loads(result.stdout)
    found = {finding["check"]: finding["verdict"] for finding in report["site"]}
    for of_this_machine in ("disk", "memory"):
        found.pop(of_this_machine)
    checks = ["agreement", "permissions", "name", "door", "tls", "authority", "clock", "enrolled"]
    alone = {"door": "warning"}  # a SuperLink alone has nobody who starts a run
    assert found == dict.fromkeys([*checks, "cores", "pace", "upload"], "ok") | alone
    assert report["verdict"] in ("ready", "review"), report
    assert report["forecast"]["seconds_per_round"] > 0
    assert report["forecast"]["rounds"] == federation.rounds.count
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "state" / LOCK).exists()
    assert result.exit_code == 0


def test_each_federation_is_looked_at_and_the_worst_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {name: {"file": f"{name}.toml"} for name in ("north", "south", "west")}
    content = {"name": "hospital", "data": {"codes": {"train": "c.jsonl"}}, "federation": tables}
    (file := tmp_path / "institution.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    seen: list[tuple[str, bool]] = []

    def examine(path: Path, data: Path | None = None, *, tried: bool = True) -> Examination:
        seen.append((path.name, tried))
        if path.name.endswith("south"):
            raise ConfigError("No such file.")
        finding = Finding("disk", "warning" if path.name.endswith("west") else "ok", "Room.")
        return Examination({}, [], [finding], None, {})

    monkeypatch.setattr(examination, "examine", examine)
    found = examination.examine_all(file, tried=False)
    assert seen == [(f"institution.toml#{name}", False) for name in tables]
    report = examination.all_as_json(found)
    assert report["verdict"] == "blocked"
    assert {name: one["verdict"] for name, one in report["federations"].items()} == {
        "north": "ready",
        "south": "blocked",
        "west": "review",
    }
    examination.print_all(found)
    assert "Of all 3 federations: Verdict: blocked. Errors: 1, warnings: 1, ok: 1." in capsys.readouterr().out
    result = CliRunner().invoke(app, ["doctor", str(file), "--no-forecast", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (1, "blocked")
    alone = tmp_path / "alone.toml"
    alone.write_text(tomli_w.dumps(content | {"federation": "federation.toml"}), encoding="utf-8")
    assert examination.all_as_json(examination.examine_all(alone))["verdict"] == "ready"
