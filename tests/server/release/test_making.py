"""The released bundle: plain peft loads it, and it says by itself what it is."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import BertModel

from client.predict import open_bundle
from server.release.making import release
from server.store import Score, Store
from shared.adapter import factor_name, factor_of, get_state, layer_of, set_state
from shared.bundle import HEADS_FILE, load_bundle
from shared.bundle.manifest import release_of
from shared.codec import Arrays
from shared.errors import ConfigError, StoreError
from shared.federation import Federation, federation_toml, load_federation
from shared.model.multitask import build_model
from shared.state import State
from shared.tasks.question_answering import QuestionAnswering


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture(scope="module")
def state(tiny_federation: Callable[..., Federation]) -> Arrays:
    """A state in which the adapter does something: fresh LoRA B factors are zero."""
    rng = np.random.default_rng(3)
    fresh = get_state(build_model(tiny_federation()))
    return {name: rng.normal(0, 0.2, array.shape).astype(np.float32) for name, array in fresh.items()}


@pytest.fixture
def completed(store: Store, tiny_federation: Callable[..., Federation], state: Arrays) -> str:
    """A run whose round 1 of 2 was the best."""
    run = store.create_run(tiny_federation())
    for number, scale in ((0, 0.0), (1, 1.0), (2, 2.0)):
        store.save_checkpoint(run, number, State({name: array * np.float32(scale) for name, array in state.items()}))
    store.add_scores(
        run, [Score(n, "test", "hospital", "clauses", "macro_f1", v, 9) for n, v in ((0, 0.25), (1, 0.75))]
    )
    store.add_round(run, 1, 1.0, {1: 0.9})
    store.add_round(run, 2, 1.0, {2: 0.8})
    store.update_run(run, status="completed")
    return run


def test_the_best_round_comes_back_as_it_was_stored(
    store: Store, completed: str, state: Arrays, tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    folder = release(store, completed, tmp_path / "new" / "bundle")
    bundle = load_bundle(folder)
    assert bundle.federation.digest == tiny_federation().digest
    assert bundle.arrays.keys() == state.keys()
    assert all(np.array_equal(bundle.arrays[name], state[name]) for name in state)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_release_of_a_limited_rank_is_the_nearest_product_of_that_rank(
    store: Store, state: Arrays, tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    federation, rng, most = tiny_federation(rounds={"method": "fedex"}), np.random.default_rng(5), 5
    layer = next(layer_of(name) for name in state if factor_of(name) == "A")
    b, a = state[factor_name(layer, "B")], state[factor_name(layer, "A")]
    step = rng.normal(0, 0.3, (len(b), 6)).astype(np.float32), rng.normal(0, 0.3, (6, a.shape[1])).astype(np.float32)
    run = store.create_run(federation)
    store.save_checkpoint(run, 0, State(state))
    store.save_checkpoint(run, 1, State(state, steps={layer: step}))
    store.add_round(run, 1, 1.0, {1: 0.9})
    store.update_run(run, status="completed")
    loaded = load_bundle(release(store, run, tmp_path / "bundle", most)).arrays
    u, sizes, vt = np.linalg.svd(federation.adapter.scale * b @ a + step[0] @ step[1])
    nearest = (u[:, :most] * sizes[:most]) @ vt[:most]
    product = loaded[factor_name(layer, "B")] @ loaded[factor_name(layer, "A")]
    assert len(loaded[factor_name(layer, "A")]) == most
    np.testing.assert_allclose(product, nearest, atol=1e-5)
    told = json.loads((tmp_path / "bundle" / "metrics.json").read_text(encoding="utf-8"))["cut_off"]
    assert told == pytest.approx(np.linalg.norm(sizes[most:]) / np.linalg.norm(sizes), rel=1e-3)
    again = [release(store, run, tmp_path / name, most) for name in ("second", "third")]
    assert {release_of(folder) for folder in again} == {release_of(tmp_path / "bundle")}, "a consent fits it as well"


def test_no_other_checkpoint_is_read_where_nothing_is_folded(
    store: Store, completed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, load = [], Store.load_checkpoint
    monkeypatch.setattr(Store, "load_checkpoint", lambda *of: read.append(of[2]) or load(*of))  # type: ignore[func-returns-value]
    release(store, completed, tmp_path / "bundle")
    assert read == [1]


def test_settings_tuned_on_validation_records_come_with_the_bundle(
    store: Store, completed: str, tmp_path: Path
) -> None:
    tuned = [
        Score(number, split, name, "notes_qa", "null_threshold", value, examples)
        for number, split, name, value, examples in (
            (1, "validation", "hospital", 1.0, 30),
            (1, "validation", "law_firm", 5.0, 10),
            (1, "test", "hospital", 9.0, 30),
            (2, "validation", "hospital", 9.0, 30),
        )
    ]
    store.add_scores(completed, tuned)
    folder = release(store, completed, tmp_path / "bundle")
    assert load_bundle(folder).settings == {"notes_qa": {"null_threshold": 3.0}}, "two weigh the same"
    task = open_bundle(folder).task("notes_qa")
    assert isinstance(task, QuestionAnswering)
    assert task.spec.null_threshold == 3.0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_plain_peft_gives_the_same_hidden_states(
    store: Store,
    completed: str,
    state: Arrays,
    tmp_path: Path,
    tiny_bert: Path,
    tiny_federation: Callable[..., Federation],
) -> None:
    folder = release(store, completed, tmp_path / "bundle")
    base = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    plain = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    ours = build_model(tiny_federation()).eval()
    set_state(ours, state)
    ids = torch.tensor([[101, 2023, 2003, 1037, 3231, 102]])
    with torch.no_grad():
        untouched = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)(ids).last_hidden_state
        expected = ours.encoder(input_ids=ids).last_hidden_state
        found = plain(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - untouched).abs().max() > 0.01
    heads = load_file(folder / HEADS_FILE)
    assert np.array_equal(heads["clauses/linear.weight"], state["head/clauses/linear.weight"])
    assert all(name.startswith(("clauses/", "entities/", "notes_qa/")) for name in heads)


def test_it_says_what_it_is_and_how_it_did(store: Store, completed: str, tmp_path: Path) -> None:
    folder = release(store, completed, tmp_path / "bundle")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["run"] == completed
    assert metrics["best_round"] == 1
    assert [row["score"] for row in metrics["rounds"]] == [0.9, 0.8]
    assert load_federation(folder / "federation.toml").digest == metrics["digest"]
    readme = (folder / "README.md").read_text()
    assert "| hospital | clauses | macro_f1 | 0.250 | 0.750 |" in readme
    assert "best round\n1 of 2" in readme
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_agreement_survives_toml(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation(seed=7, rounds={"patience": 3, "deadline_seconds": 0.25})
    (tmp_path / "f.toml").write_text(federation_toml(federation), encoding="utf-8")
    assert load_federation(tmp_path / "f.toml") == federation


def test_nothing_is_overwritten(store: Store, completed: str, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConfigError, match="Expected a new folder"):
        release(store, completed, tmp_path / "bundle")


def test_an_unfinished_run_is_not_released(
    store: Store, tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    run = store.create_run(tiny_federation())
    with pytest.raises(ConfigError, match="is queued; resume it first"):
        release(store, run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_full_disk_leaves_no_half_bundle(
    store: Store, completed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, os.strerror(28))

    target = tmp_path / "releases" / "bundle"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            release(store, completed, target)
    assert list(target.parent.iterdir()) == []
    assert release(store, completed, target) == target


def test_a_bundle_without_a_head_is_refused(store: Store, completed: str, tmp_path: Path) -> None:
    folder = release(store, completed, tmp_path / "bundle")
    heads = load_file(folder / HEADS_FILE)
    save_file({name: array for name, array in heads.items() if not name.startswith("notes_qa/")}, folder / HEADS_FILE)
    with pytest.raises(ConfigError, match=r"it has the heads of \['clauses', 'entities'\]"):
        load_bundle(folder)
