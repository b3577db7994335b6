"""Checking each institution's reply on its own, before it may touch the global state."""

import math
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from server.aggregation import ClientUpdate
from shared import codec
from shared.adapter import check_shapes
from shared.errors import ProtocolError, ReplyError
from shared.protocol import REPLIES, EvaluateReply, EvaluateRequest, QueryReply, Reply, Split, TrainReply, TrainRequest

MAX_UPDATE_NORM = 1e4
"""No honest round moves a LoRA adapter this far; a larger update is a fault or an attack."""
MAX_RECORDS = 10**9
"""No institution holds more records of one task; a larger count would take the whole weight."""
METRIC = re.compile(r"[a-zA-Z][\w@.-]{0,31}", re.ASCII)
MAX_METRICS = 64
"""Per task."""

FIELDS: dict[type[Any], dict[str, TypeAdapter[Any]]] = {
    kind: {name: TypeAdapter(hint) for name, hint in get_type_hints(kind).items()} for kind in REPLIES
}
"""The declared type of every field of every reply."""
Records = Mapping[str, Mapping[Split, int]]
"""Records per task and split that an institution announced."""


def check_types(reply: Reply) -> None:
    """Raise ReplyError unless every field has its declared type; JSON from outside may hold anything."""
    kind = type(reply)
    for name, adapter in FIELDS[kind].items():
        try:
            adapter.validate_python(getattr(reply, name), strict=True)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise ReplyError(f"Expected a well-formed {kind.__name__}, but in {name}: {what}.") from None


def check_query(reply: QueryReply, *, institution: str, tasks: Mapping[str, object]) -> Records:
    """What the institution announced, without empty splits.

    Raises:
        ReplyError: It is not who it should be, holds unknown tasks, nothing to train on, or absurdly many records.
    """
    _check_name(reply.institution, institution)
    if unknown := sorted(reply.records.keys() - tasks.keys()):
        raise ReplyError(f"Expected tasks among {sorted(tasks)}, but {institution} announced {unknown}.")
    if not reply.records:
        raise ReplyError(f"Expected records of some task, but {institution} announced none.")
    for task, splits in reply.records.items():
        _check_count(splits.get("train", 0), f"{institution}'s train records of {task}", most=MAX_RECORDS)
        for split, count in splits.items():
            _check_count(count, f"{institution}'s {split} records of {task}", least=0, most=MAX_RECORDS)
    return {task: {split: n for split, n in splits.items() if n} for task, splits in reply.records.items()}


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
        _check_count(count, f"{institution}'s examples of {task}", most=announced[task]["train"])
    try:
        arrays = codec.decode(reply.update, codec_name)
        check_shapes(shapes, arrays, tasks=set(reply.examples))
    except ProtocolError as error:
        raise ReplyError(f"{institution}'s update: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ReplyError(f"Expected finite values, but {institution}'s update of {name} has others.")
    norm = math.sqrt(sum(float(np.vdot(a, a)) for a in arrays.values()))
    if norm > MAX_UPDATE_NORM:
        raise ReplyError(f"Expected an update of norm at most {MAX_UPDATE_NORM:g}, but {institution}'s is {norm:g}.")
    return ClientUpdate(institution, dict(reply.examples), arrays)


def check_scores(
    reply: EvaluateReply,
    request: EvaluateRequest,
    *,
    institution: str,
    announced: Records,
    metrics: Mapping[str, str],
) -> EvaluateReply:
    """The reply itself, once it is known to hold every task's primary metric.

    Raises:
        ReplyError: Wrong sender, round, split, tasks or counts; a primary metric that is absent or not in [0, 1]; any
            other that is not finite.
    """
    _check_name(reply.institution, institution)
    _check_round(reply.round, request.round, institution)
    if reply.split != request.split:
        raise ReplyError(f"Expected scores on {request.split}, but {institution} scored {reply.split}.")
    held = {task: splits[request.split] for task, splits in announced.items() if request.split in splits}
    if not set(held) == set(reply.examples) == set(reply.scores):
        raise ReplyError(
            f"Expected {request.split} scores and counts of exactly {sorted(held)}, but {institution} sent scores of "
            f"{sorted(reply.scores)} and counts of {sorted(reply.examples)}."
        )
    for task, most in held.items():
        _check_count(reply.examples[task], f"{institution}'s {request.split} records of {task}", most=most)
        _check_metrics(reply.scores[task], metrics[task], f"{institution}'s {task}")
    return reply


def _check_metrics(scores: Mapping[str, float], primary: str, whose: str) -> None:
    if not 0.0 <= scores.get(primary, math.nan) <= 1.0:
        raise ReplyError(f"Expected {primary} of {whose} between 0 and 1, but {scores.get(primary)} came.")
    if len(scores) > MAX_METRICS or not all(METRIC.fullmatch(name) for name in scores):
        raise ReplyError(f"Expected at most {MAX_METRICS} metrics with plain names, but {whose} has others.")
    for name, value in scores.items():
        if not math.isfinite(value):
            raise ReplyError(f"Expected a finite {name}, but {whose} has {value}.")


def _check_name(came: str, expected: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply from {expected}, but it says it is from {came!r}.")


def _check_round(came: int, expected: int, institution: str) -> None:
    if came != expected:
        raise ReplyError(f"Expected a reply to round {expected}, but {institution} answered round {came}.")


def _check_count(count: int, what: str, *, most: int, least: int = 1) -> None:
    if not least <= count <= most:
        raise ReplyError(f"Expected {what} to be between {least} and {most}, but {count} came.")
