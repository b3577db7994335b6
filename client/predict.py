"""Applying a released bundle to new text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.data.loading import input_of
from client.train import trainer
from shared.adapter import set_state
from shared.bundle import load_bundle
from shared.errors import ConfigError, DataError, listed
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example, Record, Task


@dataclass(frozen=True)
class Predictor:
    """A federation's trained model, ready for new records; computes in float32."""

    federation: Federation
    model: MultiTaskModel

    def task(self, name: str) -> Task:
        """The task of that name. Raises ConfigError if the bundle has none."""
        if not self.model.tasks:
            raise ConfigError(
                "Expected a bundle with task heads, but every institution of this federation keeps its heads at home; "
                "predict with one that an institution has written by `collegium client bundle`."
            )
        if name not in self.model.tasks:
            raise ConfigError(f"Expected a task among {listed(sorted(self.model.tasks))}, but {name!r} came.")
        return self.model.tasks[name]

    def predict(self, task: str, records: Sequence[Record]) -> list[Any]:
        """One prediction per record, whose labels are not read.

        Raises ConfigError for an unknown task, DataError for a record whose input is wrong.
        """
        examples = self._encode(task, records)
        return trainer.predict(self.model, self.task(task), examples, precision="float32")

    @torch.inference_mode()
    def logits(self, task: str, record: Record) -> np.ndarray:
        """The head's raw output for one record that fits one window."""
        (example,) = self._encode(task, [record])
        self.model.eval()
        output: torch.Tensor = self.model.infer(self.model.collate([example]).to(self.model.device))[task][0]
        array: np.ndarray = output.cpu().numpy()
        return array[: len(example)] if array.ndim == 2 else array

    def _encode(self, task: str, records: Sequence[Record]) -> list[Example]:
        found = self.task(task)
        inputs = []
        for number, record in enumerate(records, start=1):
            try:
                inputs.append(input_of(record, found))
            except ValueError as error:
                raise DataError(f"Task {task}, record {number}: {error}.") from None
        return found.encode(inputs, self.model.tokenizer, self.federation.backbone.max_length)


def open_bundle(folder: Path, *, backbone: str | None = None) -> Predictor:
    """Load a bundle, whoever wrote it; `backbone` says where its BERT is, if not as named there."""
    bundle = load_bundle(folder)
    model = build_model(bundle.federation, backbone=backbone, released=bundle.peft)
    set_state(model, bundle.arrays)
    model.tasks = {name: model.tasks[name].calibrated(bundle.settings.get(name, {})) for name in bundle.tasks}
    return Predictor(bundle.federation, model.eval())
