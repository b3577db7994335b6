"""A released model without the libraries that trained it computes what they do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from client.predict import Predictor, open_bundle
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.errors import BackboneError, ConfigError
from shared.federation import Federation
from shared.inference import tokenizer
from shared.inference.encoder import LightEncoder
from shared.inference.model import ReleasedModel, cut
from shared.inference.opening import Shelf, open_model
from shared.inference.tokenizer import LightTokenizer
from shared.model.backbone import fingerprint, load_tokenizer
from shared.model.multitask import build_model
from simulations.attacks.stage import EVERY_QUESTION, EVERY_TASK

LONG: dict[str, dict[str, Any]] = {
    "topics": {"text": "late " * 200},
    "entities": {"tokens": ["Aspirin", "helps"] * 60},
    "questions": {"context": "Rent is due on Monday. " * 20, "question": "When?"},
}


@pytest.fixture(scope="module")
def trained(everything: Path) -> Predictor:
    """The same by transformers and peft."""
    return open_bundle(everything)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_every_task_is_inferred_as_in_training(released: ReleasedModel, trained: Predictor, task: str) -> None:
    (example,) = released.examples(task, [EVERY_QUESTION[task]])
    (ours,) = released.infer([example])
    theirs = trained.logits(task, EVERY_QUESTION[task])
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_texts_of_all_lengths_and_tasks_pass_together(released: ReleasedModel) -> None:
    asked = [(task, record) for rows in (LONG, EVERY_QUESTION) for task, record in rows.items() if task != "writing"]
    examples = [example for task, record in asked for example in released.examples(task, [record])]
    for example, together in zip(examples, released.infer(examples, batch_tokens=256), strict=True):
        (alone,) = released.infer([example])
        np.testing.assert_allclose(together, alone, atol=2e-5)


def test_a_text_passes_once_whatever_the_tasks(released: ReleasedModel) -> None:
    rows: list[int] = []

    def counting(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        rows.append(len(ids))
        return released.encode(ids, mask, types)

    model = ReleasedModel(
        released.federation, released.tokenizer, released.tasks, released.heads, counting, released.device
    )
    records: dict[str, dict[str, Any]] = {
        "topics": {"text": "It is late"},
        "codes": {"text": "It is late"},
        "entities": {"tokens": ["It", "is", "late"]},
    }
    found = model.infer([example for task, record in records.items() for example in model.examples(task, [record])])
    assert rows == [1]
    for (task, record), own in zip(records.items(), found, strict=True):
        np.testing.assert_allclose(own, released.infer(released.examples(task, [record]))[0], atol=1e-6)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40).map(sorted), st.integers(8, 512))
def test_batches_hold_every_place_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = cut(lengths, budget)
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * -(-lengths[batch[-1]] // 8) * 8 <= budget


@pytest.fixture(scope="module")
def both(tiny_bert: Path) -> tuple[LightTokenizer, Any]:
    """Ours, and that of transformers."""
    return LightTokenizer(tiny_bert), load_tokenizer(str(tiny_bert), fingerprint(tiny_bert))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["[MASK] and [SEP]", "na\u00efve \u4f60\u597d", "don't!", "a" * 150, "\u200bx\t\n", "\U0001f600 e\u0301"]
)


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), length=st.integers(8, 16))
def test_tokens_are_those_of_transformers(both: tuple[Any, Any], texts: list[str], length: int) -> None:
    ours, theirs = both
    options: dict[str, Any]
    for options in (
        {"truncation": True, "max_length": length},
        {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False},
    ):
        found, expected = ours(texts, **options), theirs(texts, return_token_type_ids=True, **options)
        assert all(found[key] == expected[key] for key in expected if key != "attention_mask")
    pairs = texts, texts[::-1]
    options = {"truncation": "longest_first", "max_length": length, "return_token_type_ids": True}
    assert ours(*pairs, **options)["input_ids"] == theirs(*pairs, **options)["input_ids"]
    assert ours(*pairs, **options)["token_type_ids"] == theirs(*pairs, **options)["token_type_ids"]
    words = [text.split() or ["x"] for text in texts]
    options = {"is_split_into_words": True, "add_special_tokens": False, "verbose": False}
    found, expected = ours(words, **options), theirs(words, **options)
    assert found["input_ids"] == expected["input_ids"]
    assert [found.word_ids(i) for i in range(len(words))] == [expected.word_ids(i) for i in range(len(words))]
    for ids in expected["input_ids"]:
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_special_tokens_are_those_of_transformers(both: tuple[LightTokenizer, Any]) -> None:
    for name in ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id", "vocab_size"):
        assert getattr(both[0], name) == getattr(both[1], name)
    assert both[0]("It is late.")["input_ids"] == both[1]("It is late.")["input_ids"]


def test_a_tokenizer_that_its_settings_change_is_not_known(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    assert tokenizer.is_known(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    assert not tokenizer.is_known(folder)
    (folder / "tokenizer.json").unlink()
    assert not tokenizer.is_known(folder)


def test_another_activation_is_computed_by_transformers(
    tiny_bert: Path, tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    config = BertConfig.from_pretrained(tiny_bert, hidden_act="relu")
    BertModel.from_pretrained(tiny_bert, config=config, add_pooling_layer=False).save_pretrained(folder)
    federation = tiny_federation()
    federation = federation.model_copy(
        update={"backbone": federation.backbone.model_copy(update={"name": str(folder), "sha256": fingerprint(folder)})}
    )
    state = get_state(build_model(federation))
    bundle = write_bundle(tmp_path / "bundle", federation, state, {}, metrics={"settings": {}}, readme="untrained")
    model, record = open_model(bundle), {"text": "The buyer pays."}
    assert not isinstance(model.encode, LightEncoder)
    (found,) = model.infer(model.examples("clauses", [record]))
    np.testing.assert_allclose(found, open_bundle(bundle).logits("clauses", record), atol=2e-5)


def test_bundles_share_a_backbone(everything: Path) -> None:
    shelf: Shelf = {}
    one, other = (open_model(everything, shelf=shelf) for _ in range(2))
    assert isinstance(one.encode, LightEncoder)
    assert isinstance(other.encode, LightEncoder)
    assert one.encode.backbone is other.encode.backbone
    assert len(shelf) == 1


def test_bfloat16_is_near(everything: Path, released: ReleasedModel) -> None:
    low = open_model(everything, dtype=torch.bfloat16)
    examples = released.examples("topics", [EVERY_QUESTION["topics"]])
    np.testing.assert_allclose(low.infer(examples)[0], released.infer(examples)[0], atol=0.1)


def test_what_is_no_bundle_is_refused(everything: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(everything, tmp_path / "bundle")
    with pytest.raises(BackboneError):
        open_model(folder, backbone=str(tmp_path))
    (folder / "heads.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match="Expected a released bundle"):
        open_model(folder)


def test_predicting_imports_no_library_of_training() -> None:
    code = "import sys, client.answers.predicting; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"transformers", "peft", "opacus", "pyarrow", "scipy", "sklearn"} & set(loaded)
