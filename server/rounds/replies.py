"""Checking each institution's reply on its own, before it may touch the global state.

What a field may hold at all is checked where a message is read (`shared.fields`); what is left to check here is whether
the reply is one to what was asked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from server.aggregation import ClientUpdate
from server.aggregation.mixed_ranks import narrow_shapes
from shared import codec
from shared.adapter import check_shapes, of_tasks
from shared.codec import Coding, Shapes
from shared.errors import ProtocolError, ReplyError, listed
from shared.fields import MOST_RECORDS, Counts, Split
from shared.model.allocation import Ranks, fill, update_shapes
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryReply,
    SecureReply,
    SecureRequest,
    TrainedReply,
    TrainReply,
    TrainRequest,
)
from shared.rows import row_masks
from shared.state import Update, pack_update, unpack_update
from shared.tasks import Task

MAX_UPDATE_NORM = 1e4
"""No honest round moves a LoRA adapter this far; a larger update is a fault or an attack."""
MAX_STEPS = 10**6
"""No institution takes more steps in a round; with `rounds.normalize_steps` they weigh."""
MAX_IMPORTANCE = 1.05
"""Shares of importance add up to 1, up to the precision they are sent in."""
Sent = TrainReply | TrainedReply | EvaluateReply | SecureReply
Asked = TrainRequest | EvaluateRequest | SecureRequest
Records = Mapping[str, Mapping[Split, int]]
"""Records per task and split that an institution announced."""


@dataclass(frozen=True)
class Holdings:
    """What an institution announced that it holds, checked."""

    records: Records
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per task, training records of every label that the institution annotates; tasks without labels are left out."""
    readiness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    counts: Counts = "exact"
    """What the counts are; with `none` every one of them is 1 and says nothing."""
    rank: int | None = None
    """Of its adapter; the federation's if None."""


def check_query(reply: QueryReply, *, institution: str, tasks: Mapping[str, Task], ranks: range) -> Holdings:
    """What the institution announced, without empty splits.

    Raises:
        ReplyError: It is not who it should be, holds unknown tasks or labels, nothing to train on, absurdly many
            records, or an adapter of a rank that the federation does not allow.
    """
    _check_name(reply.institution, institution)
    if reply.rank is not None and reply.rank not in ranks:
        raise ReplyError(
            f"Expected an adapter of a rank from {ranks.start} to {ranks.stop - 1}, but {institution}'s is "
            f"{reply.rank}; give it another adapter.rank in its institution.toml."
        )
    if unknown := sorted(reply.records.keys() - tasks.keys()):
        raise ReplyError(
            f"Expected tasks among {listed(sorted(tasks))}, but {institution} announced {listed(unknown)}."
        )
    if not reply.records:
        raise ReplyError(f"Expected records of some task, but {institution} announced none.")
    for task, splits in reply.records.items():
        _check_count(splits.get("train", 0), f"{institution}'s train records of {task}", most=MOST_RECORDS)
    for task, counts in reply.labels.items():
        known = set(tasks[task].labels) if task in reply.records else set()
        if unknown := sorted(counts.keys() - known):
            raise ReplyError(
                f"Expected labels of {task} among {listed(sorted(known))}, "
                f"but {institution} announced {listed(unknown)}."
            )
    records = {task: {split: n for split, n in splits.items() if n} for task, splits in reply.records.items()}
    return Holdings(records, reply.labels, reply.readiness, reply.counts, reply.rank)


def check_sender(came: Sent, request: Asked, *, institution: str) -> None:
    """Raise ReplyError if a reply is another institution's, or to another round."""
    _check_name(came.institution, institution)
    _check_round(came.round, request.round, institution)


def check_counts(
    reply: TrainReply | TrainedReply, request: TrainRequest, *, institution: str, announced: Holdings
) -> None:
    """Raise ReplyError unless the right sender counts examples of the tasks that it announced, and no more of them."""
    check_sender(reply, request, institution=institution)
    if set(reply.examples) != set(announced.records):
        raise ReplyError(
            f"Expected examples of the announced tasks {listed(sorted(announced.records))}, but {institution} counts "
            f"{listed(sorted(reply.examples))}."
        )
    for task, count in reply.examples.items():
        _check_count(count, f"{institution}'s examples of {task}", most=announced.records[task]["train"])


def check_update(
    reply: TrainReply,
    request: TrainRequest,
    *,
    institution: str,
    announced: Holdings,
    tasks: Mapping[str, Task],
    shapes: Shapes,
    coding: Coding,
    scaffold: bool = False,
    ranks: Ranks | None = None,
) -> ClientUpdate:
    """The update in a reply to a TrainRequest.

    Args:
        reply: The reply.
        request: What it answers.
        institution: Who was asked.
        announced: What it holds.
        tasks: The federation's.
        shapes: Of the arrays that institutions send, at the state's rank.
        coding: See `shared.codec`.
        scaffold: Whether changes of control variates come with them.
        ranks: With `adapter.type = "adalora"`, what the layers had left as they were sent.

    Raises:
        ReplyError: Wrong sender, round, tasks, counts, steps, arrays, shapes, or values that are not finite or absurdly
            large.
    """
    check_counts(reply, request, institution=institution, announced=announced)
    try:
        own = narrow_shapes(of_tasks(shapes, set(reply.examples)), announced.rank)
        expected = Update(own, own if scaffold else {}) if ranks is None else update_shapes(own, ranks)
        arrays = codec.decode(reply.update, coding, pack_update(expected))
        check_shapes(pack_update(expected), arrays)
    except ProtocolError as error:
        raise ReplyError(f"{institution}'s update: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ReplyError(f"Expected finite values, but {institution}'s update of {name} has others.")
    norm = math.sqrt(sum(float(np.vdot(a, a)) for a in arrays.values()))
    if norm > MAX_UPDATE_NORM:
        raise ReplyError(f"Expected an update of norm at most {MAX_UPDATE_NORM:g}, but {institution}'s is {norm:g}.")
    _check_count(reply.steps, f"{institution}'s steps", least=1 if norm else 0, most=MAX_STEPS)
    rows = row_masks({task: tasks[task].outputs() for task in reply.examples}, announced.labels)
    update = unpack_update(arrays)
    _check_importance(update.importance, institution)
    return ClientUpdate(
        institution,
        dict(reply.examples),
        dict(update.model) if ranks is None else fill(update.model, shapes),
        rows,
        announced.rank,
        reply.steps,
        update.control,
        update.importance,
    )


def check_scores(
    reply: EvaluateReply,
    request: EvaluateRequest,
    *,
    institution: str,
    announced: Holdings,
    metrics: Mapping[str, str],
) -> EvaluateReply:
    """The reply itself, once it is known to hold every task's primary metric.

    Raises:
        ReplyError: Wrong sender, round, split, tasks or counts; a primary metric that is absent or not in [-1, 1].
    """
    check_sender(reply, request, institution=institution)
    if reply.split != request.split:
        raise ReplyError(f"Expected scores on {request.split}, but {institution} scored {reply.split}.")
    records = {task: splits[request.split] for task, splits in announced.records.items() if request.split in splits}
    if not set(records) == set(reply.examples) == set(reply.scores):
        raise ReplyError(
            f"Expected {request.split} scores and counts of exactly {listed(sorted(records))}, but {institution} sent "
            f"scores of {listed(sorted(reply.scores))} and counts of {listed(sorted(reply.examples))}."
        )
    for task, most in records.items():
        _check_count(reply.examples[task], f"{institution}'s {request.split} records of {task}", most=most)
        _check_metrics(reply.scores[task], metrics[task], f"{institution}'s {task}")
    return reply


def _check_importance(shares: Mapping[str, np.ndarray], institution: str) -> None:
    lowest = min((float(array.min(initial=0)) for array in shares.values()), default=0.0)
    total = sum(float(array.sum()) for array in shares.values())
    if lowest < 0 or total > MAX_IMPORTANCE:
        raise ReplyError(
            f"Expected shares of importance, none negative and together at most 1, but {institution}'s lowest is "
            f"{lowest:g} and they add up to {total:g}."
        )


def _check_metrics(scores: Mapping[str, float], primary: str, whose: str) -> None:
    if not -1.0 <= scores.get(primary, math.nan) <= 1.0:
        raise ReplyError(f"Expected {primary} of {whose} between -1 and 1, but {scores.get(primary)} came.")


def _check_name(came: str, expected: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply from {expected}, but it says it is from {came!r}.")


def _check_round(came: int, expected: int, institution: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply to round {expected}, but {institution} answered round {came}.")


def _check_count(count: int, what: str, *, most: int, least: int = 1) -> None:
    if not least <= count <= most:
        raise ReplyError(f"Expected {what} to be between {least} and {most}, but {count} came.")
