"""How a round's updates become the new state: one file per method, plain functions on arrays, no Flower import.

Every method is `apply(state, updates, context) -> Result`; `methods.AGGREGATORS` has them by name. What is remembered
from round to round has an `init` too: the server optimizer's moments and the control variates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shared.codec import Arrays
from shared.federation import Adapter, Federation, Weighting
from shared.state import Steps


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


@dataclass(frozen=True)
class Context:
    """What a method may know of the agreement and the round."""

    weighting: Weighting = "tasks"
    """What an institution weighs: an equal say for every `tasks`, by `examples`, or `equal` holders."""
    max_share: float = 1.0
    """As `rounds.max_share`."""
    normalize_steps: bool = False
    """As `rounds.normalize_steps`."""
    momentum: float = 0.0
    """Of the institutions' SGD; 0 for AdamW."""
    adapter: Adapter = field(default_factory=Adapter)
    seed: int = 0
    """Of the federation."""
    round: int = 1
    rounds: int = 1
    """Of the whole run."""


def context_of(federation: Federation, round: int) -> Context:
    """What a method may know of one round of a federation."""
    agreed, training = federation.rounds, federation.training
    return Context(
        weighting=agreed.weighting,
        max_share=agreed.max_share,
        normalize_steps=agreed.normalize_steps,
        momentum=training.momentum if training.optimizer == "sgd" else 0.0,
        adapter=federation.adapter,
        seed=federation.seed,
        round=round,
        rounds=agreed.count,
    )


@dataclass(frozen=True)
class Cut:
    """A count that was above its share."""

    institution: str
    task: str
    told: int
    """By the institution."""
    used: float
    """Instead of it."""


@dataclass(frozen=True)
class Diagnostics:
    """What went into a round's average."""

    examples: Mapping[str, Mapping[str, int]]
    """Per institution and task."""
    norms: Mapping[str, float]
    """Euclidean norm of each institution's update."""
    weights: Mapping[str, float]
    """Each institution's weight in the adapter; they sum to one."""
    norm: float
    """Euclidean norm of the step that the global state takes."""
    cuts: Sequence[Cut] = ()
    """Counts that were above their share."""


class Result(NamedTuple):
    """What a round's updates come to."""

    state: Arrays
    """The new model; arrays that nobody updated are the very same values."""
    steps: Steps
    """By layer, what the round adds to the frozen weights, the scale of the adapter included."""
    diagnostics: Diagnostics
