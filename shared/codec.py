"""What arrays look like on the wire: one safetensors blob, in the precision that the federation file names.

A codec is a pair of plain functions over named float32 arrays. safetensors is used because it holds no code, checks
its own bounds, and carries name, shape and dtype of every array.
"""

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.errors import ProtocolError

Arrays = dict[str, np.ndarray]
DTYPES: dict[str, type[np.floating]] = {"float32": np.float32, "float16": np.float16}
"""The codecs, by the name used in the federation file."""


def encode(arrays: Mapping[str, np.ndarray], codec: str) -> bytes:
    """Encode named arrays as `codec`; values beyond float16's range become infinite and are refused on arrival."""
    dtype = DTYPES[codec]
    with np.errstate(over="ignore"):
        return save({name: np.asarray(array, dtype=dtype, order="C") for name, array in sorted(arrays.items())})


def decode(blob: bytes, codec: str) -> Arrays:
    """Decode a blob to float32 arrays; ProtocolError if it is not one of `codec`."""
    try:
        arrays = load(blob)
    except SafetensorError as error:
        raise ProtocolError(f"Expected a safetensors blob, but {len(blob)} bytes came that are not one.") from error
    for name, array in arrays.items():
        if array.dtype != DTYPES[codec]:
            raise ProtocolError(f"Expected {codec} arrays, but {name} is {array.dtype}.")
    return {name: array.astype(np.float32) for name, array in arrays.items()}
