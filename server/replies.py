"""Checking each institution's reply on its own, before it may touch the global state."""

from collections.abc import Mapping

import numpy as np

from server.aggregation import ClientUpdate
from shared import codec
from shared.adapter import check_shapes
from shared.errors import ProtocolError, ReplyError
from shared.protocol import EvaluateReply, EvaluateRequest, QueryReply, Split, TrainReply, TrainRequest

MAX_UPDATE_NORM = 1e4
"""No honest round moves a LoRA adapter this far; a larger update is a fault or an attack."""

Records = Mapping[str, Mapping[Split, int]]
"""Records per task and split that an institution announced."""


def check_query(reply: QueryReply, *, institution: str, tasks: Mapping[str, object]) -> Records:
    """What the institution announced. Raises ReplyError if it is not who it should be, or holds unknown tasks."""
    _check_name(reply.institution, institution)
    if unknown := sorted(reply.records.keys() - tasks.keys()):
        raise ReplyError(f"Expected tasks among {sorted(tasks)}, but {institution} announced {unknown}.")
    for task, splits in reply.records.items():
        for split, count in splits.items():
            _check_count(count, f"{institution}'s {split} records of {task}", most=10**9)
    return reply.records


def check_update(
    reply: TrainReply,
    request: TrainRequest,
    *,
    institution: str,
    announced: Records,
    shapes: Mapping[str, tuple[int, ...]],
    codec_name: str,
) -> ClientUpdate:
    """The update in a reply to a TrainRequest.

    Raises:
        ReplyError: Wrong sender, round, tasks, counts, arrays, shapes, or values that are not finite or absurdly large.
    """
    _check_name(reply.institution, institution)
    _check_round(reply.round, request.round, institution)
    if set(reply.examples) != set(announced):
        raise ReplyError(
            f"Expected examples of the announced tasks {sorted(announced)}, but {institution} counts "
            f"{sorted(reply.examples)}."
        )
    for task, count in reply.examples.items():
        _check_count(count, f"{institution}'s examples of {task}", most=announced[task].get("train", 0))
    try:
        arrays = codec.decode(reply.update, codec_name)
        check_shapes(shapes, arrays, tasks=set(reply.examples))
    except ProtocolError as error:
        raise ReplyError(f"{institution}'s update: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ReplyError(f"Expected finite values, but {institution}'s update of {name} has others.")
    norm = float(np.sqrt(sum(float(np.vdot(a, a)) for a in arrays.values())))
    if norm > MAX_UPDATE_NORM:
        raise ReplyError(f"Expected an update of norm at most {MAX_UPDATE_NORM:g}, but {institution}'s is {norm:g}.")
    return ClientUpdate(institution, dict(reply.examples), arrays)


def check_scores(
    reply: EvaluateReply, request: EvaluateRequest, *, institution: str, announced: Records
) -> EvaluateReply:
    """The reply itself. Raises ReplyError for a wrong sender, round, split, counts or scores."""
    _check_name(reply.institution, institution)
    _check_round(reply.round, request.round, institution)
    if reply.split != request.split:
        raise ReplyError(f"Expected scores on {request.split}, but {institution} scored {reply.split!r}.")
    for task, count in reply.examples.items():
        if task not in announced or task not in reply.scores:
            raise ReplyError(f"Expected scores of announced tasks, but {institution} counts {task!r}.")
        _check_count(
            count, f"{institution}'s {request.split} records of {task}", most=announced[task].get(request.split, 0)
        )
    for task, scores in reply.scores.items():
        for metric, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1.0 <= value <= 1.0:
                raise ReplyError(f"Expected {metric} of {task} between -1 and 1, but {institution} sent {value!r}.")
    return reply


def _check_name(came: str, expected: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply from {expected}, but it says it is from {came!r}.")


def _check_round(came: int, expected: int, institution: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply to round {expected}, but {institution} answered round {came!r}.")


def _check_count(count: object, what: str, *, most: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= most:
        raise ReplyError(f"Expected {what} to be between 1 and the {most} announced, but {count!r} came.")
