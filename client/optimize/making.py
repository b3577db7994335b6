"""`collegium optimize`: from a released bundle to a new one that is smaller or faster, measured before it appears."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from client.optimize.distilling import distill, read_texts
from client.optimize.exporting import check_libraries, export, quantise
from client.optimize.given import Given, halves, read_given
from client.optimize.layers import keep, keep_by_loss, without
from client.optimize.measuring import Measured, measure, size_of
from client.optimize.telling import columns, readme
from shared.bundle import (
    FEDERATION_FILE,
    HEADS_FILE,
    METRICS_FILE,
    OPTIMIZED_FILE,
    README_FILE,
    THRESHOLDS_FILE,
    is_sealed,
    load_bundle,
    load_metrics,
    seal,
    verify_bundle,
)
from shared.bundle.keys import load_release_key
from shared.bundle.manifest import release_of
from shared.bundle.merging import merged
from shared.bundle.optimized import MODEL, Optimized, hashes
from shared.errors import ConfigError, StoreError
from shared.inference import encoder
from shared.inference.encoder import Backbone, LightEncoder
from shared.inference.int8 import quantised
from shared.inference.model import ReleasedModel
from shared.inference.opening import open_model
from shared.inference.optimized import GRAPH, WORDS, WORDS_FILE
from shared.model.backbone import WEIGHTS, quiet
from shared.tasks.heads import Head
from shared.tasks.heads.vocabulary import TiedOutput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from transformers import BertModel, PreTrainedTokenizerFast

SOURCE_FILE = Path("SOURCE.md")
"""The card of the release that it was made of."""
BEFORE, AFTER = "as released", "optimized"


@dataclass(frozen=True)
class Wanted:
    """What is to be done; the adapter is merged into the BERT in any case."""

    layers: int | None = None
    """How many stay; None is all."""
    texts: Path | None = None
    """Texts from which the heads learn what the whole model says of them."""
    int8: bool = False
    onnx: bool = False


@dataclass(frozen=True)
class Made:
    """What has become of it."""

    about: Optimized
    rows: Mapping[str, Measured]
    """The models before and after."""
    metrics: Mapping[str, str]
    """By task, what is scored."""


@dataclass(frozen=True)
class Fewer:
    """The model after layers have gone."""

    kept: tuple[int, ...]
    heads: Mapping[str, Head]
    distilled: tuple[str, ...]


def optimize(
    folder: Path,
    out: Path,
    wanted: Wanted,
    records: Mapping[str, Path],
    *,
    backbone: str | None = None,
    key: str | None = None,
    sign: Path | None = None,
) -> Made:
    """Write a new bundle; it appears whole or not at all, and everything that predicts reads it.

    Args:
        folder: The bundle, which is verified first if it is signed.
        out: To make.
        wanted: What is to be done.
        records: By task, files of labelled records to measure with. If layers are to go, they are chosen by every
            other record, and scores are of the rest.
        backbone: Where the bundle's BERT is, if not as named there.
        key: The line of the release key that must have signed the bundle.
        sign: The private key (Ed25519) to sign the new one with; it has no signature without.

    Raises:
        ConfigError: An option, a file that is named, or the bundle is wrong, or a library is missing.
        BundleError: The bundle is not as it was signed.
        BackboneError: Its BERT is missing, or is not the one that was agreed on.
        DataError: Records are wrong.
        StoreError: The disk refuses.
    """
    _check(out, wanted, records)
    signing = load_release_key(sign) if sign else None
    signed_by = verify_bundle(folder, key).manifest.key if key or is_sealed(folder) else None
    before = open_model(folder, backbone=backbone)
    given = read_given(before, records)
    choosing, measuring = (given, given) if wanted.layers is None else halves(before, given)
    bert, words = merged(load_bundle(folder), backbone)
    if wanted.layers is not None:
        keep(len(bert.encoder.layer), wanted.layers, lambda kept: 0.0)  # so that a wrong number is told at once
    building = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(building, ignore_errors=True)
        place = building / MODEL
        place.mkdir(parents=True)
        _write_bert(bert, words, place)
        fewer = _fewer(before, place, wanted, choosing)
        _shorten(bert, fewer.kept)
        _write_weights(bert, fewer.heads, wanted, place)
        about = Optimized(
            source=release_of(folder),
            signed_by=signed_by,
            runtime="onnx" if wanted.onnx else "torch",
            int8=wanted.int8,
            layers=fewer.kept,
            distilled=fewer.distilled,
            files=hashes(place),
        )
        told = _write_rest(folder, building, fewer.heads, about)
        sizes = {BEFORE: size_of(folder, before.federation.backbone, backbone)}
        sizes[AFTER] = size_of(building, before.federation.backbone, None)
        rows = measure({BEFORE: before, AFTER: open_model(building)}, sizes, measuring)
        made = Made(about, rows, {task: before.tasks[task].metric for task in given})
        _tell(building, before, made, told, signing)
        building.replace(out)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"Could not write the bundle {out}: {error}; make room and optimize again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return made


def _check(out: Path, wanted: Wanted, records: Mapping[str, Path]) -> None:
    if out.exists():
        raise ConfigError(f"Expected a new folder for the bundle, but {out} exists; name another.")
    if not records:
        raise ConfigError("Expected --records TASK=FILE, for no model is made that is not measured; name a file.")
    if wanted.texts and wanted.layers is None:
        raise ConfigError("Expected --distill with --layers: while all layers stay the heads have nothing to learn.")
    if wanted.onnx:
        check_libraries()


def _fewer(before: ReleasedModel, place: Path, wanted: Wanted, choosing: Given) -> Fewer:
    """Choose the layers that stay, and teach the heads."""
    full, heads = Backbone(place), dict(before.heads)
    if wanted.layers is None:
        return Fewer(tuple(range(len(full.layers))), heads, ())
    whole = replace(before, encode=LightEncoder(full, {}), device=torch.device("cpu"))
    kept = keep_by_loss(whole, full, wanted.layers, choosing)
    learnt = {}
    if wanted.texts:
        learnt = distill(whole, replace(whole, encode=without(full, kept)), read_texts(wanted.texts))
    return Fewer(kept, heads | learnt, tuple(sorted(learnt)))


def _write_bert(bert: "BertModel", words: "PreTrainedTokenizerFast", place: Path) -> None:
    """Configuration, tokenizer and all weights."""
    with quiet():
        bert.config.save_pretrained(place)
        words.save_pretrained(place)
    save_file(_weights(bert), place / WEIGHTS)
    if not encoder.is_known(place):
        raise ConfigError("Expected a BERT with GELU and absolute positions, but this one is of another kind.")


def _shorten(bert: "BertModel", kept: tuple[int, ...]) -> None:
    bert.encoder.layer = nn.ModuleList([bert.encoder.layer[number] for number in kept])
    bert.config.num_hidden_layers = len(kept)


def _write_weights(bert: "BertModel", heads: Mapping[str, Head], wanted: Wanted, place: Path) -> None:
    """The weights as they are wanted, in the place of all."""
    bert.config.save_pretrained(place)
    if not wanted.onnx:
        save_file(quantised(_weights(bert)) if wanted.int8 else _weights(bert), place / WEIGHTS)
        return
    (place / WEIGHTS).unlink()
    export(bert, heads, place / GRAPH)
    if wanted.int8:
        quantise(place / GRAPH)
    if any(isinstance(part, TiedOutput) for head in heads.values() for part in head.modules()):
        save_file({WORDS: bert.embeddings.word_embeddings.weight.detach()}, place / WORDS_FILE)


def _weights(bert: "BertModel") -> dict[str, torch.Tensor]:
    """All but the pooler's, which no head reads."""
    return {name: value.contiguous() for name, value in bert.state_dict().items() if not name.startswith("pooler.")}


def _write_rest(folder: Path, building: Path, heads: Mapping[str, Head], about: Optimized) -> dict[str, Any]:
    """All but the card; returns the release's metrics."""
    bundle, told = load_bundle(folder), load_metrics(folder)
    told.pop("settings", None)  # of a bundle of before
    named = {f"{task}/{name}": value for task, head in heads.items() for name, value in head.state_dict().items()}
    save_file(named, building / HEADS_FILE)
    shutil.copyfile(folder / FEDERATION_FILE, building / FEDERATION_FILE)
    if (folder / README_FILE).is_file():
        shutil.copyfile(folder / README_FILE, building / SOURCE_FILE)
    for file, value in ((THRESHOLDS_FILE, bundle.settings), (METRICS_FILE, told)):
        (building / file).write_text(_json(value), encoding="utf-8")
    (building / OPTIMIZED_FILE).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return told


def _tell(
    building: Path, before: ReleasedModel, made: Made, told: Mapping[str, Any], signing: "Ed25519PrivateKey | None"
) -> None:
    """Write the table into metrics and card, and sign all of it."""
    table = {name: asdict(row) for name, row in made.rows.items()}
    (building / METRICS_FILE).write_text(_json({**told, "optimized": table}), encoding="utf-8")
    text = readme(before.federation.name, made.about, columns(made.metrics), made.rows, list(before.tasks))
    (building / README_FILE).write_text(text, encoding="utf-8")
    if signing:
        seal(building, signing)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
