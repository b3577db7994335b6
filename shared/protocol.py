"""What coordinator and institutions say to each other: frozen dataclasses and their Flower encoding, versioned.

Three requests (query, train, evaluate), one reply each, and `Refusal`, which may answer any of them; five more pairs
for secure aggregation (`shared.secagg`), under which a train request gets a `TrainedReply`. The structured part of a
message travels as JSON in one ConfigRecord; arrays travel as one blob (see `shared.codec`) in one ArrayRecord, because
Flower transfers every array of a record by requests of its own.

The annotation of a field says all that may be in it (`shared.fields`); what is not so is no message. What only the
agreement or the situation decides (a round of this run, a task that is held) is for the receiver to check.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field

from shared.errors import ProtocolError, joined, shown
from shared.fields import (
    LONGEST_LIST,
    MOST_ROUNDS,
    Blob,
    Count,
    Counts,
    Digest,
    Head,
    Hex,
    Label,
    Metrics,
    Name,
    Number,
    Round,
    RunName,
    Scored,
    Seconds,
    Sentence,
    Spent,
    Split,
    Version,
    is_blob,
    read,
)

PROTOCOL_VERSION = 2
SPOKEN = (2,)
"""Versions that this release reads and writes: its own and, if it is another, that of the release before."""
LATER: Mapping[str, frozenset[str]] = {}
"""Fields, by the message's kind, that came after the first release. Each has a default, and is not said where it has
that, so that the release before reads the message."""
LONGEST_BODY = 2**25
"""Characters of a message's JSON."""
T = TypeVar("T")
Sealed = Annotated[str, Field(pattern=r"^[0-9A-Za-z+/=_-]*$", max_length=10_000)]
ByTask = Annotated[Mapping[Name, T], Field(max_length=LONGEST_LIST)]
ByInstitution = Annotated[Mapping[Name, T], Field(max_length=LONGEST_LIST)]
Names = Annotated[list[Name], Field(max_length=LONGEST_LIST)]
Labels = Annotated[list[Label], Field(max_length=LONGEST_LIST)]


@dataclass(frozen=True, kw_only=True)
class QueryRequest:
    """Who are you, and what do you hold?"""

    spec_digest: Digest
    run: RunName | None = None


@dataclass(frozen=True, kw_only=True)
class QueryReply:
    """What an institution holds: records per task and split, and what it says of their quality."""

    institution: Name
    records: ByTask[Mapping[Split, Count]]
    software: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!_-]{0,64}$")]
    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Of its adapter; the federation's if None."""
    base: Version = ""
    """The version of its frozen weights, where rounds move them; see `shared.model.lora.Base`."""
    labels: ByTask[Annotated[Mapping[Label, Count], Field(max_length=LONGEST_LIST)]] = field(default_factory=dict)
    """Per task that has labels, those that the institution annotates, and how many training records bear each."""
    readiness: ByTask[Metrics] = field(default_factory=dict)
    """Numbers of the text readiness report, per task; see `client.data.readiness`."""
    counts: Counts = "exact"
    """What all counts of this institution's replies are: `exact`, `rounded` to two digits, or `none`: each is 1."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train from this global state; `state` is a codec blob. Rounds count from 1.

    `base` holds what the frozen weights must be moved by first, from version `base_since` to `base_version`.
    """

    spec_digest: Digest
    run: RunName
    round: Round
    rounds: Round
    state: Blob
    base: Blob = b""
    base_since: Version = ""
    base_version: Version = ""
    ledger: Head | None = None
    """`NUMBER:SHA-256` of the last entry of the institution's privacy ledger as the coordinator remembers it."""
    taken: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] = 0
    """With `training.scaffold`: the last round whose update of the institution was taken; 0 if none was."""


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """The update (new minus received state, as a codec blob) of the adapter and of the heads that the site holds."""

    institution: Name
    round: Round
    examples: ByTask[Count]
    """Training records per task."""
    losses: ByTask[Number]
    """Mean training loss per task over the round's last epoch; none under [privacy], which does not cover them."""
    steps: Annotated[int, Field(ge=0, le=10**6)]
    seconds: Seconds
    update: Blob
    epsilon: Spent | None = None
    """What the institution's data have spent so far, at the federation's delta; None without [privacy]."""
    ledger: Head | None = None
    """`NUMBER:SHA-256` of the last entry of its privacy ledger, to be remembered outside it."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Score this global state on one split; `base` as in `TrainRequest`."""

    spec_digest: Digest
    run: RunName
    round: Annotated[int, Field(ge=0, le=MOST_ROUNDS)]
    split: Scored
    state: Blob
    released: bool = False
    """The round is the one to be released: score the institution's own model of it, and keep that model."""
    base: Blob = b""
    base_since: Version = ""
    base_version: Version = ""


@dataclass(frozen=True, kw_only=True)
class EvaluateReply:
    """Scores per task and metric, and the number of records that each rests on."""

    institution: Name
    round: Annotated[int, Field(ge=0, le=MOST_ROUNDS)]
    split: Scored
    examples: ByTask[Count]
    scores: ByTask[Metrics]
    seconds: Seconds
    epsilon: Spent | None = None
    """What scores have cost the owners of these records so far; None where scores are not private."""
    ledger: Head | None = None
    """As in `TrainReply`."""


@dataclass(frozen=True, kw_only=True)
class TrainedReply:
    """What a train request gets under secure aggregation: the update stays, and two fresh public keys go."""

    institution: Name
    round: Round
    examples: ByTask[Count]
    """Training records per task."""
    losses: ByTask[Number]
    """Mean training loss per task over the round's last epoch; none under [privacy], which does not cover them."""
    steps: Annotated[int, Field(ge=0, le=10**6)]
    seconds: Seconds
    sealing_key: Hex
    masking_key: Hex
    labels: ByTask[Labels]
    """Per task that has labels, those that the institution annotates."""
    signature: Hex
    """Of its keys, examples and labels in this round, by its node key; see `shared.secagg.view`."""
    epsilon: Spent | None = None
    """As in `TrainReply`."""
    ledger: Head | None = None
    """As in `TrainReply`."""


@dataclass(frozen=True, kw_only=True)
class SharesRequest:
    """Share your secrets of this round among those who have trained: what each of them has signed, by institution."""

    spec_digest: Digest
    run: RunName
    round: Round
    sealing_keys: ByInstitution[Hex]
    masking_keys: ByInstitution[Hex]
    examples: ByInstitution[ByTask[Count]]
    labels: ByInstitution[ByTask[Labels]]
    signatures: ByInstitution[Hex]


@dataclass(frozen=True, kw_only=True)
class SharesReply:
    """By peer, the shares that only it can open, and a commitment to the mask's seed."""

    institution: Name
    round: Round
    commitment: Hex
    shares: ByInstitution[Sealed]


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Open what the others have sealed for you, by sender."""

    spec_digest: Digest
    run: RunName
    round: Round
    shares: ByInstitution[Sealed]


@dataclass(frozen=True, kw_only=True)
class OpenReply:
    """Whose shares do not open."""

    institution: Name
    round: Round
    unopened: Names


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """Mask the update of this round for a sum among those who have shared secrets."""

    spec_digest: Digest
    run: RunName
    round: Round
    sharers: Names


@dataclass(frozen=True, kw_only=True)
class MaskReply:
    """The masked update and its weights: words as `shared.secagg.fixedpoint` lays them out."""

    institution: Name
    round: Round
    update: Blob


@dataclass(frozen=True, kw_only=True)
class ConfirmRequest:
    """Sign whose masked updates came."""

    spec_digest: Digest
    run: RunName
    round: Round
    survivors: Names


@dataclass(frozen=True, kw_only=True)
class ConfirmReply:
    """The signature of the survivors, by the institution's node key; see `shared.secagg.view`."""

    institution: Name
    round: Round
    signature: Hex


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """Give your shares: of the seeds of the survivors, as everybody has signed them, and of the others' mask keys."""

    spec_digest: Digest
    run: RunName
    round: Round
    signatures: ByInstitution[Hex]


@dataclass(frozen=True, kw_only=True)
class UnmaskReply:
    """One share per institution, of its seed or of its mask key, as hexadecimal text."""

    institution: Name
    round: Round
    seeds: ByInstitution[Hex]
    keys: ByInstitution[Hex]


RefusalKind = Literal["agreement", "data", "request", "failure", "policy", "budget", "held"]
"""`policy`: a rule of the site's own; `budget`: its privacy budget; `held`: its operator did not release the update."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The institution declines, and says in one sentence why."""

    institution: Name | Literal[""]
    """Empty if the site could not find out its own name."""
    kind: RefusalKind
    reason: Sentence


SecureRequest = SharesRequest | OpenRequest | MaskRequest | ConfirmRequest | UnmaskRequest
SecureReply = SharesReply | OpenReply | MaskReply | ConfirmReply | UnmaskReply
Request = QueryRequest | TrainRequest | EvaluateRequest | SecureRequest
Reply = QueryReply | TrainReply | TrainedReply | EvaluateReply | SecureReply | Refusal
REPLIES: tuple[type[Reply], ...] = get_args(Reply)
MESSAGE_TYPES: dict[type[Any], str] = {
    QueryRequest: "query",
    TrainRequest: "train",
    EvaluateRequest: "evaluate",
    SharesRequest: "query",
    OpenRequest: "query",
    MaskRequest: "train",
    ConfirmRequest: "query",
    UnmaskRequest: "query",
}
"""Flower's message type for each request."""
MESSAGES: dict[str, type[Any]] = {kind.__name__: kind for kind in (*MESSAGE_TYPES, *REPLIES)}


def blobs_of(message: Request | Reply) -> dict[str, bytes]:
    """What a message carries besides its body."""
    return {f.name: getattr(message, f.name) for f in fields(message) if is_blob(f.type)}


def body_of(message: Request | Reply) -> str:
    """All of a message but its blobs, as the JSON that travels."""
    later = LATER.get(type(message).__name__, frozenset())
    unsaid = {f.name for f in fields(message) if f.name in later and getattr(message, f.name) == f.default}
    unsaid |= blobs_of(message).keys()
    return json.dumps({key: value for key, value in asdict(message).items() if key not in unsaid}, sort_keys=True)


def encode(message: Request | Reply, version: int = PROTOCOL_VERSION) -> RecordDict:
    """Turn a message into Flower records: `header` (JSON) and, if it carries arrays, `arrays` (one blob).

    Args:
        message: What is said.
        version: One of SPOKEN: the receiver's, as far as it is known. An institution answers in that of the request.
    """
    header = ConfigRecord({"version": version, "kind": type(message).__name__, "body": body_of(message)})
    blobs = blobs_of(message)
    records = RecordDict({"header": header})
    if blobs:
        arrays = {name: Array(np.frombuffer(blob, dtype=np.uint8)) for name, blob in blobs.items()}
        records["arrays"] = ArrayRecord(arrays)
    return records


def version_of(records: RecordDict) -> int | None:
    """The version of a message, if it is one of SPOKEN."""
    try:
        version = records.config_records["header"]["version"]
    except (KeyError, TypeError, ValueError):
        return None
    return version if isinstance(version, int) and version in SPOKEN else None


def decode(records: RecordDict, *expected: type[T]) -> T:
    """Read one of the `expected` messages; ProtocolError if it is another, another version, or malformed."""
    try:
        header = records.config_records["header"]
        version, name, text = header["version"], str(header["kind"]), str(header["body"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"Expected a Collegium message, but it is malformed ({type(error).__name__}).") from error
    if version not in SPOKEN:
        raise ProtocolError(
            f"Expected protocol version {joined(SPOKEN, ' or ')}, but the message is version {shown(version)}; "
            "a release works with itself and with the one before: upgrade the side that is behind."
        )
    kind: Any = MESSAGES.get(name)
    if kind not in expected:
        names = " or ".join(item.__name__ for item in expected)
        raise ProtocolError(f"Expected {names}, but {shown(name)} came.")
    if len(text) > LONGEST_BODY:
        raise ProtocolError(f"Expected at most {LONGEST_BODY} characters beside the arrays, but {len(text)} came.")
    try:
        body = json.loads(text)
        arrays = {f.name: records.array_records["arrays"][f.name] for f in fields(kind) if is_blob(f.type)}
        blobs = {name: array.numpy().tobytes() for name, array in arrays.items()}
    except Exception as error:
        raise ProtocolError(f"Expected a Collegium message, but it is malformed ({type(error).__name__}).") from error
    if not isinstance(body, dict) or body.keys() & blobs.keys():
        raise ProtocolError(f"Expected the fields of a {kind.__name__} as one JSON object, but another text came.")
    message: T = read(kind, body | blobs)
    return message
