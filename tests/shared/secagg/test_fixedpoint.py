"""Fixed-point words: exact sums, no wrapping, and the error that is promised."""

import numpy as np
import pytest

from shared.errors import ConfigError, ProtocolError
from shared.secagg import fixedpoint

SHAPES = {"b": (3,), "a": (2, 2), "c": (4,)}
SETTINGS = {"shapes": SHAPES, "clip": 4.0, "fraction_bits": 24, "word": np.dtype("<u4")}


def encode(arrays: dict[str, np.ndarray], weight: float = 1.0, **changes: object) -> np.ndarray:
    settings = SETTINGS | changes
    return fixedpoint.encode(arrays, {name: np.asarray(weight) for name in arrays}, **settings)  # type: ignore[arg-type]


def test_it_comes_back_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(-4, 4, SHAPES[name]) for name in ("a", "b")}
    back = fixedpoint.decode(encode(arrays, 0.3), shapes=SHAPES, fraction_bits=24)
    for name, array in arrays.items():
        np.testing.assert_allclose(back[name], 0.3 * array, atol=2**-25, rtol=0)
    assert not back["c"].any()


def test_weights_by_row() -> None:
    array = np.ones((2, 2))
    vector = fixedpoint.encode({"a": array}, {"a": np.array([[0.5], [0.0]])}, **SETTINGS)  # type: ignore[arg-type]
    assert fixedpoint.decode(vector, shapes=SHAPES, fraction_bits=24)["a"].tolist() == [[0.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("institutions", "bits"), [(31, 24), (100, 24), (3, 40)])
def test_the_largest_sum_does_not_wrap(institutions: int, bits: int, sign: float) -> None:
    word = fixedpoint.word_for(institutions, 4.0, bits)
    vectors = [encode({"a": np.full((2, 2), sign * 1e9)}, fraction_bits=bits, word=word) for _ in range(institutions)]
    total = fixedpoint.decode(np.sum(vectors, axis=0, dtype=word), shapes=SHAPES, fraction_bits=bits)
    assert (total["a"] == sign * 4.0 * institutions).all()


def test_the_word_is_the_smallest_that_cannot_wrap() -> None:
    assert fixedpoint.word_for(31, 4.0, 24) == np.dtype("<u4")
    assert fixedpoint.word_for(32, 4.0, 24) == np.dtype("<u8")
    with pytest.raises(ConfigError, match="64 bits"):
        fixedpoint.word_for(32, 2.0**38, 24)


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(ProtocolError, match="finite values, but the update of a"):
        encode({"a": np.full((2, 2), np.nan)})
    with pytest.raises(ProtocolError, match="weights of a between 0 and 1"):
        encode({"a": np.ones((2, 2))}, 1.5)
    with pytest.raises(ProtocolError, match="weights of a between 0 and 1"):
        encode({"a": np.ones((2, 2))}, float("nan"))
