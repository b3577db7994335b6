"""The same bundle as the model that it was, for who audits it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.predict import open_bundle
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.model.multitask import build_model


@pytest.fixture(scope="module")
def bundle(tiny_federation: Callable[..., Federation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained release."""
    federation = tiny_federation()
    folder = tmp_path_factory.mktemp("release") / "bundle"
    state = get_state(build_model(federation))
    return write_bundle(folder, federation, state, {}, metrics={"settings": {}}, readme="untrained")


def test_labels_are_not_read(bundle: Path) -> None:
    predictor = open_bundle(bundle)
    plain = {"text": "It is late."}
    assert predictor.predict("clauses", [plain | {"label": "zzz"}]) == predictor.predict("clauses", [plain])
    assert predictor.predict("clauses", []) == []


def test_what_cannot_be_read_is_named(bundle: Path) -> None:
    predictor = open_bundle(bundle)
    with pytest.raises(DataError, match="Task clauses, record 2: expected text in 'text', but None came"):
        predictor.predict("clauses", [{"text": "One."}, {"body": "Two."}])
    with pytest.raises(ConfigError, match="Expected a task among"):
        predictor.predict("clause", [])


def test_a_backbone_elsewhere_is_no_reason_for_a_warning(bundle: Path, tiny_bert: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(tiny_bert, tmp_path / "bert")
    moved = open_bundle(bundle, backbone=str(elsewhere))  # a warning is an error in tests
    text: list[dict[str, Any]] = [{"text": "The buyer pays within 30 days."}]
    assert moved.predict("clauses", text) == open_bundle(bundle).predict("clauses", text)
