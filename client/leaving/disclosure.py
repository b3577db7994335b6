"""The numbers in a reply, reduced to what the site's policy shares. Everything that leaves passes here once."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from client.policy import Owners, Policy, offered
from shared.fields import Split
from shared.protocol import EvaluateReply, QueryReply, TrainReply

K = TypeVar("K")
Scores = Mapping[str, Mapping[str, float]]
"""By task and metric."""


def disclose_query(policy: Policy, reply: QueryReply, owners: Owners) -> QueryReply:
    """A query's reply with no more in it than the policy shares."""
    shown = offered(policy, owners)
    records = {
        task: _records(policy, {split: n for split, n in splits.items() if split in shown[task]})
        for task, splits in reply.records.items()
    }
    labels = {task: _counts(policy, counts) for task, counts in reply.labels.items()}
    return replace(
        reply, records=records, labels=labels, readiness=_readiness(policy, reply.readiness), counts=policy.counts
    )


def disclose_training(policy: Policy, reply: TrainReply, *, private: bool) -> TrainReply:
    """An update's reply with no more beside the update than the policy shares.

    Args:
        policy: The site's.
        reply: As trained.
        private: Under [privacy] no loss leaves: it is a number of the training records that no noise protects.
    """
    steps = _counts(policy, {"steps": reply.steps})["steps"]  # as many as the records need
    silent = private or policy.metrics in ("private", "none")
    losses = {} if silent else {task: _metric(policy, loss) for task, loss in reply.losses.items()}
    return replace(reply, examples=_counts(policy, reply.examples), losses=losses, steps=steps)


def disclose_evaluation(policy: Policy, reply: EvaluateReply, owners: Owners) -> EvaluateReply:
    """Scores, and how many records they rest on, with no more in it than the policy shares.

    Nothing is reported of a split that may not be announced (`client.policy.offered`).
    """
    shown = offered(policy, owners)
    examples = {task: count for task, count in reply.examples.items() if reply.split in shown[task]}
    scores = disclose_scores(policy, {task: reply.scores[task] for task in examples})
    counts = dict.fromkeys(examples, 1) if policy.metrics == "private" else _counts(policy, examples)
    return replace(reply, examples=counts, scores=scores)


def disclose_scores(policy: Policy, scores: Scores) -> dict[str, dict[str, float]]:
    """The scores as they leave: there is no other way out for them.

    A score that is not a number is sent as 0, so that the form of a reply does not depend on the records.
    """
    return {
        task: {name: _metric(policy, value if math.isfinite(value) else 0.0) for name, value in values.items()}
        for task, values in scores.items()
    }


def two_digits(number: float) -> float:
    """To two significant digits from 1 on, else to two decimals; a count above 0 stays above 0."""
    size = abs(number)
    return round(number, 1 - math.floor(math.log10(size)) if size >= 1 else 2)


def _counts(policy: Policy, counts: Mapping[K, int]) -> dict[K, int]:
    if policy.counts == "none":
        return dict.fromkeys(counts, 1)
    return dict(counts) if policy.counts == "exact" else {key: int(two_digits(n)) for key, n in counts.items()}


def _records(policy: Policy, counts: Mapping[Split, int]) -> dict[Split, int]:
    """Records per split; where scores are private, the numbers behind them are not sent."""
    shared = _counts(policy, counts)
    return {split: 1 if policy.metrics == "private" and split != "train" else n for split, n in shared.items()}


def _readiness(policy: Policy, readiness: Mapping[str, Mapping[str, float]]) -> Mapping[str, Mapping[str, float]]:
    if policy.counts == "none":
        return {}
    if policy.counts == "exact":
        return readiness
    return {task: {name: two_digits(x) for name, x in numbers.items()} for task, numbers in readiness.items()}


def _metric(policy: Policy, value: float) -> float:
    return round(value, 2) if policy.metrics == "rounded" else value
