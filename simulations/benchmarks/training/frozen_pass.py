"""States that nobody trains, as under `heads`: our encoder in the machine's dtype beside ONNX Runtime in int8.

Both read the test texts in the same batches, sorted by length, of at most 2,048 padded sub-tokens, on as many threads.
Our side is the trainer's own forward pass, without padding. The other is the backbone as transformers computes it,
exported by torch (opset 17) and quantised by `quantize_dynamic`, with signed weights and a scale for each output
(`per_channel`); building it is not timed. Speed is worth nothing without scores: our trainer trains a head on the
states of each side, from the same start and in the same order, and it is tested on states of that side. The distance is
|states - states in float32| / |states in float32| over all sub-tokens of the test texts. It needs `onnx` and
`onnxruntime`, which Collegium itself does without: `pip install 'collegium[bench]'`.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertModel

from client.train import trainer
from client.train.batching import evaluation_batches
from client.train.precision import autocast, is_bfloat16
from client.train.scoring import score
from shared.adapter import set_state
from shared.errors import ConfigError
from shared.model.backbone import load_backbone
from shared.model.encoder import Encoder
from shared.model.frozen import FrozenStates
from shared.model.multitask import Batch
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Table, cpu_seconds, in_turns
from simulations.benchmarks.training.scene import BACKBONE, TASK, Scene, open_scene

RECORDS, SMALL = 1000, 16
BATCH_TOKENS, EPOCHS, OPSET = 2048, 10, 17
TRAINING = {"learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0, "epochs_per_round": EPOCHS}
EXACT, THEIRS = "our encoder, float32", "ONNX Runtime, int8"
INPUTS, OUTPUT = ["input_ids", "mask", "types"], "states"

Encode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(input_ids, mask, types), [rows, length] each, to states [rows, length, hidden]."""


class Plain(nn.Module):
    """A BERT whose only output are its last states."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """As `Encode`."""
        states: torch.Tensor = self.bert(
            input_ids=input_ids, attention_mask=mask, token_type_ids=types
        ).last_hidden_state
        return states


class Given(FrozenStates):
    """Remembers what another encoder than the model's own makes of a text."""

    def __init__(self, encode: Encode) -> None:
        super().__init__()
        self._given = encode

    def of(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor, *_: Any, **options: Any) -> Any:
        """As `FrozenStates.of`; the encoder that comes with the texts is not asked."""
        return super().of(input_ids, mask, types, self._given, **options)


def findings(asked: Asked) -> Findings:
    """All test texts by each side in every turn; then a head on the states of each."""
    onnx = _libraries()
    scene = open_scene(asked, SMALL if asked.small else RECORDS, rounds={"method": "heads"}, training=TRAINING)
    native = is_bfloat16(scene.model.device, "auto")
    ours = "our encoder, bfloat16" if native else EXACT
    sides = {ours: own(scene, "auto"), THEIRS: int8(scene, *onnx), EXACT: own(scene, "float32")}
    examples = scene.site.data[TASK]["test"].examples[: SMALL if asked.small else None]
    batches = [scene.model.collate(batch) for batch in evaluation_batches(examples, BATCH_TOKENS)]
    for encode in sides.values():
        states_of(encode, batches[:1])  # the first is slower

    def speed(encode: Encode) -> float:
        return len(examples) / cpu_seconds(lambda: states_of(encode, batches))

    figures = in_turns({name: partial(speed, encode) for name, encode in sides.items()}, asked.turns)
    comparisons = [
        Comparison(subject=ours, against=name, unit="texts per CPU second", ours=figures[ours], theirs=figures[name])
        for name in sides
        if name != ours
    ]
    exact = states_of(sides[EXACT], batches)
    rows: list[list[Cell]] = []
    for name, encode in sides.items():
        off = (states_of(encode, batches) - exact).norm() / exact.norm()
        found = scores_on(scene, encode)
        rows.append([name, found["macro_f1"], found["accuracy"], round(float(off), 4)])
    title = f"A head's scores after {EPOCHS} epochs of {len(scene.examples)} records on the states of each"
    columns = ["states", "macro F1", "accuracy", "distance"]
    return Findings(comparisons=comparisons, tables=[Table(title=title, columns=columns, rows=rows)])


def own(scene: Scene, precision: str) -> Encode:
    """Our encoder, which remembers nothing."""
    encoder = Encoder(scene.model.encoder)

    @torch.no_grad()
    def encode(*texts: torch.Tensor) -> torch.Tensor:
        device = scene.model.device  # whatever the trainer, which asks for them, computes its heads in
        with torch.autocast(device.type, enabled=False), autocast(device, precision):
            return encoder(*texts)

    return encode


def int8(scene: Scene, runtime: Any, quantization: Any) -> Encode:
    """The backbone, quantised, in a session of ONNX Runtime."""
    bert = load_backbone(BACKBONE, scene.federation.backbone.sha256).encoder
    one = torch.ones(2, 8, dtype=torch.long)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a newer exporter, which needs one more library
        logging.getLogger().addFilter(_quiet)
        exact, narrow = str(Path(folder) / "exact.onnx"), str(Path(folder) / "int8.onnx")
        axes = {name: {0: "rows", 1: "length"} for name in [*INPUTS, OUTPUT]}
        names: dict[str, Any] = {"input_names": INPUTS, "output_names": [OUTPUT], "dynamic_axes": axes}
        torch.onnx.export(Plain(bert), (one, one, 0 * one), exact, dynamo=False, opset_version=OPSET, **names)
        quantization.quantize_dynamic(exact, narrow, weight_type=quantization.QuantType.QInt8, per_channel=True)
        logging.getLogger().removeFilter(_quiet)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        session = runtime.InferenceSession(narrow, options, providers=["CPUExecutionProvider"])

    def encode(*texts: torch.Tensor) -> torch.Tensor:
        (states,) = session.run(None, {name: text.numpy() for name, text in zip(INPUTS, texts, strict=True)})
        return torch.from_numpy(states)

    return encode


def states_of(encode: Encode, batches: Sequence[Batch]) -> torch.Tensor:
    """All states where there is text: [sub-tokens, hidden]."""
    texts = [(batch.input_ids, batch.attention_mask, batch.token_type_ids) for batch in batches]
    return torch.cat([encode(*text)[text[1].bool()] for text in texts])


def scores_on(scene: Scene, encode: Encode) -> dict[str, float]:
    """What a head reaches that is trained and tested on these states."""
    set_state(scene.model, scene.initial)
    scene.model.frozen = Given(encode)
    trainer.train(scene.model, scene.examples, scene.federation.training, seed=1)
    return dict(score(scene.model, TASK, scene.site.data[TASK], "test"))


def _quiet(record: logging.LogRecord) -> bool:
    """Not the advice of the quantiser to have another tool look over the model first."""
    return "pre-processing before quantization" not in record.getMessage()


def _libraries() -> tuple[Any, Any]:
    """ONNX Runtime, and its quantiser.

    Raises:
        ConfigError: One of the libraries is not installed.
    """
    try:
        import_module("onnx")
        return import_module("onnxruntime"), import_module("onnxruntime.quantization")
    except ImportError as error:
        raise ConfigError(
            f"Expected onnx and onnxruntime for this benchmark, but {error.name or error} is not installed; install "
            "them with `pip install 'collegium[bench]'`."
        ) from None
