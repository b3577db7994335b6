"""Aggregation methods: one file each, `init` and `apply` over plain arrays, no Flower import."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shared.codec import Arrays
from shared.state import Steps

if TYPE_CHECKING:
    from server.aggregation.fedavg import Diagnostics


@dataclass(frozen=True)
class ClientUpdate:
    """One institution's checked contribution to a round."""

    institution: str
    examples: Mapping[str, int]
    """Training records per task it holds."""
    arrays: Arrays
    """New minus received state: the adapter and the heads of its tasks, float32."""
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By name of an array of which only some rows are the institution's to move: booleans [rows]."""
    rank: int | None = None
    """Of its factors, where that is not the state's."""
    steps: int = 1
    """That the institution took."""
    control: Mapping[str, np.ndarray] = field(default_factory=dict)
    """With `training.scaffold`, by how much its control variates have changed, by array."""
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    """With `adapter.type = "adalora"`, the importance of every component, [rank] by layer."""
    counts: Mapping[str | None, float] = field(default_factory=dict)
    """What its examples of a task, or of all (None), count for where that is less: see `server.aggregation.shares`."""
    trust: Mapping[str | None, float] = field(default_factory=dict)
    """With a robust filter, from 0 to 1 for the adapter (None) and the head of every task: see `server.robust`."""


class Result(NamedTuple):
    """What a round's updates come to."""

    state: Arrays
    """The new model; arrays that nobody updated are the very same values."""
    steps: Steps
    """By layer, what the round adds to the frozen weights."""
    diagnostics: "Diagnostics"
