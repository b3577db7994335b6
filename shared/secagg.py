"""Secure aggregation: masks that vanish in the sum, so that the coordinator sees no single update.

SecAgg of Bonawitz et al. 2017 (ACM CCS), in the graph language of SecAgg+ (Bell et al. 2020, ACM CCS) on the complete
graph: with a few dozen institutions everybody is everybody's neighbour, and the sparse graph would save nothing. All
functions here take and return plain data; `client.secagg` keeps an institution's secrets for one round, and
`server.secagg` leads through it:

1. keys: every institution trains, then announces two fresh public keys, one for sealing and one for masks;
2. shares: it draws a mask seed, splits the seed and its private mask key by Shamir's scheme, any `threshold` shares of
   which give the secret, and seals one share of each for every peer;
3. masked: it adds to its vector a mask from its seed, and for each peer that has shared one from the key agreed with
   that peer, added by one of the two and subtracted by the other;
4. unmask: each institution gives its shares of the seeds of those whose masked vectors came, and of the mask keys of
   those whose did not. The coordinator rebuilds these and takes the masks off the sum.

An institution may go away after any of these steps; its vector is in the sum if it came. Fewer than `threshold` at the
last step, and there is no sum.

What is promised, and what is not. The coordinator, honest but curious, together with fewer than `threshold`
institutions, learns nothing of the others' vectors but their sum. An institution gives only one of its two shares of a
peer, and `threshold` is more than half, so that a coordinator that lies about who is gone, and that no institution
helps, still gets a sum or nothing.
Public keys are NOT signed: institutions know each other by name alone, so a coordinator that puts keys of its own in
the place of the peers' is not noticed. Vectors are not proven honest either: whoever sends a false one spoils the sum.
A false share is noticed (mask keys fit the announced public keys, seeds a commitment), and others are used if there are
enough.

Key agreement, sealing and Shamir's scheme are Flower's own. Its mask generator is not used: it folds every seed into 32
bits, which can be searched through, and never yields the largest value. Masks are AES-256 in counter mode here.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import TypeVar

import numpy as np
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate

from shared.errors import ProtocolError

CURVE = ec.SECP256R1()
SECRET_BYTES = 32
SHARE_BYTES = 4 + 48
"""Of a secret of 32 bytes in Flower's layout: its number, and the share of the secret padded to whole blocks."""
LONGEST_SEALED = 512
"""Characters of a sealed pair of shares; honest ones have 248."""
MOST_TRIES = 1000
"""Sets of shares that are tried for a secret when some are false."""
T = TypeVar("T")


@dataclass(frozen=True)
class PublicKeys:
    """What everybody may know of an institution's keys of one round: compressed points as hexadecimal text."""

    sealing: str
    masking: str


@dataclass(frozen=True)
class Keys:
    """An institution's two key pairs of one round."""

    sealing: ec.EllipticCurvePrivateKey = field(repr=False)
    masking: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """The halves that are announced."""
        return PublicKeys(_public_text(self.sealing), _public_text(self.masking))


Directory = Mapping[str, PublicKeys]
"""The public keys of all who take part in a round, by institution; its sorted names number the shares from 1."""


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


def make_keys() -> Keys:
    """Two fresh key pairs."""
    return Keys(ec.generate_private_key(CURVE), ec.generate_private_key(CURVE))


def check_directory(directory: Directory, *, threshold: int) -> None:
    """Raise ProtocolError unless the keys are points, all different, of at least `threshold` institutions."""
    if len(directory) < threshold:
        raise ProtocolError(f"Expected keys of at least {threshold} institutions, but {len(directory)} came.")
    texts = [text for keys in directory.values() for text in (keys.sealing, keys.masking)]
    for text in texts:
        _point(text)
    if len(set(texts)) < len(texts):
        raise ProtocolError("Expected every public key once, but one came twice.")


def share_secrets(name: str, keys: Keys, directory: Directory, *, threshold: int) -> Shared:
    """Draw a mask seed and split it and the private mask key among all in the directory.

    Raises:
        ProtocolError: The directory is malformed, too short, or has other keys under this name.
    """
    check_directory(directory, threshold=threshold)
    if directory.get(name) != keys.public:
        raise ProtocolError(f"Expected {name}'s own public keys in the directory, but it has others or none.")
    seed = secrets.token_bytes(SECRET_BYTES)
    scalar = keys.masking.private_numbers().private_value.to_bytes(SECRET_BYTES, "big")
    pieces = zip(*(create_shares(secret, threshold, len(directory)) for secret in (seed, scalar)), strict=True)
    shares = {peer: Share(*pair) for peer, pair in zip(sorted(directory), pieces, strict=True)}
    own, me = shares.pop(name), _number(name, directory)
    sealed = {
        peer: encrypt(
            _agree(keys.sealing, directory[peer].sealing),
            share_keys_plaintext_concat(me, _number(peer, directory), share.seed, share.key),
        ).decode()
        for peer, share in shares.items()
    }
    return Shared(seed, commit(seed), own, sealed)


def open_share(name: str, keys: Keys, directory: Directory, *, sender: str, sealed: str) -> Share:
    """Open what `sender` sealed for `name`.

    Raises:
        ProtocolError: It was not sealed by `sender` for `name` in this round, or holds no shares with `name`'s number.
    """
    wrong = ProtocolError(f"Expected shares that {sender} sealed for {name} in this round, but others came.")
    if sender == name or sender not in directory or len(sealed) > LONGEST_SEALED:
        raise wrong
    try:
        opened = decrypt(_agree(keys.sealing, directory[sender].sealing), sealed.encode())
    except InvalidToken:
        raise wrong from None
    _, _, seed, key = share_keys_plaintext_separate(opened)
    if not all(is_share_of(share, name, directory) for share in (seed, key)):
        raise wrong
    return Share(seed, key)


def mask(
    vector: np.ndarray, *, name: str, seed: bytes, keys: Keys, directory: Directory, peers: Iterable[str]
) -> np.ndarray:
    """The vector under its own mask and those agreed with `peers`; arithmetic is modulo the word, which may wrap.

    Args:
        vector: Unsigned words [n].
        name: Whose it is.
        seed: Of its own mask.
        keys: Its keys.
        directory: Everybody's public keys.
        peers: Those whose shares it holds.
    """
    masked: np.ndarray = vector + _stream(seed, vector)
    for peer in peers:
        _add_pairwise(masked, name, peer, _agree(keys.masking, directory[peer].masking), sign=1)
    return masked


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
        return key if _public_text(key) == directory[of].masking else None

    return _recover(shares, directory, threshold, fits)


def unmask(
    total: np.ndarray,
    *,
    seeds: Mapping[str, bytes],
    lost: Mapping[str, ec.EllipticCurvePrivateKey],
    directory: Directory,
) -> np.ndarray:
    """The sum of the vectors, from the sum of the masked ones.

    Args:
        total: Sum of the masked vectors that came, unsigned words [n].
        seeds: The mask seed of everybody whose masked vector is in it.
        lost: The mask key of everybody who had shared secrets but whose masked vector did not come.
        directory: Everybody's public keys.
    """
    clear = total.copy()
    for seed in seeds.values():
        clear -= _stream(seed, total)
    for gone, key in lost.items():
        for name in seeds:
            _add_pairwise(clear, name, gone, _agree(key, directory[name].masking), sign=-1)
    return clear


def commit(seed: bytes) -> str:
    """What is announced of a seed; it tells nothing of the mask, whose key is another hash of the seed."""
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


def _add_pairwise(vector: np.ndarray, name: str, peer: str, agreed: bytes, *, sign: int) -> None:
    """Add, in place, `sign` times the mask that `name` has agreed with `peer`; the two have it with opposite signs."""
    stream = _stream(agreed, vector)
    if (name < peer) == (sign > 0):
        vector += stream
    else:
        vector -= stream


def _stream(secret: bytes, like: np.ndarray) -> np.ndarray:
    """As many uniform words as `like` has, a function of the secret: AES-256 in counter mode."""
    encryptor = Cipher(algorithms.AES(hashlib.sha256(b"mask" + secret).digest()), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(like.nbytes)), like.dtype)


def _agree(private: ec.EllipticCurvePrivateKey, public: str) -> bytes:
    return generate_shared_key(private, _point(public))


def _point(text: str) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, bytes.fromhex(text))
    except ValueError:
        raise ProtocolError("Expected a public key on P-256, but something else came.") from None


def _public_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def _number(name: str, directory: Directory) -> int:
    return sorted(directory).index(name) + 1
