"""The whole verb: a folder before its server is up, one whose server is, and one that is blocked."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.keys import generate_node_key
from server.cli import app
from server.doctor import examination
from server.doctor.forecast import Forecast, describe, foresee
from server.enrolment.keys import read_public_key
from server.home import ServerHome
from server.opening import open_store
from server.service.operator import OperatorClient
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.initial import initial_state
from shared.process.lock import only_one
from simulations.attacks.coordinator import forked

MakeFederation = Callable[..., Federation]


def agree(home: ServerHome, federation: Federation) -> None:
    """Put an agreement into the folder."""
    content = tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))
    home.federation_file.write_text(content, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_before_and_after_its_server_is_up(
    home: ServerHome, tiny_federation: MakeFederation, tmp_path: Path
) -> None:
    agree(home, tiny_federation(["hospital"]))
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["doctor", str(home.root), "--json"])
    report = json.loads(result.stdout)
    found = {finding["check"]: finding["verdict"] for finding in report["findings"] if finding["check"] != "disk"}
    checks = ["settings", "agreement", "permissions", "certificate", "clock", "flower", "hosts", "ports", "store"]
    assert found == dict.fromkeys([*checks, "backbone", "runs", "labels"], "ok") | {"enrolled": "warning"}
    assert (report["verdict"], result.exit_code) == ("review", 0)
    assert report["forecast"]["disk_bytes"] > report["forecast"]["bytes_up_per_round"] > 0
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before
    generate_node_key(tmp_path / "node.key")
    with forked(home), only_one(home.lock_file, serving="it", advice="stop it"):
        with OperatorClient(home) as operator:
            operator.register_node("hospital", read_public_key(tmp_path / "node.pub"))
        up = CliRunner().invoke(app, ["doctor", str(home.root), "--no-forecast"])
    assert up.exit_code == 0
    assert "All 1 institutions are enrolled" in up.output
    assert "no round could run now" in " ".join(up.output.split()), "a SuperLink alone has nobody who starts a run"
    assert "Verdict: review. Errors: 0" in up.output


def test_a_folder_that_is_blocked(home: ServerHome, tiny_federation: MakeFederation) -> None:
    agree(home, tiny_federation())
    home.settings_file.write_text("public_port = 0\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", str(home.root)])
    assert result.exit_code == 1
    assert "Verdict: blocked." in result.output
    home.federation_file.write_text("version = 1\n", encoding="utf-8")
    assert "Errors: 2" in CliRunner().invoke(app, ["doctor", str(home.root)]).output
    (home.settings_file).unlink()
    assert isinstance(CliRunner().invoke(app, ["doctor", str(home.root)]).exception, ConfigError)


def test_what_cannot_be_made_is_a_finding(
    home: ServerHome, tiny_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Forecast:
        raise ConfigError("Expected another rank.")

    agree(home, tiny_federation())
    monkeypatch.setattr(examination, "foresee", fail)
    found = examination.examine(home.root)
    assert found.forecast is None
    assert [one.text for one in found.findings if one.verdict == "error"] == ["Expected another rank."]


def test_the_forecast_counts_what_a_run_stores_and_sends(home: ServerHome, tiny_federation: MakeFederation) -> None:
    federation, now = tiny_federation(["hospital", "bank"], rounds={"count": 4}), datetime(2026, 11, 29, 12, tzinfo=UTC)
    state = initial_state(federation)
    stored = sum(array.nbytes for array in state.values())
    with open_store(home.root) as store:
        run = store.create_run(federation)
        found = foresee(home, federation, store, now)
        assert found.disk_bytes > 5 * stored
        assert found.bytes_down_per_round == 2 * found.bytes_up_per_round  # all is sent twice: to train and to score
        assert (found.seconds_per_round, found.last_round) == (None, None)
        assert "own doctor says" in describe(found)
        for number, seconds in enumerate((99.0, 10.0, 20.0, 30.0), 1):
            store.add_round(run, number, seconds, {})
        timed = foresee(home, federation, store, now)
    assert timed.seconds_per_round == 20.0
    assert timed.last_round == datetime(2026, 11, 29, 12, 1, 20, tzinfo=UTC)
    assert "20.0 s a round as before" in describe(timed)


def test_steps_of_frozen_weights_are_sent_too(home: ServerHome, tiny_federation: MakeFederation) -> None:
    now, found = datetime(2026, 11, 29, 12, tzinfo=UTC), {}
    for names in (["hospital"], ["hospital", "bank"], ["hospital", "bank", "clinic"]):
        federation = tiny_federation(names, rounds={"method": "fedex"})
        found[len(names)] = foresee(home, federation, None, now).bytes_down_per_round / len(names)
    assert found[2] - found[1] == found[3] - found[2] > 0
