"""Sharing two secrets of an institution in a round, so that enough others can rebuild one of them (Shamir 1979).

Shamir's scheme and sealing (Fernet) are Flower's own.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import TypeVar

from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import ProtocolError
from shared.flower.crypto import (
    combine_shares,
    create_shares,
    decrypt,
    encrypt,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from shared.secagg.keys import CURVE, SECRET_BYTES, Keys, agree, public_text
from shared.secagg.view import Directory

SHARE_BYTES = 4 + 48
"""Of a secret of 32 bytes in Flower's layout: its number, and the share of the secret padded to whole blocks."""
LONGEST_SEALED = 512
"""Characters of a sealed pair of shares; honest ones have 248."""
MOST_TRIES = 1000
"""Sets of shares that are tried for a secret when some are false."""
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One institution's shares of a peer's two secrets; it gives away one of them at most."""

    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Shared:
    """An institution's mask seed, and what it hands out so that the seed and its mask key can be rebuilt."""

    seed: bytes = field(repr=False)
    commitment: str
    """By it the coordinator knows a rebuilt seed as the right one."""
    own: Share
    sealed: Mapping[str, str]
    """By peer: its shares, which only that peer can read."""


def share_secrets(name: str, keys: Keys, directory: Directory, view: bytes, *, threshold: int) -> Shared:
    """Draw a mask seed and split it and the private mask key among all in the directory.

    Args:
        name: Whose secrets they are.
        keys: Its own; their public halves stand in the directory.
        directory: Checked.
        view: Of the directory (`shared.secagg.view.view_of`); only who saw the same can open the shares.
        threshold: As many shares give a secret.
    """
    seed = secrets.token_bytes(SECRET_BYTES)
    scalar = keys.masking.private_numbers().private_value.to_bytes(SECRET_BYTES, "big")
    pieces = zip(*(create_shares(secret, threshold, len(directory)) for secret in (seed, scalar)), strict=True)
    shares = {peer: Share(*pair) for peer, pair in zip(sorted(directory), pieces, strict=True)}
    own, me = shares.pop(name), _number(name, directory)
    sealed = {
        peer: encrypt(
            _seal(keys, directory, view, peer, f"shares of {name} for {peer}"),
            share_keys_plaintext_concat(me, _number(peer, directory), share.seed, share.key),
        ).decode()
        for peer, share in shares.items()
    }
    return Shared(seed, commit(seed), own, sealed)


def open_share(name: str, keys: Keys, directory: Directory, view: bytes, *, sender: str, sealed: str) -> Share:
    """Open what `sender` sealed for `name`.

    Raises:
        ProtocolError: It was not sealed by `sender` for `name` in this view of the round, or holds no shares with
            `name`'s number.
    """
    wrong = ProtocolError(f"Expected shares that {sender} sealed for {name} in this round, but others came.")
    if sender == name or sender not in directory or len(sealed) > LONGEST_SEALED:
        raise wrong
    try:
        opened = decrypt(_seal(keys, directory, view, sender, f"shares of {sender} for {name}"), sealed.encode())
        _, _, seed, key = share_keys_plaintext_separate(opened)
    except (InvalidToken, ValueError, LookupError):
        raise wrong from None
    if not all(is_share_of(share, name, directory) for share in (seed, key)):
        raise wrong
    return Share(seed, key)


def recover_seed(shares: Mapping[str, bytes], directory: Directory, *, threshold: int, commitment: str) -> bytes:
    """The mask seed that `shares`, by holder, are of. Raises ProtocolError if they do not suffice."""
    return _recover(shares, directory, threshold, lambda secret: secret if commit(secret) == commitment else None)


def recover_key(
    shares: Mapping[str, bytes], directory: Directory, *, threshold: int, of: str
) -> ec.EllipticCurvePrivateKey:
    """The private mask key of `of` from shares by holder. Raises ProtocolError if they do not suffice."""

    def fits(secret: bytes) -> ec.EllipticCurvePrivateKey | None:
        try:
            key = ec.derive_private_key(int.from_bytes(secret, "big"), CURVE)
        except ValueError:
            return None
        return key if public_text(key) == directory[of].keys.masking else None

    return _recover(shares, directory, threshold, fits)


def commit(seed: bytes) -> str:
    """What is announced of a seed; it reveals nothing of the mask, whose key is another function of the seed."""
    return hashlib.sha256(b"commitment" + seed).hexdigest()


def is_share_of(share: bytes, holder: str, directory: Directory) -> bool:
    """Whether a share has the form and the number of `holder`'s."""
    return len(share) == SHARE_BYTES and int.from_bytes(share[:4], "little") == _number(holder, directory)


def _recover(shares: Mapping[str, bytes], directory: Directory, threshold: int, fits: Callable[[bytes], T | None]) -> T:
    """The first secret that `fits`, over sets of `threshold` shares; more than one is tried only if some are false."""
    usable = [share for holder, share in sorted(shares.items()) if is_share_of(share, holder, directory)]
    for chosen in islice(combinations(usable, threshold), MOST_TRIES):
        try:
            found = fits(combine_shares(list(chosen)))
        except ValueError:
            continue
        if found is not None:
            return found
    raise ProtocolError(f"Expected {threshold} true shares of a secret, but {len(usable)} came that do not give it.")


def _seal(keys: Keys, directory: Directory, view: bytes, peer: str, use: str) -> bytes:
    """The key of Fernet between an institution and a peer, for one direction."""
    return base64.urlsafe_b64encode(agree(keys.sealing, directory[peer].keys.sealing, view=view, use=use))


def _number(name: str, directory: Directory) -> int:
    return sorted(directory).index(name) + 1
