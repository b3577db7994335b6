"""The gate: the one way from arrays to bytes that leave, and the record of everything that does.

An update passes if the bytes themselves, decoded again, hold exactly the arrays that the federation declares for the
site's tasks, finite, and within the caps of the site's policy.
"""

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from client.hashchain import Head
from client.leaving.receipts import Release
from client.policy import Policy
from shared import codec
from shared.adapter import check_shapes, of_tasks
from shared.codec import Coding
from shared.errors import PolicyError, ProtocolError
from shared.federation import Federation
from shared.protocol import (
    ConfirmReply,
    EvaluateReply,
    MaskReply,
    OpenReply,
    QueryReply,
    Refusal,
    Reply,
    SharesReply,
    TrainedReply,
    TrainReply,
    UnmaskReply,
    blobs_of,
    body_of,
)
from shared.state import Update, pack_update, unpack_update

KINDS: dict[type[Reply], str] = {
    QueryReply: "query",
    TrainReply: "train",
    TrainedReply: "trained",
    SharesReply: "shares",
    OpenReply: "opened",
    MaskReply: "masked",
    ConfirmReply: "confirm",
    UnmaskReply: "unmask",
    EvaluateReply: "evaluate",
    Refusal: "refusal",
}
"""What a receipt calls each reply."""


@dataclass(frozen=True)
class Parcel:
    """An update that may leave."""

    blob: bytes
    norm: float
    """Euclidean, over all arrays as they leave."""
    update: Update[np.ndarray]
    """What the coordinator decodes."""


def pack(
    update: Update[np.ndarray],
    *,
    shapes: Update[tuple[int, ...]],
    tasks: Collection[str],
    coding: Coding,
    policy: Policy,
    rng: np.random.Generator | None = None,
) -> Parcel:
    """Encode an update, if it may leave.

    Args:
        update: Of float32 arrays.
        shapes: Of all arrays that the federation declares.
        tasks: Whose heads belong into the update, besides the adapter.
        coding: See `shared.codec`.
        policy: The site's.
        rng: As `shared.codec.encode`.

    Raises:
        PolicyError: An array is missing, is not declared, has another shape or dtype, or holds a value that is not
            finite as encoded; or the update is longer or larger than the policy allows.
    """
    arrays = pack_update(update)
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise PolicyError(f"The gate lets float32 arrays out only, but {name} is {array.dtype}.")
    declared = pack_update(Update(of_tasks(shapes.model, tasks), of_tasks(shapes.control, tasks), shapes.importance))
    try:
        check_shapes(declared, arrays)
        blob = codec.encode(arrays, coding, rng)
        leaving = codec.decode(blob, coding, declared)
        check_shapes(declared, leaving)
    except ProtocolError as error:
        raise PolicyError(f"The gate lets exactly the declared arrays out: {error}") from None
    for name, array in leaving.items():
        if not np.isfinite(array).all():
            raise PolicyError(f"The gate lets finite values out only, but {name}, as {coding.codec}, has others.")
    check_size(blob, policy)
    norm = math.sqrt(sum(float(np.vdot(array, array)) for array in leaving.values()))
    if policy.max_norm is not None and norm > policy.max_norm:
        raise PolicyError(
            f"This site sends updates of norm at most {policy.max_norm:g} (policy.max_norm), but this one has "
            f"{norm:g}; agree on a lower learning rate or fewer epochs per round."
        )
    return Parcel(blob, norm, unpack_update(leaving))


def check_size(blob: bytes, policy: Policy) -> None:
    """Raise PolicyError if an update, as it is sent, is larger than the policy allows."""
    if policy.max_upload_bytes is not None and len(blob) > policy.max_upload_bytes:
        raise PolicyError(
            f"This site sends updates of at most {policy.max_upload_bytes} bytes (policy.max_upload_bytes), but this "
            f"one has {len(blob)}; agree on a smaller adapter.rank or another wire.up."
        )


def describe(
    reply: Reply,
    *,
    federation: Federation | None,
    run: str | None = None,
    norm: float | None = None,
    evaluations: int | None = None,
) -> Release:
    """What a receipt says of a reply (`receipts.Release`). Of a site that cannot be opened none is known."""
    body = body_of(reply)
    (content,) = blobs_of(reply).values() or (body.encode(),)
    fields = json.loads(body)
    number, _, digest = (fields.get("ledger") or "").partition(":")
    return Release(
        kind=KINDS[type(reply)],
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        norm=norm,
        body=body,
        federation=federation.digest if federation else "",
        run=run,
        round=fields.get("round"),
        tasks=tuple(sorted(fields.get("examples") or fields.get("records") or ())),
        epsilon=fields.get("epsilon"),
        ledger=Head(int(number), digest) if number else None,
        evaluations=evaluations,
    )


def describe_error(reason: str, *, federation: Federation, run: str | None) -> Release:
    """What a receipt says of an error that leaves in place of a reply."""
    body = json.dumps({"error": reason})
    return Release(
        kind="error",
        sha256=hashlib.sha256(body.encode()).hexdigest(),
        bytes=len(body),
        norm=None,
        body=body,
        federation=federation.digest,
        run=run,
        round=None,
        tasks=(),
        epsilon=None,
        ledger=None,
        evaluations=None,
    )
