"""What arrays look like on the wire: one safetensors blob, coded as the federation file says.

The float codecs carry every array under its name. `int8`, `int4` and `top-k` are for updates, whose names and shapes
both sides know from the agreement: the arrays are laid end to end in the order of their names, and only numbers travel.

- `int8` has one scale per row (the last axis), max|x| / 127; `int4` one per 32 values of an array, max|x| / 7. A value
  between two steps goes up or down by chance, so that it is right on average (stochastic rounding, as in QSGD;
  Alistarh et al. 2017, arXiv 1610.02132). Scales are float16, rounded up.
- `top-k` sends the largest values of the whole update and where they are. What is left out is to be added to the next
  update (`with_feedback`).

On top of any of them, `compress` puts bytes of the same significance side by side, and zstd over all.

safetensors is used because it holds no code, checks its own bounds, and carries name, shape and dtype of every array.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.errors import ProtocolError, shown

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
FloatCodec = Literal["float32", "float16", "bfloat16"]
StateCodec = Literal[FloatCodec, "int8", "int4"]
CodecName = Literal[StateCodec, "top-k"]
STORED: Mapping[CodecName, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""What safetensors holds of an array; NumPy has no bfloat16 of its own."""
LEVELS: Mapping[CodecName, int] = {"int8": 127, "int4": 7}
"""Steps from zero to the largest value."""
SMALLEST_NORMAL = 2.0**-14
"""Of float16; what is smaller has fewer digits."""
with np.errstate(invalid="ignore"):
    HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16, by its bits."""
GROUP = 32
"""Values under one scale of `int4`."""
LENGTH = 8
"""Bytes before a compressed blob that say how long it is unpacked."""
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Coding:
    """How arrays are encoded."""

    codec: CodecName
    compress: bool = False
    top_k: float = 0.01
    """Fraction of an update's values that `top-k` sends."""


def encode(
    arrays: Mapping[str, np.ndarray], coding: Coding | CodecName, rng: np.random.Generator | None = None
) -> bytes:
    """Encode named arrays.

    A value that the codec cannot hold, or that is not finite, is not mended: it arrives as not finite, or is refused.

    Args:
        arrays: Of numbers, of any shape.
        coding: How; a name stands for that codec without compression.
        rng: Decides the rounding of `int8` and `int4`; the other codecs do without.
    """
    coding = _coding(coding)
    floats = {name: np.asarray(array, np.float32, order="C") for name, array in sorted(arrays.items())}
    with np.errstate(over="ignore", invalid="ignore"):
        if coding.codec in STORED:
            parts = {name: _store(array, coding.codec) for name, array in floats.items()}
        else:
            shapes = {name: array.shape for name, array in floats.items()}
            flat = np.concatenate([array.reshape(-1) for array in floats.values()] or [np.empty(0, np.float32)])
            parts = _pack_largest(flat, coding) if coding.codec == "top-k" else _pack(flat, shapes, coding.codec, rng)
    return _squeeze(as_safetensors(_shuffle(parts))) if coding.compress else as_safetensors(parts)


def as_safetensors(arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> bytes:
    """A safetensors blob of arrays of any layout, with metadata.

    Whatever is kept or sent as safetensors goes through here: the library takes an array's memory as it lies, so that a
    transposed array, or some columns of one, would become other numbers without a word.
    """
    laid_out = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(laid_out, None if about is None else dict(about))


def decode(blob: bytes, coding: Coding | CodecName, shapes: Shapes | None = None) -> Arrays:
    """Decode a blob to float32 arrays.

    Args:
        blob: From outside.
        coding: As agreed; a name stands for that codec without compression.
        shapes: By name, all arrays that may be there. They bound what is unpacked, and are the layout of `int8`, `int4`
            and `top-k`; the float codecs without compression do without, and what they hold is for the caller to check.

    Raises:
        ProtocolError: The blob is not one of this coding and these shapes.
    """
    coding = _coding(coding)
    if coding.compress:
        assert shapes is not None
        blob = _unsqueeze(blob, most=_most(shapes))
    try:
        parts = load(blob)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that NumPy has not
        raise ProtocolError(f"Expected a safetensors blob, but {len(blob)} bytes came that are not one.") from error
    if coding.compress:
        parts = _shuffle(parts, back=True)
    if coding.codec in STORED:
        # In one order: safetensors hands them out in another at every call.
        return {name: _restore(name, array, coding.codec) for name, array in sorted(parts.items())}
    assert shapes is not None
    shapes = dict(sorted(shapes.items()))
    size = sum(map(math.prod, shapes.values()))
    flat = _unpack_largest(parts, size, coding) if coding.codec == "top-k" else _unpack(parts, shapes, coding.codec)
    decoded, start = Arrays(), 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        decoded[name], start = flat[start:end].reshape(shape), end
    return decoded


def with_feedback(
    update: Mapping[str, np.ndarray], residual: Mapping[str, np.ndarray], coding: Coding
) -> tuple[Arrays, Arrays]:
    """What `top-k` sends of an update together with what it left out before, and what it leaves out now.

    e <- u + e - Q(u + e) (Stich et al. 2018, arXiv 1809.07599): nothing is lost, only sent later.

    Args:
        update: Float32 arrays.
        residual: What was left out so far; of an array that it lacks, or has in another shape, nothing was.
        coding: Of a codec without chance; encoding what is sent changes it no more.

    Returns:
        What is sent, and the new residual, which keeps that of arrays that this update has not.
    """
    total = {
        name: array + residual[name] if name in residual and residual[name].shape == array.shape else array
        for name, array in update.items()
    }
    plain = replace(coding, compress=False)
    sent = decode(encode(total, plain), plain, {name: array.shape for name, array in total.items()})
    return sent, {**residual, **{name: array - sent[name] for name, array in total.items()}}


def _coding(coding: Coding | CodecName) -> Coding:
    return coding if isinstance(coding, Coding) else Coding(coding)


def _store(array: np.ndarray, codec: CodecName) -> np.ndarray:
    if codec == "float16":
        return _to_half(array)
    if codec != "bfloat16":
        return array.astype(STORED[codec])
    bits = array.reshape(-1).view(np.uint32)
    nearest = bits + 0x7FFF + (bits >> 16 & 1)  # halfway to even
    return np.where(np.isnan(array.reshape(-1)), 0x7FC0, nearest >> 16).astype(np.uint16).reshape(array.shape)


def _restore(name: str, array: np.ndarray, codec: CodecName) -> np.ndarray:
    if array.dtype != STORED[codec]:
        raise ProtocolError(f"Expected {codec} arrays, but {shown(name)} is {array.dtype}.")
    if codec == "float16":
        # `astype` takes seven times as long for what is below SMALLEST_NORMAL.
        return HALVES[array.reshape(-1).view(np.uint16)].reshape(array.shape)
    if codec != "bfloat16":
        return array.astype(np.float32)
    return (array.reshape(-1).astype(np.uint32) << 16).view(np.float32).reshape(array.shape)


def _to_half(array: np.ndarray) -> np.ndarray:
    """As `astype(np.float16)`, which takes 30 times as long for each value below 2^-14, and most of an update's are."""
    small = np.abs(array) < SMALLEST_NORMAL
    if not small.any():
        return array.astype(np.float16)
    bits = np.where(small, np.float32(0), array).astype(np.float16).view(np.uint16)
    tiny = array[small]
    steps = np.rint(np.abs(tiny) * np.float32(2**24)).astype(np.uint16)  # subnormal numbers are multiples of 2^-24
    bits[small] = steps | np.signbit(tiny).astype(np.uint16) << 15
    return bits.view(np.float16)


def _lengths(shapes: Iterable[tuple[int, ...]], codec: CodecName) -> np.ndarray:
    """How many values each scale is for, array after array."""
    found = []
    for shape in shapes:
        size = math.prod(shape)
        width = GROUP if codec == "int4" else shape[-1] if shape else 1
        if size:
            found.append(np.minimum(width, size - np.arange(0, size, width)))
    return np.concatenate(found or [np.empty(0, np.int64)])


def _pack(flat: np.ndarray, shapes: Shapes, codec: CodecName, rng: np.random.Generator | None) -> Arrays:
    assert rng is not None
    lengths = _lengths(shapes.values(), codec)
    largest = np.maximum.reduceat(np.abs(flat), np.cumsum(lengths) - lengths) if len(flat) else flat
    exact = largest / LEVELS[codec]
    scales = exact.astype(np.float16)
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
    spread = np.repeat(scales.astype(np.float64), lengths)
    steps = np.divide(flat, spread, out=np.zeros_like(spread), where=spread > 0)
    whole = np.floor(steps + rng.random(len(steps))).clip(-LEVELS[codec], LEVELS[codec]).astype(np.int8)
    return {"scales": scales, "values": whole if codec == "int8" else _pair(whole)}


def _unpack(parts: Arrays, shapes: Shapes, codec: CodecName) -> np.ndarray:
    lengths = _lengths(shapes.values(), codec)
    size = int(lengths.sum())
    eight = codec == "int8"
    layout = {
        "scales": (np.float16, len(lengths)),
        "values": (np.int8, size) if eight else (np.uint8, (size + 1) // 2),
    }
    _check_parts(parts, layout, codec)
    scales = parts["scales"].astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ProtocolError(f"Expected finite scales of {codec}, none below zero, but others came.")
    whole = parts["values"] if eight else _unpair(parts["values"], size)
    if (whole < -LEVELS[codec]).any():
        raise ProtocolError(f"Expected values of {codec} from -{LEVELS[codec]} to {LEVELS[codec]}, but others came.")
    return whole * np.repeat(scales, lengths)


def _pair(whole: np.ndarray) -> np.ndarray:
    """Two values a byte, the first in the lower half; an odd one has a zero beside it."""
    halves = np.zeros((len(whole) + 1) // 2 * 2, np.uint8)
    halves[: len(whole)] = whole.view(np.uint8) & 15
    return halves[::2] | halves[1::2] << 4


def _unpair(pairs: np.ndarray, size: int) -> np.ndarray:
    halves = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
    if halves[size:].any():
        raise ProtocolError("Expected a zero beside the last value of int4, but another value came.")
    return (halves[:size] << 4).view(np.int8) >> 4  # the sign is the upper bit of four


def _kept(size: int, coding: Coding) -> int:
    """How many of so many values `top-k` sends."""
    return min(size, math.ceil(coding.top_k * size))


def _pack_largest(flat: np.ndarray, coding: Coding) -> Arrays:
    left = len(flat) - _kept(len(flat), coding)
    where = np.sort(np.argpartition(np.abs(flat), left)[left:]) if len(flat) else np.empty(0, np.int64)
    gaps = np.diff(where, prepend=-1) - 1
    shortest = min((_gaps(gaps, dtype) for dtype in (np.uint8, np.uint16)), key=lambda made: made.nbytes)
    return {"values": flat[where].astype(np.float16), "gaps": shortest}


def _gaps(gaps: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """How many values are skipped before each; the dtype's largest number adds itself to the one after it."""
    more = np.iinfo(dtype).max
    coded = np.full(len(gaps) + int((gaps // more).sum()), more, dtype)
    coded[np.cumsum(gaps // more + 1) - 1] = gaps % more
    return coded


def _unpack_largest(parts: Arrays, size: int, coding: Coding) -> np.ndarray:
    number = _kept(size, coding)
    gaps = parts.get("gaps", np.empty(0))
    dtype = np.uint16 if gaps.dtype == np.uint16 else np.uint8
    _check_parts(parts, {"values": (np.float16, number), "gaps": (dtype, gaps.size)}, "top-k")
    last = gaps < np.iinfo(dtype).max
    where = np.cumsum(gaps, dtype=np.int64)[last] + np.arange(last.sum())
    if len(where) != number or (number and not (last[-1] and where[-1] < size)):
        raise ProtocolError(f"Expected the places of {number} of {size} values, but others came.")
    flat = np.zeros(size, np.float32)
    flat[where] = parts["values"]
    return flat


def _check_parts(parts: Arrays, layout: Mapping[str, tuple[type[np.generic], int]], codec: CodecName) -> None:
    came = {name: (part.dtype.name, part.shape) for name, part in parts.items()}
    wanted = {name: (np.dtype(dtype).name, (size,)) for name, (dtype, size) in layout.items()}
    if came != wanted:
        raise ProtocolError(f"Expected a blob of {codec} with {wanted}, but it has {shown(came, 200)}.")


def _shuffle(parts: Arrays, *, back: bool = False) -> Arrays:
    """Arrays of the same names, dtypes and shapes, whose bytes, of all of one dtype together, are sorted by place.

    The first bytes of all values come first, then the second ones, and so on: exponents are alike, and zstd sees them
    together. `back` undoes it.
    """
    shuffled = Arrays()
    for dtype in {part.dtype for part in parts.values()}:
        of = {name: part for name, part in sorted(parts.items()) if part.dtype == dtype}
        planes = np.concatenate([part.reshape(-1) for part in of.values()]).view(np.uint8)
        shape = (dtype.itemsize, -1) if back else (-1, dtype.itemsize)
        flat = np.ascontiguousarray(planes.reshape(shape).T).reshape(-1).view(dtype)
        pieces = np.split(flat, np.cumsum([part.size for part in of.values()])[:-1])
        shuffled |= {name: piece.reshape(of[name].shape) for name, piece in zip(of, pieces, strict=True)}
    return shuffled


def _squeeze(blob: bytes) -> bytes:
    import pyarrow as pa  # here, because few federations compress

    packed: bytes = pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(blob, asbytes=True)
    return len(blob).to_bytes(LENGTH, "little") + packed


def _unsqueeze(blob: bytes, *, most: int) -> bytes:
    """Undo `_squeeze`; nothing longer than `most` bytes is ever unpacked."""
    length = int.from_bytes(blob[:LENGTH], "little")
    if len(blob) <= LENGTH or length > most:
        raise ProtocolError(f"Expected at most {most} bytes once they are unpacked, but a blob says {length}.")
    import pyarrow as pa

    try:
        unpacked: bytes = pa.Codec("zstd").decompress(blob[LENGTH:], decompressed_size=length, asbytes=True)
    except (OSError, pa.ArrowException) as error:
        raise ProtocolError(f"Expected zstd of {length} bytes, but {len(blob) - LENGTH} came that are not.") from error
    return unpacked


def _most(shapes: Shapes) -> int:
    """No blob of these arrays is longer, whatever the codec."""
    header = sum(len(name.encode()) + 256 for name in shapes) + 1024
    return header + 4 * sum(map(math.prod, shapes.values()))
