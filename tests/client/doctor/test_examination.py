"""The whole verb once, by a site whose coordinator is up, with a trial in a process of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.keys import generate_node_key
from client.service.daemon import LOCK
from server.enrolment.keys import read_public_key
from server.home import read_settings
from server.service.operator import OperatorClient
from shared.federation import Federation
from simulations.attacks.coordinator import new_home, serving


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
    with serving(home):
        with OperatorClient(home) as operator:
            operator.register_node("hospital", read_public_key(folder / "node.pub"))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        result = CliRunner().invoke(app, ["doctor", str(folder / "institution.toml"), "--json"])
    report = json.loads(result.stdout)
    found = {finding["check"]: finding["verdict"] for finding in report["site"]}
    for of_this_machine in ("disk", "memory"):
        found.pop(of_this_machine)
    checks = ["agreement", "permissions", "name", "door", "tls", "authority", "clock", "enrolled"]
    assert found == dict.fromkeys([*checks, "cores", "pace", "upload"], "ok")
    assert report["verdict"] in ("ready", "review"), report
    assert report["forecast"]["seconds_per_round"] > 0
    assert report["forecast"]["rounds"] == federation.rounds.count
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "state" / LOCK).exists()
    assert result.exit_code == 0
