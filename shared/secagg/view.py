"""What an institution sees of a round of secure aggregation: who takes part, with which keys and counts.

Each participant's line is signed with its node key, which stands in the federation file. The hash of the whole view
enters every secret that two institutions agree on (`shared.secagg.keys.agree`), so that what they send fits together
only if both saw the same.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import ProtocolError, listed
from shared.nodekeys import is_signed, sign, x_of
from shared.secagg.keys import PublicKeys, point

LABEL = "collegium secure aggregation, protocol 2"
"""Begins whatever is signed or hashed here, so that it means nothing anywhere else."""


@dataclass(frozen=True)
class Context:
    """One round of one run under one agreement."""

    run: str
    round: int
    digest: str
    """Of the federation file."""


@dataclass(frozen=True)
class Member:
    """A participant as it has announced itself for the round."""

    keys: PublicKeys
    examples: Mapping[str, int]
    """Training records per task, as its policy shares them."""
    labels: Mapping[str, Sequence[str]]
    """Per task that has labels, those that it annotates."""
    signature: str
    """Of all this and the context, by its node key."""


Directory = Mapping[str, Member]
"""Everybody who takes part in a round, by institution; its sorted names number the shares from 1."""


def sign_member(
    context: Context,
    name: str,
    keys: PublicKeys,
    examples: Mapping[str, int],
    labels: Mapping[str, Sequence[str]],
    *,
    node_key: ec.EllipticCurvePrivateKey,
) -> Member:
    """An institution's own line of the directory."""
    return Member(keys, examples, labels, sign(node_key, _line(context, name, keys, examples, labels)))


def check_directory(directory: Directory, context: Context, *, node_keys: Mapping[str, str], threshold: int) -> None:
    """Raise ProtocolError unless this is a round that these institutions have signed.

    Args:
        directory: Who takes part, according to the coordinator.
        context: The round.
        node_keys: The public node key of every institution of the federation.
        threshold: Fewest participants.
    """
    if len(directory) < threshold:
        raise ProtocolError(f"Expected keys of at least {threshold} institutions, but {len(directory)} came.")
    if strangers := sorted(directory.keys() - node_keys.keys()):
        raise ProtocolError(
            f"Expected public keys of institutions of the federation, but {listed(strangers)} are none."
        )
    places = [x_of(point(text)) for of in directory.values() for text in (of.keys.sealing, of.keys.masking)]
    if len(set(places)) < len(places):
        raise ProtocolError("Expected every public key once, but one came twice or beside its negation.")
    for name, of in directory.items():
        if not is_signed(node_keys[name], _line(context, name, of.keys, of.examples, of.labels), of.signature):
            raise ProtocolError(
                f"Expected keys and counts that {name} has signed for this round with the node key that the federation "
                "file names, but the signature is of something else."
            )


def view_of(context: Context, directory: Directory, sharers: Iterable[str] = ()) -> bytes:
    """The hash of everything that a participant sees of a round, and so of all weights, which follow from it.

    Args:
        context: The round.
        directory: Who has announced keys.
        sharers: Who has shared secrets, once that is known.
    """
    members = {
        name: [x_of(point(of.keys.sealing)), x_of(point(of.keys.masking)), dict(of.examples), _plain(of.labels)]
        for name, of in directory.items()
    }
    return hashlib.sha256(_canonical("view", context, members, sorted(sharers))).digest()


def survivors_message(view: bytes, survivors: Collection[str]) -> bytes:
    """What an institution signs before it gives shares: whose masked updates are to be in the sum."""
    return json.dumps([LABEL, "survivors", view.hex(), sorted(survivors)]).encode()


def _line(
    context: Context, name: str, keys: PublicKeys, examples: Mapping[str, int], labels: Mapping[str, Sequence[str]]
) -> bytes:
    return _canonical("member", context, name, keys.sealing, keys.masking, dict(examples), _plain(labels))


def _canonical(what: str, context: Context, *parts: Any) -> bytes:
    return json.dumps([LABEL, what, context.run, context.round, context.digest, *parts], sort_keys=True).encode()


def _plain(labels: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {task: sorted(names) for task, names in labels.items()}
