"""`collegium client ledger`: what it prints, as JSON and as a table, and its exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.leaving import receipts
from client.privacy.accounting import Mechanism, epsilon
from client.privacy.dataset import Dataset
from client.privacy.ledger import Ledger, Reservation
from shared.errors import BudgetError
from shared.federation import Federation

Reserve = Callable[..., Reservation]


@pytest.fixture
def institution(path: Path) -> Path:
    """A site whose ledger is at `path`, which does not exist yet."""
    file = path.parent.parent / "institution.toml"
    values = {
        "name": "hospital",
        "data": {"notes": {"train": "notes.jsonl"}},
        "runtime": {"state": path.parent.name},
        "policy": {"max_epsilon": 3.0, "delta": 1e-5},
    }
    file.write_text(tomli_w.dumps(values), encoding="utf-8")
    return file


def test_spent_and_left_per_data_set(
    institution: Path, path: Path, patients: Dataset, reserve: Reserve, dataset_of: Callable[..., Dataset]
) -> None:
    ledger = Ledger.open(path)
    ledger.commit(reserve(ledger, 10), 4)
    reserve(ledger, 1)
    reserve(ledger, 6, dataset=dataset_of({"0": ["x"]}, None))
    printed = CliRunner().invoke(app, ["ledger", str(institution), "--json"])
    assert printed.exit_code == 0
    report = json.loads(printed.stdout)
    assert report["head"] == {"sequence": ledger.head.sequence, "sha256": ledger.head.sha256}
    assert report["known_heads"] is None
    first, second = report["datasets"]
    assert first["fingerprint"] == patients.fingerprint
    assert [first[name] for name in ("owner_column", "owners", "steps", "reservations", "open")] == [
        "patient_id",
        2,
        5,
        2,
        1,
    ]
    assert first["epsilon"] == epsilon([Mechanism(1.0, 0.1, 5)], 1e-5)
    assert first["left"] == 3.0 - first["epsilon"]
    assert second["owner_column"] is None
    assert second["steps"] == 6

    table = CliRunner().invoke(app, ["ledger", str(institution)]).stdout
    assert patients.fingerprint[:12] in table
    assert f"{first['epsilon']:.3f}" in table
    assert "(each record)" in table
    assert f"is whole; its last entry is 6, {ledger.head.sha256}" in " ".join(table.split())


def test_what_scores_have_cost_stands_apart(institution: Path, path: Path, reserve: Reserve, patients: Dataset) -> None:
    institution.write_text(institution.read_text() + "evaluation_epsilon = 2.0\n", encoding="utf-8")
    ledger = Ledger.open(path)
    reserve(ledger, 10)
    scoring = Mechanism(4.0, 1.0, 1)
    asked = {"delta": 1e-5, "max_epsilon": 2.0, "federation": "f" * 64, "run": "7", "round": 1}
    ledger.commit(ledger.reserve(patients, scoring, use="test", **asked), 1)  # type: ignore[arg-type]
    report = json.loads(CliRunner().invoke(app, ["ledger", str(institution), "--json"]).stdout)
    (trained,), (scored,) = report["datasets"], report["scored"]
    assert trained["epsilon"] == epsilon([Mechanism(1.0, 0.1, 10)], 1e-5)
    assert (scored["split"], scored["epsilon"]) == ("test", epsilon([scoring], 1e-5))
    assert scored["left"] == 2.0 - scored["epsilon"]
    assert "Spent on private scores" in CliRunner().invoke(app, ["ledger", str(institution)]).stdout


def test_without_a_ledger_nothing_is_made(institution: Path, path: Path) -> None:
    for options in ([], ["--verify"]):
        result = CliRunner().invoke(app, ["ledger", str(institution), *options])
        assert result.exit_code == 0
        assert "no training with differential privacy has begun" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["ledger", str(institution), "--json"]).stdout)["head"] is None
    assert not path.exists()


def test_verify_holds_it_against_the_receipts(
    institution: Path, path: Path, reserve: Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(path)
    first = ledger.head
    reserve(ledger)
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    reserve(ledger)
    heads = [first, ledger.head]
    monkeypatch.setattr(receipts, "heads", lambda state: heads if state == path.parent else [])
    result = CliRunner().invoke(app, ["ledger", str(institution), "--verify"])
    assert result.exit_code == 0
    assert "the 2 heads that the receipts name are in it" in " ".join(result.stdout.split())
    shutil.copy(copy, path)
    assert CliRunner().invoke(app, ["ledger", str(institution)]).exit_code == 0
    result = CliRunner().invoke(app, ["ledger", str(institution), "--verify"])
    assert result.exit_code == 1
    assert isinstance(result.exception, BudgetError)
    path.unlink()
    result = CliRunner().invoke(app, ["ledger", str(institution), "--verify"])
    assert result.exit_code == 1
    assert "no such file" in str(result.exception)


def test_without_a_limit_nothing_is_left_to_say(institution: Path, path: Path, reserve: Reserve) -> None:
    institution.write_text(institution.read_text().replace("max_epsilon = 3.0\n", ""), encoding="utf-8")
    ledger = Ledger.open(path)
    reserve(ledger)
    report = json.loads(CliRunner().invoke(app, ["ledger", str(institution), "--json"]).stdout)
    assert report["max_epsilon"] is None
    assert report["datasets"][0]["left"] is None


def test_an_edited_ledger_fails(institution: Path, path: Path, reserve: Reserve) -> None:
    reserve(Ledger.open(path))
    path.write_bytes(path.read_bytes().replace(b'"steps": 10', b'"steps": 01'))
    result = CliRunner().invoke(app, ["ledger", str(institution)])
    assert result.exit_code == 1
    assert "has been edited at entry 2" in str(result.exception)


def test_what_waits_is_listed_and_approved(
    institution: Path, path: Path, reserve: Reserve, dataset_of: Callable[..., Dataset]
) -> None:
    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["ledger", str(institution), *options])
        assert result.exit_code == 0
        return result.stdout

    ledger = Ledger.open(path)
    reserve(ledger)
    new = dataset_of({"30": ["x"]})
    ledger.introduce(new)
    assert [dataset["waiting"] for dataset in json.loads(run("--json"))["datasets"]] == [False, True]
    assert f"--approve {new.fingerprint[:12]}" in " ".join(run().split())
    run("--approve", new.fingerprint[:12])
    assert [dataset["waiting"] for dataset in json.loads(run("--json"))["datasets"]] == [False, False]
    assert "--approve" not in run()
    twice = CliRunner().invoke(app, ["ledger", str(institution), "--approve", new.fingerprint])
    assert isinstance(twice.exception, BudgetError)
    path.unlink()
    gone = CliRunner().invoke(app, ["ledger", str(institution), "--approve", new.fingerprint])
    assert "there is none" in str(gone.exception)


def test_without_a_budget_of_its_own_the_federations_delta_counts(
    institution: Path, path: Path, reserve: Reserve, tiny_federation: Callable[..., Federation]
) -> None:
    institution.write_text(institution.read_text().replace("max_epsilon = 3.0\n", ""), encoding="utf-8")
    privacy = {"privacy": {"epsilon": 3.0, "delta": 1e-6}, "rounds": {"weighting": "equal", "method": "ffa"}}
    federation = tiny_federation(**privacy, training={"weight_decay": 0.0}).model_dump(mode="json", exclude_none=True)
    (institution.parent / "federation.toml").write_text(tomli_w.dumps(federation), encoding="utf-8")
    reserve(Ledger.open(path))
    (told,) = json.loads(CliRunner().invoke(app, ["ledger", str(institution), "--json"]).stdout)["datasets"]
    assert (told["delta"], told["epsilon"]) == (1e-6, epsilon([Mechanism(1.0, 0.1, 10)], 1e-6))
