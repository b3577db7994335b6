"""What coordinator and institutions say to each other: frozen dataclasses and their Flower encoding, versioned.

Three requests (query, train, evaluate), one reply each, and `Refusal`, which may answer any of them; three more pairs
for secure aggregation (`shared.secagg`), under which a train request gets a `TrainedReply`. The structured part of a
message travels as JSON in one ConfigRecord; arrays travel as one blob (see `shared.codec`) in one ArrayRecord, because
Flower transfers every array of a record by requests of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

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
    rank: int | None = None
    """Of its adapter; the federation's if None."""
    base: str = ""
    """The version of its frozen weights, where rounds move them; see `shared.lora.Base`."""
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per task that has labels, those that the institution annotates, and how many training records bear each."""
    readiness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers of the text readiness report, per task; see `client.data.readiness`."""
    counts: Counts = "exact"
    """What all counts of this institution's replies are: `exact`, `rounded` to two digits, or `none`: each is 1."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train from this global state; `state` is a codec blob. Rounds count from 1.

    `base` holds what the frozen weights must be moved by first, from version `base_since` to `base_version`.
    """

    spec_digest: str
    run: str
    round: int
    rounds: int
    state: bytes
    base: bytes = b""
    base_since: str = ""
    base_version: str = ""
    ledger: str | None = None
    """`NUMBER:SHA-256` of the last entry of the institution's privacy ledger as the coordinator remembers it."""
    taken: int = 0
    """With `training.scaffold`: the last round whose update of the institution was taken; 0 if none was."""


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
    epsilon: float | None = None
    """What the institution's data have spent so far, at the federation's delta; None without [privacy]."""
    ledger: str | None = None
    """`NUMBER:SHA-256` of the last entry of its privacy ledger, to be remembered outside it."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Score this global state on one split; `base` as in `TrainRequest`."""

    spec_digest: str
    run: str
    round: int
    split: Split
    state: bytes
    released: bool = False
    """The round is the one to be released: score the institution's own model of it, and keep that model."""
    base: bytes = b""
    base_since: str = ""
    base_version: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluateReply:
    """Scores per task and metric, and the number of records that each rests on."""

    institution: str
    round: int
    split: Split
    examples: Mapping[str, int]
    scores: Mapping[str, Mapping[str, float]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainedReply:
    """What a train request gets under secure aggregation: the update stays, and two fresh public keys go."""

    institution: str
    round: int
    examples: Mapping[str, int]
    """Training records per task."""
    losses: Mapping[str, float]
    """Mean training loss per task over the round's last epoch."""
    steps: int
    seconds: float
    sealing_key: str
    masking_key: str
    epsilon: float | None = None
    """As in `TrainReply`."""
    ledger: str | None = None
    """As in `TrainReply`."""


@dataclass(frozen=True, kw_only=True)
class SharesRequest:
    """Share your secrets of this round among those who have trained: their public keys, by institution."""

    spec_digest: str
    round: int
    sealing_keys: Mapping[str, str]
    masking_keys: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SharesReply:
    """By peer, the shares that only it can open, and a commitment to the mask's seed."""

    institution: str
    round: int
    commitment: str
    shares: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """Mask the update of this round, multiplied by these weights: one per array, or one per row of it."""

    spec_digest: str
    round: int
    shares: Mapping[str, str]
    """By sender, what is sealed for this institution."""
    weights: Mapping[str, list[float]]
    """By array that the institution trains."""


@dataclass(frozen=True, kw_only=True)
class MaskReply:
    """The masked update: words as `shared.fixedpoint` lays them out."""

    institution: str
    round: int
    update: bytes


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """Give your shares: of the seeds of `survivors`, whose masked updates came, and of the mask keys of the others."""

    spec_digest: str
    round: int
    survivors: list[str]


@dataclass(frozen=True, kw_only=True)
class UnmaskReply:
    """One share per institution, of its seed or of its mask key, as hexadecimal text."""

    institution: str
    round: int
    seeds: Mapping[str, str]
    keys: Mapping[str, str]


RefusalKind = Literal["agreement", "data", "request", "failure", "policy", "budget", "held"]
"""`policy`: a rule of the site's own; `budget`: its privacy budget; `held`: its operator did not release the update."""
REFUSAL_KINDS: tuple[RefusalKind, ...] = get_args(RefusalKind)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The institution declines, and says in one sentence why."""

    institution: str
    kind: RefusalKind
    reason: str


SecureRequest = SharesRequest | MaskRequest | UnmaskRequest
SecureReply = SharesReply | MaskReply | UnmaskReply
Request = QueryRequest | TrainRequest | EvaluateRequest | SecureRequest
Reply = QueryReply | TrainReply | TrainedReply | EvaluateReply | SecureReply | Refusal
REPLIES: tuple[type[Reply], ...] = get_args(Reply)
MESSAGE_TYPES: dict[type[Any], str] = {
    QueryRequest: "query",
    TrainRequest: "train",
    EvaluateRequest: "evaluate",
    SharesRequest: "query",
    MaskRequest: "train",
    UnmaskRequest: "query",
}
"""Flower's message type for each request."""
MESSAGES: dict[str, type[Any]] = {kind.__name__: kind for kind in (*MESSAGE_TYPES, *REPLIES)}


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
