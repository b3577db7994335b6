"""A BERT and the heads over it as one ONNX graph, exact or of eight-bit weights.

The graph reads `input_ids`, `attention_mask` and `token_type_ids` [rows, length], both open, and tells `states` and, of
each task whose head reads nothing but states, the logits under the task's name, all from one pass of the encoder.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from client.optimize.given import says_logits
from shared.errors import ConfigError
from shared.inference.optimized import INPUTS, STATES
from shared.tasks.heads import Head

if TYPE_CHECKING:
    from transformers import BertModel

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


class Whole(nn.Module):
    """A BERT and heads that read its states alone."""

    def __init__(self, bert: "BertModel", heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.bert = bert
        self.heads = nn.ModuleList(heads.values())

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """States [rows, length, hidden], and the logits of each head."""
        states = self.bert(input_ids=input_ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return states, *(head(states, mask, {}) for head in self.heads)


def exported(heads: Mapping[str, Head]) -> dict[str, Head]:
    """Those that are put into a graph: the others read places, or choose words by themselves."""
    return {
        task: head
        for task, head in heads.items()
        if says_logits(head) and type(head).inputs is Head.inputs and task != STATES
    }


def export(bert: "BertModel", heads: Mapping[str, Head], graph: Path) -> None:
    """Write the graph, in float32; `check_libraries` first."""
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length")
    own = exported(heads)
    texts = tuple(torch.ones((2, 16), dtype=torch.long) for _ in INPUTS)
    with _quiet():
        program: Any = torch.onnx.export(
            Whole(bert, own).eval(),
            (*texts[:2], 0 * texts[2]),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS),
            output_names=[STATES, *own],
            dynamic_shapes=[{0: rows, 1: length}] * len(INPUTS),
        )
        program.save(str(graph))


def quantise(graph: Path) -> None:
    """Put eight-bit weights into the encoder of a graph, a scale for each output; heads stay as they are.

    What is multiplied with them is rounded as in `shared.inference.int8`, to eight bits.
    """
    onnx, tool = import_module("onnx"), import_module("onnxruntime.quantization")
    nodes = list(onnx.load(graph).graph.node)
    last = next(place for place, node in enumerate(nodes) if STATES in node.output)
    heads = [node.name for node in nodes[last + 1 :]]
    narrow = graph.with_name(f".{graph.name}")
    with _quiet():
        tool.quantize_dynamic(
            str(graph),
            str(narrow),
            weight_type=tool.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[
                *heads,
                *(f"{name}_MatMul" for name in heads),
            ],  # what it makes of a Gemm, before it looks
        )
    narrow.replace(graph)


def check_libraries() -> None:
    """Raise ConfigError unless all that an export takes is installed."""
    for name in LIBRARIES:
        try:
            import_module(name)
        except ImportError:
            raise ConfigError(
                f"Expected {', '.join(LIBRARIES)} for --onnx, but {name} is not installed; `pip install "
                "'collegium[optimize]'`."
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries say of each other."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
