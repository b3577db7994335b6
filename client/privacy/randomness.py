"""Random numbers that nobody can foresee or work out afterwards: of noise, of coins, and of single records.

Whatever private training draws comes from a key of 256 bits from the operating system, through AES-256 in counter mode
or a keyed BLAKE2b. Whoever sees an update and knows the federation's seed would have to find that key to take the noise
away; a generator whose state is small, or follows from its output, gives it up. Keys live as long as one training, and
nothing here shows or keeps them.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
SUMMED = 4
"""Gaussian draws that are added up for one number of `Stream.noise`: 2n for n = 2 of Holohan and Braghin."""
CHUNK = 2**15
"""Numbers of `Stream.noise` that are made at a time: they stay in the processor's cache."""
Chance = Callable[[str, int], np.random.Generator]
"""Of a task and the index of a record: what the record's own random choices are drawn from."""


class Stream:
    """The key stream of AES-256-CTR as random numbers; every call goes on where the one before ended."""

    def __init__(self, key: bytes | None = None) -> None:
        """Begin the stream of a key.

        Args:
            key: 32 bytes, only for tests; by default the operating system's.
        """
        cipher = Cipher(algorithms.AES256(secrets.token_bytes(KEY_BYTES) if key is None else key), modes.CTR(bytes(16)))
        self._encryptor = cipher.encryptor()

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1), all equally likely: [size]."""
        return (self._words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, size: int) -> torch.Tensor:
        """Standard normal numbers: float64 [size], on the CPU.

        By Box and Muller (1958): with u uniform in (0, 1] and an angle uniform on the circle, the coordinates of the
        point at radius sqrt(-2 ln u) are independent and standard normal. Both are drawn with at least 63 bits, and
        float64 keeps 53 of them however small u is. No number is beyond sqrt(2 * 63 ln 2) = 9.3, which leaves out 2^-63
        of the mass.
        """
        pairs = -(-size // 2)
        words = torch.from_numpy(self._words(2 * pairs).view(np.int64))
        u = words[:pairs].bitwise_and_(2**63 - 1).double().add_(1).mul_(2.0**-63)
        radius = u.log_().mul_(-2).sqrt_()
        angle = words[pairs:].double().mul_(math.pi * 2.0**-63)
        return torch.cat([angle.cos().mul_(radius), angle.sin().mul_(radius)])[:size]

    def noise(self, size: int) -> torch.Tensor:
        """Standard normal numbers whose last digits do not tell how they were drawn: float64 [size], on the CPU.

        Each is the sum of four draws, halved (Holohan and Braghin 2021, arXiv 2107.10138, section 5.1), after one draw
        that is thrown away, as in the secure mode of opacus. No two of its four come from the same point of the plane.
        """
        self.normal(1)
        return torch.cat([self._sums(min(CHUNK, size - start)) for start in range(0, max(1, size), CHUNK)])

    def _sums(self, size: int) -> torch.Tensor:
        total = self.normal(size)
        for _ in range(SUMMED - 1):
            total += self.normal(size)
        return total.div_(math.sqrt(SUMMED))

    def _words(self, size: int) -> NDArray[np.uint64]:
        words = np.empty(size, dtype="<u8")
        self._encryptor.update_into(bytes(words.nbytes), words.data.cast("B"))
        return words


class Secret:
    """The key of one training, from which every record's own random numbers are derived."""

    def __init__(self, key: bytes | None = None) -> None:
        """Take a key.

        Args:
            key: 32 bytes, only for tests; by default the operating system's.
        """
        key = secrets.token_bytes(KEY_BYTES) if key is None else key
        self._keyed = hashlib.blake2b(digest_size=KEY_BYTES, key=key)

    def generator(self, *what: str | int) -> np.random.Generator:
        """Random numbers for these words alone: whoever knows those of other words knows nothing of these.

        Its seed is a keyed hash, of which numpy's generator keeps 128 bits in its state.
        """
        keyed = self._keyed.copy()
        keyed.update(json.dumps(what).encode())
        return np.random.default_rng(int.from_bytes(keyed.digest(), "big"))
