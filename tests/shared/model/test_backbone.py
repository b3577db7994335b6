"""The fingerprint covers what is loaded, and nothing else is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from shared.errors import BackboneError
from shared.model.backbone import beside, fingerprint, load_backbone, load_tokenizer


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "bert"))


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same weights in three files or more."""
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2MB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 2
    return folder


def test_whatever_is_loaded_counts(folder: Path) -> None:
    known = {fingerprint(folder)}
    for name in ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        before = (folder / name).read_text()
        (folder / name).write_text(before + " ")
        known.add(fingerprint(folder))
        (folder / name).write_text(before)
    (folder / "added_tokens.json").write_text('{"[PATIENT]": 30522}')
    known.add(fingerprint(folder))
    assert len(known) == 7


def test_whatever_is_not_loaded_does_not(folder: Path) -> None:
    before = fingerprint(folder)
    for name in ("README.md", "pytorch_model.bin", "modules.json", "chat_template.jinja", "tokenizer.9.9.json"):
        (folder / name).write_text("{}")
    assert fingerprint(folder) == before
    loaded = load_backbone(str(folder), before)
    assert loaded.tokenizer.chat_template is None
    assert torch.isfinite(next(loaded.encoder.parameters())).all()


def test_shards_are_weights(sharded: Path, tiny_bert: Path) -> None:
    before = fingerprint(sharded)
    whole = load_backbone(str(tiny_bert), fingerprint(tiny_bert)).encoder.state_dict()
    loaded = load_backbone(str(sharded), before).encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in whole.items())
    shards = sorted(sharded.glob("model-*.safetensors"))
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert fingerprint(sharded) != before
    with pytest.raises(BackboneError, match="same model files"):
        load_backbone(str(sharded), before)
    shards[-1].unlink()
    with pytest.raises(BackboneError, match="copy the whole model"):
        fingerprint(sharded)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/x.safetensors", "weights.bin", "a/b.safetensors"])
def test_shards_lie_in_the_folder_itself(sharded: Path, name: str) -> None:
    index = sharded / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    first = next(iter(listed["weight_map"]))
    listed["weight_map"][first] = name
    index.write_text(json.dumps(listed))
    with pytest.raises(BackboneError, match="beside it"):
        fingerprint(sharded)


def test_pickled_weights_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pickled.*save_pretrained"):
        fingerprint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(folder: Path, name: str) -> None:
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(settings | {"auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(BackboneError, match="auto_map"):
        fingerprint(folder)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
        (lambda folder: (folder / "config.json").write_text("[1"), r"config\.json.*no JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors.*missing"),
        (lambda folder: [(folder / n).unlink() for n in ("vocab.txt", "tokenizer.json")], r"tokenizer\.json or vocab"),
    ],
)
def test_what_is_missing_is_named(folder: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(folder)
    with pytest.raises(BackboneError, match=words):
        fingerprint(folder)


def test_a_tokenizer_with_either_vocabulary_is_the_same(folder: Path) -> None:
    text = "The patient takes 200 mg of aspirin."
    expected = load_tokenizer(str(folder), fingerprint(folder))(text)["input_ids"]
    for name in ("vocab.txt", "tokenizer.json"):
        (kept := folder / name).rename(folder / "aside")
        assert load_tokenizer(str(folder), fingerprint(folder))(text)["input_ids"] == expected
        (folder / "aside").rename(kept)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", None])
def test_another_architecture_is_refused_before_it_is_agreed(folder: Path, kind: str | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(BackboneError, match=f'model_type "bert", but it says {kind!r}'):
        fingerprint(folder)


def test_a_relative_folder_starts_from_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "bert").mkdir(parents=True)
    (tmp_path / "minilm-l6").mkdir()
    file = tmp_path / "federation.toml"
    assert beside("models/bert", file) == str(tmp_path / "models" / "bert")
    assert beside(str(tmp_path / "models"), file) == str(tmp_path / "models")
    for name in ("minilm-l6", "google-bert/bert-base-uncased", "models/other"):
        assert beside(name, file) == name
