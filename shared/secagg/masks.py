"""Masks that vanish in the sum: one of an institution's own, and one between every two of them.

Flower's mask generator is not used: it folds every seed into 32 bits, which can be searched through, and never yields
the largest value. Masks are AES-256 in counter mode here.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared.secagg.keys import Keys, agree, derive
from shared.secagg.view import Directory


def mask(
    vector: np.ndarray, *, name: str, seed: bytes, keys: Keys, directory: Directory, view: bytes, peers: Iterable[str]
) -> np.ndarray:
    """The vector under its own mask and those agreed with `peers`; arithmetic is modulo the word, which may wrap.

    Args:
        vector: Unsigned words [n].
        name: Whose it is.
        seed: Of its own mask.
        keys: Its keys.
        directory: Everybody's public keys.
        view: Of the directory and of who has shared secrets; masks of two who saw another do not cancel.
        peers: Those who have shared secrets.
    """
    masked: np.ndarray = vector + own_mask(seed, vector, view)
    for peer in peers:
        _add_pairwise(masked, name, peer, keys.masking, directory[peer].keys.masking, view, sign=1)
    return masked


def unmask(
    total: np.ndarray,
    *,
    seeds: Mapping[str, bytes],
    lost: Mapping[str, ec.EllipticCurvePrivateKey],
    directory: Directory,
    view: bytes,
) -> np.ndarray:
    """The sum of the vectors, from the sum of the masked ones.

    Args:
        total: Sum of the masked vectors that came, unsigned words [n].
        seeds: The mask seed of everybody whose masked vector is in it.
        lost: The mask key of everybody who had shared secrets but whose masked vector did not come.
        directory: Everybody's public keys.
        view: As in `mask`.
    """
    clear = total.copy()
    for seed in seeds.values():
        clear -= own_mask(seed, total, view)
    for gone, key in lost.items():
        for name in seeds:
            _add_pairwise(clear, name, gone, key, directory[name].keys.masking, view, sign=-1)
    return clear


def own_mask(seed: bytes, like: np.ndarray, view: bytes) -> np.ndarray:
    """The mask that nobody else knows until the seed is rebuilt."""
    return _stream(derive(seed, view=view, use="own mask"), like)


def _add_pairwise(
    vector: np.ndarray,
    name: str,
    peer: str,
    private: ec.EllipticCurvePrivateKey,
    public: str,
    view: bytes,
    *,
    sign: int,
) -> None:
    """Add, in place, `sign` times the mask that `name` has agreed with `peer`; the two have it with opposite signs."""
    first, second = sorted((name, peer))
    stream = _stream(agree(private, public, view=view, use=f"mask between {first} and {second}"), vector)
    if (name < peer) == (sign > 0):
        vector += stream
    else:
        vector -= stream


def _stream(key: bytes, like: np.ndarray) -> np.ndarray:
    """As many uniform words as `like` has, a function of a key of 32 bytes: AES-256 in counter mode."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(like.nbytes)), like.dtype)
