"""The encoder of an optimized bundle: our own over its weights, or ONNX Runtime's over its graph."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional

from shared.bundle.optimized import Optimized
from shared.errors import ConfigError
from shared.inference import tokenizer
from shared.inference.encoder import CONFIG, Backbone, LightEncoder
from shared.inference.int8 import Int8Backbone
from shared.inference.tokenizer import LightTokenizer
from shared.model.backbone import open_tokenizer

GRAPH, WORDS_FILE = "model.onnx", "words.safetensors"
"""An ONNX graph; and beside it the word embeddings, where a head answers with words."""
INPUTS, STATES = ("input_ids", "attention_mask", "token_type_ids"), "states"
"""Of the graph: [rows, length] each, to [rows, length, hidden]."""
WORDS = "words"
ROWS = 8
"""Texts that pass a graph together, which computes padding too: they come in the order of their lengths."""
Encode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def open_parts(model: Path, about: Optimized, dtype: torch.dtype, device: str) -> tuple[Encode, Any, torch.Tensor]:
    """The encoder, the tokenizer, and the word embeddings as heads are built over them.

    Args:
        model: The bundle's folder of that.
        about: What the bundle says of it.
        dtype: Of the products, if they are neither int8 nor ONNX Runtime's.
        device: Where to compute; that is "cpu" for these two.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    words = LightTokenizer(model) if tokenizer.is_known(model) else open_tokenizer(model)
    if about.runtime == "onnx":
        return onnx_encoder(model / GRAPH), words, _embeddings(model)
    backbone = Int8Backbone(model) if about.int8 else Backbone(model, dtype, device)
    return LightEncoder(backbone, {}), words, backbone.words


def onnx_encoder(graph: Path) -> Encode:
    """The states that a graph computes on the CPU, on as many threads as torch uses; its heads are not asked."""
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        raise ConfigError(
            f"Expected ONNX Runtime to compute {graph}, but it is not installed; `pip install 'collegium[optimize]'`."
        ) from None
    options, run = runtime.SessionOptions(), runtime.RunOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    run.only_execute_path_to_fetches = True
    session = runtime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def states(*texts: torch.Tensor) -> torch.Tensor:
        given = {name: text.numpy() for name, text in zip(INPUTS, texts, strict=True)}
        return torch.from_numpy(session.run([STATES], given, run)[0])

    def encode(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        lengths, parts = mask.sum(1).tolist(), []
        for start in range(0, len(ids), ROWS):
            rows = slice(start, start + ROWS)
            longest = max(lengths[rows])
            own = states(*(text[rows, :longest] for text in (ids, mask, types)))
            parts.append(functional.pad(own, (0, 0, 0, ids.shape[1] - longest)))
        return torch.cat(parts)

    return encode


def _embeddings(model: Path) -> torch.Tensor:
    """The word embeddings [vocabulary, hidden]; without values, for their shape, where no head reads them."""
    if (model / WORDS_FILE).exists():
        return load_file(model / WORDS_FILE)[WORDS]
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    return torch.empty(config["vocab_size"], config["hidden_size"], device="meta")
