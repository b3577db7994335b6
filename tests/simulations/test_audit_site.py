"""The audit of a whole site: what shifts others because of one owner is found out, wherever on the way that is.

Each planted bug is what Collegium once did: head dropout from the federation's seed, masks drawn in a row over the
batch, and splits by position. The same audit found them in that code with lower bounds of 1.1 to 2.2 where 1.0 was
reported, but for the limit, which gave 0.9 with 60 owners.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from client.data import loading
from client.institution import Institution
from client.opening import build_site
from client.privacy.owners import Private
from client.privacy.randomness import Chance
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from simulations.attacks.stage import tiny_federation, write_tiny_bert
from simulations.audit import audit_target
from simulations.auditing import report, training
from simulations.auditing import site as auditing
from simulations.auditing.plan import Plan
from simulations.auditing.planting import weaken
from simulations.auditing.training import TrainingAudit

RUNS = 80
WORDS = ("buyer", "seller", "loss", "invoice", "party", "court", "appeal", "notice", "goods", "price")
LABELS = ("payment", "liability")
PRIVATE: dict[str, Any] = {
    "tasks": {"clauses": {"type": "text-classification", "labels": LABELS}, "words": {"type": "fill-mask"}},
    "privacy": {"epsilon": 1.0, "sampling_rate": 1.0},
    "training": {"weight_decay": 0.0, "optimizer": "sgd", "momentum": 0.0, "head_dropout": 0.0, "batch_tokens": 4096},
    "rounds": {"weighting": "equal", "count": 1, "method": "heads"},
}
"""One step of everybody, whose update is the noisy sum itself: nothing hides what moves it."""
Audit = Callable[..., TrainingAudit]


def write_texts(path: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    path.write_text(
        "".join(
            json.dumps(
                {"text": f"{' '.join(rng.choice(WORDS, 10))} {n}", "label": LABELS[n % 2], "owner": f"p{n // 3}"}
            )
            + "\n"
            for n in range(count)
        )
    )
    return path


@pytest.fixture(scope="module")
def few_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of a tenth of the vocabulary: each of hundreds of runs trains a head over all of it."""
    return write_tiny_bert(tmp_path_factory.mktemp("few-words"), words=3000)


@pytest.fixture
def audit(tmp_path: Path, tiny_bert: Path, few_words: Path) -> Audit:
    """Audits a site with so many texts of one task; `source` adds to where its data lie."""

    def run(
        task: str = "clauses", texts: int = 120, runs: int = RUNS, noise_factor: float = 1.0, **source: Any
    ) -> TrainingAudit:
        held = {"train": str(write_texts(tmp_path / "train.jsonl", texts)), **source}
        file = tmp_path / "experiment.toml"
        backbone = few_words if task == "words" else tiny_bert
        agreed = tiny_federation(backbone, ["law_firm"], **PRIVATE).model_dump(mode="json", exclude_none=True)
        file.write_text(tomli_w.dumps({"federation": agreed, "institutions": {"law_firm": {task: held}}}))
        plan = Plan("site", canaries=runs, noise_factor=noise_factor)
        found = audit_target(file, plan, announce=lambda _: None)
        assert isinstance(found, TrainingAudit)
        assert found.reported == pytest.approx(1.0, abs=1e-3)
        return found

    return run


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A validation file, so that nothing is held out."""
    return str(write_texts(tmp_path / "validation.jsonl", 4))


def by_position(files: dict[str, list[Any]], limit: float | None, *_: Any) -> dict[str, list[Any]]:
    """`choose` as it was: a permutation of positions decides, so that one more record moves others in and out."""

    def some(rows: list[Any], kept: int) -> list[Any]:
        return [rows[i] for i in sorted(np.random.default_rng(13).permutation(len(rows))[:kept])]

    if limit is not None:
        files = {split: some(rows, int(limit * len(rows))) for split, rows in files.items()}
    if "validation" in files:
        return files
    train = files["train"]
    held = some(train, len(train) // 10)
    return {**files, "train": [row for row in train if row not in held], "validation": held}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("task", "texts", "source"),
    [("clauses", 120, {}), ("words", 30, {"validation": True}), ("clauses", 120, {"limit": 0.5, "group_by": "owner"})],
)
def test_an_honest_site_passes(audit: Audit, elsewhere: str, task: str, texts: int, source: dict[str, Any]) -> None:
    if "validation" in source:
        source = source | {"validation": elsewhere}
    assert not audit(task, texts, **source).violated


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dropout_from_the_shared_seed_is_found(audit: Audit, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_dropout(federation: Federation) -> MultiTaskModel:
        model = build_model(federation)
        for head in model.heads.values():
            head.dropout.p = 0.5  # type: ignore[union-attr]
        return model

    monkeypatch.setattr(training, "build_model", with_dropout)
    assert audit(validation=elsewhere).violated


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_masks_drawn_in_a_row_are_found(audit: Audit, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_row(private: Private, *when: Any) -> Chance:
        rng = np.random.default_rng(13)
        return lambda task, record: rng

    monkeypatch.setattr(Private, "chance", in_a_row)
    assert audit("words", 100, runs=100, validation=elsewhere).violated


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("limited", [False, True])
def test_splits_by_position_are_found(
    audit: Audit, elsewhere: str, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    monkeypatch.setattr(loading, "choose", by_position)
    found = audit(limit=0.5, validation=elsewhere) if limited else audit(texts=240, runs=100)
    assert found.violated


def test_a_run_without_noise_is_found_and_told(audit: Audit, elsewhere: str) -> None:
    found = audit(texts=20, runs=20, noise_factor=0.0, validation=elsewhere)
    assert found.membership.auc == 1.0
    assert "20 runs at law_firm" in report.page(found)


def test_an_owner_leaves_with_all_records_of_all_tasks(tmp_path: Path, few_words: Path) -> None:
    federation = tiny_federation(few_words, ["law_firm"], **PRIVATE)
    model = build_model(federation)
    file = write_texts(tmp_path / "train.jsonl", 12)
    data = {task: {"train": file, "group_by": "owner", "validation": file} for task in ("clauses", "words")}
    institution = Institution.model_validate({"name": "law_firm", "data": data})
    held = auditing._records_by_owner(institution, model.tasks)
    assert held["p1"] == {(task, line) for task in data for line in (4, 5, 6)}
    site = build_site(auditing._without(institution, model.tasks, held["p1"], tmp_path / "left"), federation, model)
    for task in data:
        assert len(site.records(task, "train")) == 9
        assert {record["owner"] for record in site.records(task, "train")} == {"p0", "p2", "p3"}
    account = weaken(site, auditing._absent(site, len(held)), 1.0)
    assert len(set(account.owners.values())) == 4, "the divisor is public, and the same with the owner and without"


def test_one_owner_alone_cannot_be_left_out(audit: Audit, elsewhere: str) -> None:
    with pytest.raises(ConfigError, match="at least two owners at law_firm"):
        audit(texts=3, validation=elsewhere, group_by="owner")


def test_what_a_private_site_refuses_is_not_audited(audit: Audit, elsewhere: str) -> None:
    with pytest.raises(ConfigError, match="as a share below 1"):
        audit(texts=20, limit=10, validation=elsewhere)
