"""A site's place within a round of training, kept after an epoch: who dies in a round goes on from there.

It is one file of the state folder, the last round's only. What it is for stands in it: the request, the records, the
schedule. Of anything else it is not a place. Not for training under `[privacy]`, whose rounds are one epoch, nor with
a hook that remembers earlier steps.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.model.balancing import State
from shared.model.multitask import MultiTaskModel
from shared.process.files import write_synced
from shared.tasks import Example

SECONDS = 5.0
"""Least time between two places that are kept, each of which costs a synced write of some megabytes."""
log = logging.getLogger("collegium.client")


@dataclass
class Reached:
    """How far a round of training is; changed as it goes on."""

    epochs: int = 0
    """Finished ones."""
    done: int = 0
    """Steps."""
    travelled: float = 0.0
    """Sum of the learning rates."""
    seconds: float = 0.0
    """That earlier processes took for it."""


class Place:
    """Where one round's place is kept.

    Args:
        file: In the state folder.
        about: What the round is: whatever decides its result, and is the same whenever it is asked for again.
        seconds: Least time between two writes.
        clock: Seconds; a test may pass its own.
    """

    def __init__(
        self, file: Path, about: bytes, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._about, self._seconds, self._clock = file, about, seconds, clock
        self._began = self._kept = clock()

    def keep(
        self,
        reached: Reached,
        model: MultiTaskModel,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        balance: State,
        losses: dict[str, float],
        examples: Iterable[Example],
    ) -> None:
        """Write the place after an epoch, if it is time; where the disk refuses, the round goes on without one."""
        now = self._clock()
        if now - self._kept < self._seconds:
            return
        self._kept = now
        content = {
            "key": self._key(examples),
            "reached": {**vars(reached), "seconds": reached.seconds + now - self._began},
            "parameters": [parameter.detach().cpu() for parameter in _trained(model)],
            "optimizer": optimizer.state_dict(),
            "numpy": json.dumps(rng.bit_generator.state),
            "torch": torch.get_rng_state(),
            "balance": {name: dict(values) for name, values in balance.items()},
            "losses": losses,
        }
        buffer = BytesIO()
        torch.save(content, buffer)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_synced(self._file, buffer.getvalue())
        except OSError as error:
            log.warning("the place within this round could not be kept in %s: %s", self._file, error)

    @torch.no_grad()
    def take_up(
        self,
        model: MultiTaskModel,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        examples: Iterable[Example],
    ) -> tuple[Reached, State, dict[str, float]] | None:
        """Go back to the place kept for this very round; how far it was, its balance and losses. None if there is none.

        Call it with the round's state loaded and its epochs drawn.
        """
        if (content := self._read()) is None or content["key"] != self._key(examples):
            return None
        for parameter, kept in zip(_trained(model), content["parameters"], strict=True):
            parameter.copy_(kept)
        optimizer.load_state_dict(content["optimizer"])
        rng.bit_generator.state = json.loads(content["numpy"])
        torch.set_rng_state(content["torch"])
        reached = Reached(**content["reached"])
        log.info("going on after epoch %d of this round, step %d", reached.epochs, reached.done)
        return reached, content["balance"], content["losses"]

    def _read(self) -> dict[str, Any] | None:
        with suppress(Exception):  # a file of another release, or damaged: then the round begins at its beginning
            content: dict[str, Any] = torch.load(BytesIO(self._file.read_bytes()), weights_only=True)
            return content
        return None

    def _key(self, examples: Iterable[Example]) -> str:
        key = hashlib.sha256(self._about)
        for example in examples:
            key.update(f"{example.task}/{example.record}/".encode() + np.asarray(example.input_ids).tobytes())
            key.update(repr(example.target).encode())
        return key.hexdigest()


def _trained(model: MultiTaskModel) -> list[torch.Tensor]:
    return [parameter for parameter in model.flat.parameters if parameter.requires_grad]
