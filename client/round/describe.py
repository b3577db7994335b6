"""What an institution reports before a run: records and labels with their counts, numbers about its texts."""

from collections import Counter
from importlib.metadata import version

from client.learner import Learner
from shared.model.lora import rank_of
from shared.protocol import QueryReply


def describe(learner: Learner) -> QueryReply:
    """The answer to a query, of which a policy may leave parts out (`client.leaving.disclosure`)."""
    return QueryReply(
        institution=learner.name,
        records={
            task: {split: len(data.records) for split, data in splits.items()} for task, splits in learner.data.items()
        },
        software=version("collegium"),
        rank=rank_of(learner.model.encoder),
        base=learner.model.base.version,
        labels=count_labels(learner),
        readiness=learner.holdings.readiness,
    )


def count_labels(learner: Learner) -> dict[str, dict[str, int]]:
    """Per task with labels, how many training records bear each of those that the institution annotates."""
    counts = {}
    for name in learner.data:
        task = learner.model.tasks[name]
        if task.labels:
            records = learner.records(name, "train")
            borne = Counter(label for record in records for label in set(task.labels_of(record)))
            counts[name] = {label: borne[label] for label in learner.annotated(name) or task.labels}
    return counts
