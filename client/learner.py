"""What an institution learns with: the agreement, its records, the warm model, and what it remembers between messages.

The modules of `client.round` work on it; how their answers leave is the business of `client.site`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.data.augmentation import Rewording
from client.data.loading import TaskData, mark_known
from client.policy import Owners, Policy
from client.privacy.account import Account
from client.privacy.evaluation import Evaluations
from client.privacy.randomness import Chance
from client.round.keep import Keep
from client.round.requests import Asked
from client.train.gradients import Passing
from shared.adapter import is_received, is_sent, tensors
from shared.codec import Arrays, Shapes
from shared.federation import Federation
from shared.fields import Split
from shared.model.balancing import State
from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Record


@dataclass(frozen=True)
class Holdings:
    """The records of an institution, and what is known about them."""

    data: Mapping[str, Mapping[Split, TaskData]]
    """By task."""
    rewordings: Mapping[str, Rewording] = field(default_factory=dict)
    """How training texts are augmented, for the tasks where they are."""
    readiness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers about the texts of each task, for the coordinator's query."""
    owners: Owners = field(default_factory=dict)
    """How many owners each split has."""


@dataclass(frozen=True)
class Memory:
    """What stays from round to round."""

    keep: Keep = field(default_factory=Keep)
    """Arrays that are never sent."""
    asked: Asked = field(default_factory=Asked)
    """What the coordinator has asked, run by run."""
    balances: dict[int, State] = field(default_factory=dict)
    """What `training.combine` goes on from, after each round trained here."""
    place: Path | None = None
    """The file of its place within a round; None in the simulator."""
    initial: Arrays = field(default_factory=dict)
    """Where what stays at home begins (`Method.keeps`)."""


@dataclass(frozen=True)
class Learner:
    """An institution that can describe, train and score."""

    name: str
    federation: Federation
    model: MultiTaskModel
    holdings: Holdings
    memory: Memory = field(default_factory=Memory)
    policy: Policy = field(default_factory=Policy)
    account: Account | None = None
    """What private training costs; None where the federation has no [privacy]."""
    evaluations: Evaluations | None = None
    """What private scores cost; None where scores are not private."""
    passing: Passing | None = None
    """How rows pass through the model in training: by themselves if None, in the simulator maybe with other sites'."""

    @property
    def data(self) -> Mapping[str, Mapping[Split, TaskData]]:
        """The records of every task."""
        return self.holdings.data

    def records(self, task: str, split: Split) -> Sequence[Record]:
        """The records of one task."""
        return self._split(task, split).records

    def examples(self, split: Split) -> list[Example]:
        """The encoded examples of every task, in a fixed order."""
        return [example for task in sorted(self.data) for example in self._split(task, split).examples]

    @property
    def augment(self) -> Callable[[Chance], list[Example]] | None:
        """Draws the training examples of one epoch; None where no task has an augmentation."""
        return self.draw_examples if self.holdings.rewordings else None

    def draw_examples(self, chance: Chance) -> list[Example]:
        """The training examples of one epoch; where a task has an augmentation, each is reworded by its own chance."""
        examples = []
        for task in sorted(self.data):
            if task in self.holdings.rewordings:
                reword, records = self.holdings.rewordings[task], self.records(task, "train")
                reworded = [reword(record, chance(task, number)) for number, record in enumerate(records)]
                length = self.federation.backbone.max_length
                encoded = self.model.tasks[task].encode(reworded, self.model.tokenizer, length)
                known = mark_known(encoded, self.model.tasks[task], self.annotated(task))
                examples += [replace(example, varies=True) for example in known]
            else:
                examples += self._split(task, "train").examples
        return examples

    def annotated(self, task: str) -> tuple[str, ...] | None:
        """The labels of a task that the institution annotates; None if all."""
        return self._split(task, "train").annotates

    def shapes_sent(self, round: int) -> Shapes:
        """Of what institutions send of the model in a round, with the heads of all tasks."""
        return self._shapes(lambda name: is_sent(name, self.federation.method, round))

    def shapes_received(self) -> Shapes:
        """Of the arrays that institutions receive before every round, with the heads of all tasks."""
        return self._shapes(lambda name: is_received(name, self.federation.method))

    def _shapes(self, wanted: Callable[[str], bool]) -> Shapes:
        return {name: tuple(parameter.shape) for name, parameter in tensors(self.model).items() if wanted(name)}

    def _split(self, task: str, split: Split) -> TaskData:
        return self.data[task].get(split, TaskData((), ()))
