"""What coordinator and institutions say to each other: frozen dataclasses and their Flower encoding, versioned.

Three requests (query, train, evaluate), one reply each, and `Refusal`, which may answer any of them. The structured
part travels as JSON in one ConfigRecord; arrays travel as one blob (see `shared.codec`) in one ArrayRecord, because
Flower transfers every array of a record by requests of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared.errors import ProtocolError

PROTOCOL_VERSION = 1
T = TypeVar("T")
Split = Literal["train", "validation", "test"]
Counts = Literal["exact", "rounded", "none"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class QueryRequest:
    """Who are you, and what do you hold?"""

    spec_digest: str


@dataclass(frozen=True, kw_only=True)
class QueryReply:
    """What an institution holds: records per task and split, and what it says of their quality."""

    institution: str
    records: Mapping[str, Mapping[Split, int]]
    software: str
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per task that has labels, those that the institution annotates, and how many training records bear each."""
    readiness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers of the text readiness report, per task; see `client.data.readiness`."""
    counts: Counts = "exact"
    """What all counts of this institution's replies are: `exact`, `rounded` to two digits, or `none`: each is 1."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train from this global state; `state` is a codec blob. Rounds count from 1."""

    spec_digest: str
    round: int
    rounds: int
    state: bytes


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """The update (new minus received state, as a codec blob) of the adapter and of the heads that the site holds."""

    institution: str
    round: int
    examples: Mapping[str, int]
    """Training records per task."""
    losses: Mapping[str, float]
    """Mean training loss per task over the round's last epoch."""
    steps: int
    seconds: float
    update: bytes


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Score this global state on one split."""

    spec_digest: str
    round: int
    split: Split
    state: bytes


@dataclass(frozen=True, kw_only=True)
class EvaluateReply:
    """Scores per task and metric, and the number of records that each rests on."""

    institution: str
    round: int
    split: Split
    examples: Mapping[str, int]
    scores: Mapping[str, Mapping[str, float]]
    seconds: float


RefusalKind = Literal["agreement", "data", "request", "failure", "policy", "budget", "held"]
"""`policy`: a rule of the site's own; `budget`: its privacy budget; `held`: its operator did not release the update."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The institution declines, and says in one sentence why."""

    institution: str
    kind: RefusalKind
    reason: str


Request = QueryRequest | TrainRequest | EvaluateRequest
Reply = QueryReply | TrainReply | EvaluateReply | Refusal
REPLIES: tuple[type[Reply], ...] = (QueryReply, TrainReply, EvaluateReply, Refusal)
MESSAGES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (QueryRequest, QueryReply, TrainRequest, TrainReply, EvaluateRequest, EvaluateReply, Refusal)
}
MESSAGE_TYPES: dict[type[Any], str] = {QueryRequest: "query", TrainRequest: "train", EvaluateRequest: "evaluate"}
"""Flower's message type for each request."""


def blobs_of(message: Request | Reply) -> dict[str, bytes]:
    """What a message carries besides its body."""
    return {f.name: getattr(message, f.name) for f in fields(message) if f.type is bytes}


def body_of(message: Request | Reply) -> str:
    """All of a message but its blobs, as the JSON that travels."""
    blobs = blobs_of(message)
    return json.dumps({key: value for key, value in asdict(message).items() if key not in blobs}, sort_keys=True)


def encode(message: Request | Reply) -> RecordDict:
    """Turn a message into Flower records: `header` (JSON) and, if it carries arrays, `arrays` (one blob)."""
    header = ConfigRecord({"version": PROTOCOL_VERSION, "kind": type(message).__name__, "body": body_of(message)})
    blobs = blobs_of(message)
    records = RecordDict({"header": header})
    if blobs:
        arrays = {name: Array(np.frombuffer(blob, dtype=np.uint8)) for name, blob in blobs.items()}
        records["arrays"] = ArrayRecord(arrays)
    return records


def decode(records: RecordDict, *expected: type[T]) -> T:
    """Read one of the `expected` messages; ProtocolError if it is another, another version, or malformed."""
    try:
        header = records.config_records["header"]
        if header["version"] != PROTOCOL_VERSION:
            raise ProtocolError(
                f"Expected protocol version {PROTOCOL_VERSION}, but the message is version {header['version']!r}; "
                "install the same Collegium release on both sides."
            )
        kind = MESSAGES[str(header["kind"])]
        body = json.loads(str(header["body"]))
        for name in (f.name for f in fields(kind) if f.type is bytes):
            body[name] = records.array_records["arrays"][name].numpy().tobytes()
        message = kind(**body)
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"Expected a Collegium message, but it is malformed ({type(error).__name__}).") from error
    if not isinstance(message, expected):
        names = " or ".join(item.__name__ for item in expected)
        raise ProtocolError(f"Expected {names}, but {kind.__name__} came.")
    return message
