"""What is served: the tasks of all bundles under their names, over backbones that they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.answers.answering import record_of
from client.serving.settings import Precision, Settings
from shared.bundle import is_sealed, verify_bundle
from shared.inference.model import ReleasedModel
from shared.inference.opening import Shelf, open_model


@dataclass(frozen=True)
class Served:
    """A task: whose it is, and what it is called there."""

    bundle: str
    model: ReleasedModel
    task: str

    def described(self) -> dict[str, Any]:
        """What clients are told of it."""
        task = self.model.tasks[self.task]
        kind = self.model.federation.tasks[self.task].type
        return {
            "type": kind,
            "summary": task.card.summary,
            "labels": list(task.labels),
            "reads": task.card.record,
            "text_alone": self.reads_text,
            "bundle": self.bundle,
            "federation": self.model.federation.name,
        }

    @property
    def reads_text(self) -> bool:
        """Whether a plain text is enough."""
        try:
            record_of(PLAIN, self.model.tasks[self.task])
        except ValueError:
            return False
        return True


PLAIN = "A plain text."


def load(settings: Settings) -> Mapping[str, Served]:
    """All tasks, by the names under which they are served; a bundle that is signed is verified first.

    Raises:
        CollegiumError: A bundle or its backbone cannot be read, or is not what was signed.
    """
    dtype, shelf = dtype_of(settings.precision, settings.device), Shelf()
    models = {}
    for name, folder in settings.bundles:
        check(folder, settings.key)
        models[name] = open_model(folder, backbone=settings.backbone, dtype=dtype, device=settings.device, shelf=shelf)
    every = [task for model in models.values() for task in model.tasks]
    return {
        task if every.count(task) == 1 else f"{name}.{task}": Served(name, model, task)
        for name, model in models.items()
        for task in model.tasks
    }


def check(folder: Path, key: Path | None) -> None:
    """Raise unless a bundle is as it was signed, if it was, or must be because a key is given."""
    if key is not None or is_sealed(folder):
        from shared.bundle.keys import read_release_key

        verify_bundle(folder, None if key is None else read_release_key(key))


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    """The number format of the encoder's products."""
    from client.train.precision import is_bfloat16

    return torch.bfloat16 if is_bfloat16(torch.device(device), precision) else torch.float32
