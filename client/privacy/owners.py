"""Whose each training record is, and whom the steps of a private training draw; what protects them is in `dpsgd`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from client.privacy.randomness import Chance, Secret, Stream
from shared.federation import Privacy, Training
from shared.tasks import Example

Owner = str
Key = tuple[str, int]
"""Task, and index of a record in its training split."""


@dataclass(frozen=True)
class Private:
    """What private training needs beside the federation's hyperparameters."""

    privacy: Privacy
    noise_multiplier: float
    """Standard deviation of the noise, in units of an owner's largest contribution."""
    owners: Mapping[Key, Owner] = field(repr=False)
    """Whose each training record is."""
    secret: Secret = field(default_factory=Secret, repr=False)
    """Of one training: what the random choices of each record come from."""

    def chance(self, *when: str | int) -> Chance:
        """The random numbers of each record, at this point of the training.

        They are the record's own: they depend on its owner and on its place among the owner's records of the task, and
        on nothing that anybody else brings.
        """

        @cache
        def draw(task: str, record: int) -> np.random.Generator:
            return self.secret.generator(*when, task, *self._places[task, record])

        return draw

    @cached_property
    def _places(self) -> dict[Key, tuple[Owner, int]]:
        """Of every record, its owner and how many of the owner's records of the task stand before it."""
        before = Counter[tuple[str, Owner]]()
        places = {}
        for (task, record), owner in sorted(self.owners.items()):
            places[task, record] = owner, before[task, owner]
            before[task, owner] += 1
        return places

    @property
    def expected_owners(self) -> float:
        """Owners of a step on average: what its sum is divided by, whoever was drawn."""
        return self.privacy.sampling_rate * len(set(self.owners.values()))


def steps_per_round(privacy: Privacy, training: Training) -> int:
    """Steps of a round: as many as show every owner `epochs_per_round` times on average; at least one if any."""
    if training.epochs_per_round == 0:
        return 0
    return max(1, round(training.epochs_per_round / privacy.sampling_rate))


def poisson_batches(
    examples: Sequence[Example], private: Private, steps: int, stream: Stream | None = None
) -> list[list[Example]]:
    """The examples of each step: those of every owner that the step's coin picked. Some may be empty.

    Args:
        examples: Encoded training records.
        private: Whose they are, and how often each owner is drawn.
        steps: How many.
        stream: Of the coins; only for tests, by default one of its own.
    """
    stream = stream or Stream()
    groups = by_owner(examples, private.owners)
    return [
        [
            example
            for group, coin in zip(groups, stream.uniform(len(groups)), strict=True)
            if coin < private.privacy.sampling_rate
            for example in group
        ]
        for _ in range(steps)
    ]


def by_owner(examples: Sequence[Example], owners: Mapping[Key, Owner]) -> list[list[Example]]:
    """The examples of each owner of any, owners in the order in which they come."""
    groups: dict[Owner, list[Example]] = {}
    for example in examples:
        groups.setdefault(owners[example.task, example.record], []).append(example)
    return list(groups.values())
