"""Updates as integers that can be added up exactly, modulo 2^32 or 2^64, for secure aggregation (`shared.secagg`).

A value x becomes round(weight * clip(x) * 2^fraction_bits) in two's complement. Every weight is at most one and every
value at most `clip`, so n institutions' integers add up to at most n * (clip * 2^fraction_bits + 1) in magnitude, and
the weights themselves, which stand behind them, to n * (2^fraction_bits + 1). The word is the smallest in which neither
can wrap around, and a federation for which no word is wide enough is refused. Each institution's rounding adds at most
half of 2^-fraction_bits to a sum.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.codec import Arrays
from shared.errors import ConfigError, ProtocolError, listed

Word = np.dtype[Any]
"""Of unsigned integers."""
Shapes = Mapping[str, tuple[int, ...]]
WORDS: tuple[Word, ...] = (np.dtype("<u4"), np.dtype("<u8"))
"""Little-endian, so that both ends of the wire read the same."""


def word_for(institutions: int, clip: float, fraction_bits: int) -> Word:
    """The smallest word in which the sum over all institutions cannot wrap around.

    Raises:
        ConfigError: Not even 64 bits are enough.
    """
    largest = institutions * (math.ceil(max(clip, 1.0) * 2**fraction_bits) + 1)
    for word in WORDS:
        if largest < 2 ** (8 * word.itemsize - 1):
            return word
    raise ConfigError(
        f"Expected sums of {institutions} institutions' values up to {clip:g} with {fraction_bits} fraction bits to "
        "fit 64 bits, but they may not; lower secure_aggregation.clip or secure_aggregation.fraction_bits."
    )


def size_of(shapes: Shapes) -> int:
    """How many words the arrays take."""
    return sum(math.prod(shape) for shape in shapes.values())


def weight_shapes(weights: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Of the weights of all arrays."""
    return {name: weight.shape for name, weight in weights.items()}


def encode_all(
    arrays: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    *,
    shapes: Shapes,
    clip: float,
    fraction_bits: int,
    word: Word,
) -> np.ndarray:
    """One flat vector: the weighted arrays, and behind them the weights; see `encode`.

    Raises:
        ProtocolError: As `encode`, or an array that weighs something is absent.
    """
    if absent := sorted(name for name, weight in weights.items() if weight.any() and name not in arrays):
        raise ProtocolError(
            f"Expected an update of everything that this institution trains, but {listed(absent)} are absent."
        )
    values = encode(arrays, weights, shapes=shapes, clip=clip, fraction_bits=fraction_bits, word=word)
    ones, shown = {name: np.ones(weight.shape) for name, weight in weights.items()}, weight_shapes(weights)
    return np.concatenate(
        [values, encode(ones, weights, shapes=shown, clip=1.0, fraction_bits=fraction_bits, word=word)]
    )


def decode_all(
    vector: np.ndarray, *, shapes: Shapes, weights: Mapping[str, np.ndarray], fraction_bits: int
) -> tuple[Arrays, Arrays]:
    """The sums of the weighted arrays and of the weights, whose shapes are those of anybody's `weights`."""
    size, shown = size_of(shapes), weight_shapes(weights)
    return (
        decode(vector[:size], shapes=shapes, fraction_bits=fraction_bits),
        decode(vector[size:], shapes=shown, fraction_bits=fraction_bits),
    )


def encode(
    arrays: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    *,
    shapes: Shapes,
    clip: float,
    fraction_bits: int,
    word: Word,
) -> np.ndarray:
    """One flat vector of words: every array that the federation shares in order of name, zeros where `arrays` has none.

    Args:
        arrays: The institution's update.
        weights: By array, what it is multiplied by, between 0 and 1, in a shape that broadcasts to the array's.
        shapes: Of every array that the federation shares.
        clip: Values beyond plus or minus this are moved there.
        fraction_bits: Binary places that are kept.
        word: As `word_for` says.

    Raises:
        ProtocolError: A value is not finite, or a weight is not between 0 and 1.
    """
    vector = np.zeros(size_of(shapes), word)
    start = 0
    for name, shape in sorted(shapes.items()):
        stop = start + math.prod(shape)
        if name in arrays:
            values, weight = np.asarray(arrays[name], np.float64), np.asarray(weights[name], np.float64)
            if not np.isfinite(values).all():
                raise ProtocolError(f"Expected finite values, but the update of {name} has others.")
            if not ((weight >= 0) & (weight <= 1)).all():
                raise ProtocolError(
                    f"Expected weights of {name} between 0 and 1, but {weight.min()} to {weight.max()}."
                )
            scaled = np.rint(weight * np.clip(values, -clip, clip) * 2.0**fraction_bits)
            vector[start:stop] = scaled.astype(np.int64).ravel().astype(word)
        start = stop
    return vector


def decode(vector: np.ndarray, *, shapes: Shapes, fraction_bits: int) -> Arrays:
    """The sums that a vector of words holds, as float64 arrays by name."""
    signed = vector.view(f"<i{vector.dtype.itemsize}")
    arrays: Arrays = {}
    start = 0
    for name, shape in sorted(shapes.items()):
        stop = start + math.prod(shape)
        arrays[name] = signed[start:stop].reshape(shape) / 2.0**fraction_bits
        start = stop
    return arrays
