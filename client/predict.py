"""Applying a released bundle to new text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client import trainer
from shared.adapter import set_state
from shared.bundle import load_bundle
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.model import MultiTaskModel, build_model
from shared.tasks import Record


@dataclass(frozen=True)
class Predictor:
    """A federation's trained model, ready for new records; computes in float32."""

    federation: Federation
    model: MultiTaskModel

    def predict(self, task: str, records: Sequence[Record]) -> list[Any]:
        """One prediction per record. Raises ConfigError for an unknown task, DataError for a record without text."""
        examples = self._encode(task, records)
        predictions = trainer.predict(self.model, examples, precision="float32")
        return [predictions[index] for index in range(len(records))]

    @torch.inference_mode()
    def logits(self, task: str, record: Record) -> np.ndarray:
        """The head's raw output for one record that fits one window."""
        (example,) = self._encode(task, [record])
        self.model.eval()
        output: torch.Tensor = self.model(self.model.collate([example]).to(self.model.device))[task][0]
        array: np.ndarray = output.cpu().numpy()
        return array[: len(example)] if array.ndim == 2 else array

    def _encode(self, task: str, records: Sequence[Record]) -> list[Any]:
        if task not in self.model.tasks:
            raise ConfigError(f"Expected a task among {sorted(self.model.tasks)}, but {task!r} came.")
        try:
            return self.model.tasks[task].encode(records, self.model.tokenizer, self.federation.backbone.max_length)
        except KeyError as error:
            fields = self.model.tasks[task].record_schema
            raise DataError(f"Expected records of task {task} as {fields}, but field {error} is missing.") from error


def open_bundle(folder: Path, *, backbone: str | None = None) -> Predictor:
    """Load a bundle that `collegium server release` wrote; `backbone` says where its BERT is, if not as named there."""
    bundle = load_bundle(folder)
    model = build_model(bundle.federation, backbone=backbone)
    set_state(model, bundle.arrays)
    return Predictor(bundle.federation, model.eval())


def text_record(predictor: Predictor, task: str, text: str, question: str | None) -> Mapping[str, Any]:
    """The record that a text on the command line stands for."""
    kind = predictor.federation.tasks[task].type if task in predictor.federation.tasks else None
    if kind == "question-answering":
        if question is None:
            raise ConfigError(f"Expected --question for the question-answering task {task}, but none came.")
        return {"context": text, "question": question}
    return {"tokens": text.split()} if kind == "token-classification" else {"text": text}
