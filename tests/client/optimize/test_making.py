"""A bundle made smaller or faster answers as the release did, as far as what was done allows, and says how far."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from client.optimize import distilling, making
from client.optimize.exporting import quantise
from client.optimize.making import AFTER, BEFORE, Made, Wanted, optimize
from shared.bundle import OPTIMIZED_FILE, README_FILE, load_bundle, load_metrics, seal, verify_bundle
from shared.bundle.keys import load_release_key, new_release_key
from shared.bundle.manifest import release_of
from shared.bundle.optimized import MODEL
from shared.errors import BundleError, ConfigError, DataError, StoreError
from shared.inference.model import ReleasedModel
from shared.inference.opening import open_model
from shared.inference.optimized import GRAPH, INPUTS, STATES, onnx_encoder
from shared.process.files import write_new
from simulations.attacks.stage import EVERY_QUESTION

TOPICS = [
    {"text": f"The {thing} came {when}.", "label": ("positive", "negative")[n % 2]}
    for n, (thing, when) in enumerate((a, b) for a in ("parcel", "invoice", "train") for b in ("early", "too late"))
]
TAGGED = [{"tokens": ["Aspirin", "helps"], "tags": ["B-Drug", "O"]}] * 4
PLAIN = ("topics", "clauses", "codes", "entities", "pairs", "alike", "questions", "notes_qa", "next")
"""The tasks whose heads read states alone, those of the tiny federation among them."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled ones of two tasks."""
    folder = tmp_path_factory.mktemp("records")
    for name, rows in (("topics", TOPICS), ("entities", TAGGED)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {name: folder / f"{name}.jsonl" for name in ("topics", "entities")}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Of whoever signs."""
    write_new(tmp_path / "key", new_release_key(), 0o600)
    return tmp_path / "key"


Making = Callable[..., tuple[Path, Made]]


@pytest.fixture(scope="module")
def make(everything: Path, records: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Making:
    """Optimizes the bundle of all tasks."""

    def make(sign: Path | None = None, **wanted: Any) -> tuple[Path, Made]:
        out = tmp_path_factory.mktemp("optimized") / "bundle"
        return out, optimize(everything, out, Wanted(**wanted), records, sign=sign)

    return make


@pytest.fixture(scope="module")
def small(make: Making) -> tuple[Path, Made]:
    return make(int8=True)


@pytest.fixture(scope="module")
def graph(make: Making) -> tuple[Path, Made]:
    pytest.importorskip("onnxscript", reason="an export takes collegium[optimize]")
    pytest.importorskip("onnxruntime", reason="a graph is computed by collegium[optimize]")
    return make(onnx=True)


def said(model: ReleasedModel, task: str) -> np.ndarray:
    (found,) = model.infer(model.examples(task, [EVERY_QUESTION[task]]))
    return found


def test_a_merged_bundle_answers_the_same_without_a_backbone(
    make: Making, released: ReleasedModel, everything: Path, key: Path
) -> None:
    out, made = make(sign=key)
    model = open_model(out, backbone="nowhere")
    for task in EVERY_QUESTION:
        np.testing.assert_allclose(said(model, task), said(released, task), atol=1e-4)
    assert made.rows[AFTER].difference < 1e-4
    assert made.rows[AFTER].scores == made.rows[BEFORE].scores
    assert made.about.source == release_of(everything)
    verified = verify_bundle(out)
    assert verified.manifest.release not in (made.about.source, "")
    assert made.about.signed_by is None
    assert load_metrics(out)["optimized"][AFTER]["scores"] == made.rows[AFTER].scores
    assert "| optimized |" in (out / README_FILE).read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    weights = out / MODEL / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match=r"changed: \['model/model\.safetensors'\]"):
        verify_bundle(out)
    with pytest.raises(BundleError, match=r"model\.safetensors'\] of model differ"):
        open_model(out)


def test_a_signed_release_is_verified_and_its_key_is_named(
    everything: Path, records: dict[str, Path], key: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(everything, tmp_path / "signed")
    line = seal(folder, load_release_key(key)).key
    assert optimize(folder, tmp_path / "first", Wanted(), records, key=line).about.signed_by == line
    (folder / README_FILE).write_text("another", encoding="utf-8")
    with pytest.raises(BundleError, match=r"changed: \['README\.md'\]"):
        optimize(folder, tmp_path / "second", Wanted(), records)
    assert not (tmp_path / "second").exists()


def test_eight_bits_are_small_and_near(small: tuple[Path, Made], released: ReleasedModel) -> None:
    out, made = small
    model = open_model(out)
    weights = load_file(out / MODEL / "model.safetensors")
    assert weights["embeddings.word_embeddings.weight"].dtype == torch.int8
    assert weights["encoder.layer.1.output.dense.weight"].dtype == torch.int8
    assert (out / MODEL / "model.safetensors").stat().st_size < 0.4 * 4 * sum(w.numel() for w in weights.values())
    assert 0 < made.rows[AFTER].difference < 0.2
    for task in set(PLAIN) & EVERY_QUESTION.keys():
        np.testing.assert_allclose(said(model, task), said(released, task), atol=0.2)
    assert said(model, "masks").shape == said(released, "masks").shape  # reads the word embeddings
    assert said(model, "writing").shape[0]


def test_layers_go_and_heads_learn(make: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "STEPS", 200)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"Number {n} is late."}) + "\n" for n in range(40)), encoding="utf-8")
    out, made = make(layers=1, texts=texts, int8=True)
    assert len(made.about.layers) == 1
    assert {"topics", "codes"} <= set(made.about.distilled)
    assert "questions" not in made.about.distilled  # a text alone is no record of it
    model = open_model(out)
    assert said(model, "topics").shape == (2,)
    assert made.about.int8
    assert f"layers {made.about.layers[0]} kept" in (out / README_FILE).read_text(encoding="utf-8")


@pytest.mark.extra
def test_a_graph_computes_what_the_release_does(graph: tuple[Path, Made], released: ReleasedModel) -> None:
    import onnxruntime

    out, made = graph
    assert made.rows[AFTER].difference <= 1e-4
    model = open_model(out)
    for task in EVERY_QUESTION:
        np.testing.assert_allclose(said(model, task), said(released, task), atol=1e-4)
    session = onnxruntime.InferenceSession(str(out / MODEL / GRAPH), providers=["CPUExecutionProvider"])
    assert {output.name for output in session.get_outputs()} == {STATES, *PLAIN}
    for rows, length in ((1, 3), (5, 24)):  # any number, any length
        ids = torch.randint(5, 1000, (rows, length), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[-1, 2:] = 0
        texts = dict(zip(INPUTS, (ids.numpy(), mask.numpy(), 0 * ids.numpy()), strict=True))
        states, topics, tags = session.run([STATES, "topics", "entities"], texts)
        expected = released.encode(ids, mask, 0 * ids)
        here = mask.bool().numpy()
        np.testing.assert_allclose(states[here], expected.numpy()[here], atol=1e-4)
        with torch.inference_mode():
            np.testing.assert_allclose(topics, released.heads["topics"](expected, mask, {}), atol=1e-4)
            own = released.heads["entities"](expected, mask, {}).numpy()
        np.testing.assert_allclose(tags[here], own[here], atol=1e-4)


@pytest.mark.extra
def test_a_graph_of_eight_bits_leaves_the_heads_as_they_are(graph: tuple[Path, Made], tmp_path: Path) -> None:
    import onnx

    exact, narrow = graph[0] / MODEL / GRAPH, tmp_path / GRAPH
    narrow.write_bytes(exact.read_bytes())
    quantise(narrow)
    assert narrow.stat().st_size < 0.5 * exact.stat().st_size
    kept = {array.name: array.data_type for array in onnx.load(narrow).graph.initializer}
    heads = {kind for name, kind in kept.items() if name.startswith("heads.")}
    assert heads == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.INT8 in kept.values()
    ids = torch.randint(5, 1000, (3, 16), generator=torch.Generator().manual_seed(1))
    texts = ids, torch.ones_like(ids), torch.zeros_like(ids)
    far = (onnx_encoder(narrow)(*texts) - onnx_encoder(exact)(*texts)).abs()
    assert 0 < float(far.mean()) < 0.1


def test_what_is_wrong_is_told_and_nothing_is_left(
    everything: Path,
    records: dict[str, Path],
    small: tuple[Path, Made],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"

    def refused(match: str, bundle: Path = everything, files: Any = None, target: Path = out, **wanted: Any) -> None:
        with pytest.raises((ConfigError, DataError), match=match):
            optimize(bundle, target, Wanted(**wanted), records if files is None else files)

    refused("Expected a new folder", target=everything)
    refused("Expected --records TASK=FILE", files={})
    refused(r"but of \['other'\] came", files={"other": records["topics"]})
    refused("are no records of task topics", files={"topics": records["entities"]})
    refused("from 1 to 2, which this BERT has, not 3", layers=3)
    refused("from 1 to 2, which this BERT has, not 0", layers=0)
    refused("Expected --distill with --layers", texts=records["topics"])
    refused("is an optimized one; name its source", bundle=small[0])
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(TOPICS[0]) + "\n", encoding="utf-8")
    refused("two records at least", files={"topics": one}, layers=1)
    monkeypatch.setattr(making, "measure", no_room)
    with pytest.raises(StoreError, match="make room and optimize again"):
        optimize(everything, out, Wanted(), records)
    assert list(tmp_path.iterdir()) == [one]


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_export_without_its_libraries_says_which(
    everything: Path, records: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx is not installed; `pip install 'collegium\[optimize\]'`"):
        optimize(everything, tmp_path / "out", Wanted(onnx=True), records)


def test_a_broken_description_is_refused(small: tuple[Path, Made], tmp_path: Path) -> None:
    folder = shutil.copytree(small[0], tmp_path / "bundle")
    (folder / MODEL / "more.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"'more\.json'\] of model differ"):
        open_model(folder)
    (folder / OPTIMIZED_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as one"):
        open_model(folder)
    with pytest.raises(ConfigError, match="name its source"):
        load_bundle(folder)
