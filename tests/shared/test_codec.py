"""The wire format: what goes in comes out, and what is not one of ours is refused."""

import numpy as np
import pytest

from shared import codec
from shared.errors import ProtocolError


@pytest.mark.parametrize(("name", "tolerance"), [("float32", 0.0), ("float16", 2**-11)])
def test_round_trip(name: str, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 5)).astype(np.float32)
    arrays: codec.Arrays = {"a/b": matrix, "scalar": np.full((), 2.0, np.float32)}
    decoded = codec.decode(codec.encode(arrays, name), name)
    assert decoded.keys() == arrays.keys()
    for key, array in arrays.items():
        assert decoded[key].dtype == np.float32
        assert decoded[key].shape == array.shape
        np.testing.assert_allclose(decoded[key], array, rtol=tolerance, atol=0)


def test_the_same_arrays_make_the_same_bytes_in_any_order() -> None:
    a, b = np.zeros(2, np.float32), np.ones(3, np.float32)
    assert codec.encode({"a": a, "b": b}, "float16") == codec.encode({"b": b, "a": a}, "float16")


def test_a_transposed_array_keeps_its_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(codec.decode(codec.encode({"a": array}, "float32"), "float32")["a"], array)


def test_float16_is_half_the_bytes() -> None:
    arrays = {"a": np.zeros((100, 100), np.float32)}
    assert len(codec.encode(arrays, "float16")) < 0.52 * len(codec.encode(arrays, "float32"))


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"\xff" * 64])
def test_other_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ProtocolError, match="safetensors"):
        codec.decode(blob, "float32")


def test_another_precision_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Expected float16 arrays, but a is float32"):
        codec.decode(codec.encode({"a": np.zeros(2, np.float32)}, "float32"), "float16")
