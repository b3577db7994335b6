"""The model card: named are those who consent, and what Hugging Face reads is there."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub import ModelCard

from server.release import making
from server.release.card import spans
from server.release.key import signing_key
from server.release.making import Terms, release, release_run
from shared.bundle import README_FILE, load_metrics, release_of, verify_bundle
from shared.errors import BundleError


def test_only_those_who_consent_are_named(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(release={"licence": "Apache-2.0"})
    made.run()
    first = release_run(made.home.root, None, tmp_path / "first")
    card, metrics = (first / README_FILE).read_text(), (first / "metrics.json").read_text()
    for name in ("hospital", "law_firm", "bank"):
        assert name not in card
        assert name not in metrics
    assert "Of 3 institutions 3 have not consented to be named." in card
    assert "| institution 1 | clauses | macro_f1 |" in card
    assert "institution " in load_metrics(first)["worst"]["institution"]
    assert "clauses 40" not in card
    told = load_metrics(first)
    for rows in (told["lineage"]["institutions"], [row for row in told["scores"] if row["round"] == 1]):
        shown = [row["institution"] for row in rows]
        assert shown == sorted(shown), "their order does not tell who is who"
    assert not any("id" in row for row in told["scores"])

    class Operator:
        def __init__(self, home: Any) -> None:
            self.nodes = lambda: [type("Node", (), {"name": n, "public_key": line}) for n, line in made.lines.items()]

        def __enter__(self) -> "Operator":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("server.service.operator.OperatorClient", Operator)
    monkeypatch.setattr(making, "agreement_line", lambda key: key)
    files = [made.consent(release_of(first), name) for name in ("hospital", "bank")]
    second = release_run(made.home.root, None, tmp_path / "second", consents=files)
    assert release_of(second) == release_of(first), "the same model"
    assert [one.name for one in verify_bundle(second).consents] == ["bank", "hospital"]
    card = (second / README_FILE).read_text()
    assert "| hospital | 1-3 | clauses 40 | none | clauses CC-BY-4.0 |" in card
    assert "| institution 1 | 1-3 | not told | none | not told |" in card
    assert "Of 3 institutions 1 have not consented to be named." in card
    assert "law_firm" not in card + (second / "metrics.json").read_text()
    assert "The worst score: 0.730, bank's macro_f1 of clauses." in card
    front = ModelCard.load(second / README_FILE).data.to_dict()
    assert (front["library_name"], front["license"]) == ("peft", "apache-2.0")
    assert front["tags"] == ["collegium", "federated-learning", "lora", "bert", "text-classification"]
    (result,) = front["model-index"][0]["results"]
    assert result["task"] == {"type": "text-classification", "name": "clauses"}
    assert [(one["type"], one["value"]) for one in result["metrics"]] == [("macro_f1", 0.83), ("macro_f1", 0.73)]


def test_a_consent_counts_for_its_release_and_by_the_enrolled_key(world: Any, tmp_path: Path) -> None:
    made = world()
    run = made.run()
    with made.open() as store:
        key = signing_key(made.home)
        known = release_of(release(store, run, tmp_path / "draft", terms=Terms()))
        stranger = made.consent(known, "hospital", key=ec.generate_private_key(ec.SECP384R1()))
        for file, told in (
            (stranger, "by the key that is enrolled under that name"),
            (made.consent("0" * 64, "hospital"), "Expected hospital's consent to release"),
            (made.consent(known, "hospital", agreement="0" * 64), "Expected hospital's consent to release"),
        ):
            with pytest.raises(BundleError, match=told):
                release(store, run, tmp_path / "bundle", terms=Terms(key, [file], made.lines))
            assert not (tmp_path / "bundle").exists()
        forged = json.loads((file := made.consent(known, "hospital")).read_text()) | {"name": "bank"}
        file.write_text(json.dumps(forged))
        with pytest.raises(BundleError, match="the signature does not fit"):
            release(store, run, tmp_path / "bundle", terms=Terms(key, [file], made.lines))


def test_what_stays_with_the_coordinator_names_everybody(world: Any, tmp_path: Path) -> None:
    made = world()
    run = made.run()
    with made.open() as store:
        store.add_spending(run, 2, "bank", 1.25, None)
        store.add_spending(run, 3, "bank", 1.75, None)
        store.add_evaluation(run, 3, "bank", "validation", 0.5, None)
        folder = release(store, run, tmp_path / "bundle")
    card = (folder / README_FILE).read_text()
    assert "| bank | 1-3 | clauses 40 | 1.75 + 0.50 | not told |" in card
    assert "consented" not in card
    assert not (folder / "manifest.json").exists()


def test_rounds_are_written_as_people_write_them() -> None:
    assert spans([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"
    assert spans([4]) == "4"
