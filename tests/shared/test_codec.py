"""The wire format: what goes in comes out, as near as the codec promises, and what is not one of ours is refused."""

import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from shared import codec
from shared.codec import CodecName, Coding, FloatCodec
from shared.errors import ProtocolError

FLOATS: tuple[FloatCodec, ...] = get_args(FloatCodec)
CODECS: tuple[CodecName, ...] = (*FLOATS, "int8", "int4", "top-k")
BOTH = pytest.mark.parametrize("compress", [False, True])
SHAPES: dict[str, tuple[int, ...]] = {"adapter/a": (3, 50), "head/t/b": (7,), "head/t/s": (), "head/t/w": (5, 7, 2)}


def normal(shapes: codec.Shapes = SHAPES, seed: int = 0, scale: float = 1.0) -> codec.Arrays:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(0, scale, shape), np.float32) for name, shape in shapes.items()}


def there_and_back(arrays: codec.Arrays, coding: Coding | CodecName, seed: int = 1) -> codec.Arrays:
    blob = codec.encode(arrays, coding, np.random.default_rng(seed))
    return codec.decode(blob, coding, {name: array.shape for name, array in arrays.items()})


def laid_out(arrays: codec.Arrays) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for _, array in sorted(arrays.items())])


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_names_shapes_and_dtype_come_back_whatever_the_order(name: CodecName, compress: bool) -> None:
    arrays = normal()
    coding = Coding(name, compress)
    decoded = there_and_back(dict(reversed(arrays.items())), coding)
    assert list(decoded) == sorted(decoded), "so that what is made of it is the same every time"
    assert {key: (value.dtype, value.shape) for key, value in decoded.items()} == {
        key: (np.dtype(np.float32), shape) for key, shape in SHAPES.items()
    }
    for key, value in there_and_back(arrays, coding).items():
        np.testing.assert_array_equal(value, decoded[key])


@BOTH
@pytest.mark.parametrize(("name", "tolerance"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_floats_keep_their_digits(name: FloatCodec, tolerance: float, compress: bool) -> None:
    arrays = normal()
    for key, value in there_and_back(arrays, Coding(name, compress)).items():
        np.testing.assert_allclose(value, arrays[key], rtol=tolerance, atol=0)


def test_bfloat16_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([normal()["adapter/a"].reshape(-1), np.array([0, -0.0, 1e-40, 3.4e38, np.inf, -np.inf])])
    halfway = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # one goes down, the other up
    values = np.concatenate([values, halfway]).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    came = there_and_back({"a": values}, "bfloat16")["a"]
    np.testing.assert_array_equal(came.view(np.uint32), expected.view(np.uint32))
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(there_and_back({"a": nans}, "bfloat16")["a"]).all()


def test_float16_is_numpys() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore", over="ignore"):
        values = halves.astype(np.float32)
        between = (values[:-1].astype(np.float64) + values[1:]) / 2  # halfway, where rounding is to even
        extreme = np.array([1e-45, -1e-45, 2**-25, 1e9], np.float32)
        values = np.concatenate([values, between.astype(np.float32), extreme])
        expected = values.astype(np.float16)
    came = load(codec.encode({"a": values, "b": np.array(3e-6, np.float32)}, "float16"))
    np.testing.assert_array_equal(came["a"].view(np.uint16), expected.view(np.uint16))
    decoded = there_and_back({"a": values, "b": np.array(3e-6, np.float32)}, "float16")
    np.testing.assert_array_equal(decoded["a"], expected.astype(np.float32))
    assert decoded["b"].shape == ()
    assert decoded["b"].dtype == np.float32


def test_a_transposed_array_keeps_its_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    for name in FLOATS:
        np.testing.assert_array_equal(there_and_back({"a": array}, name)["a"], array)
    assert np.abs(there_and_back({"a": array}, "int8")["a"] - array).max() < 5 / 127 * 1.001


def scales_of(arrays: codec.Arrays, name: CodecName) -> dict[str, np.ndarray]:
    """The step that every value is rounded to, by loops over rows and groups."""
    found = {}
    for key, array in arrays.items():
        steps = np.zeros(array.size)
        width = 32 if name == "int4" else array.shape[-1] if array.ndim else 1
        for start in range(0, array.size, width):
            piece = array.reshape(-1)[start : start + width]
            exact = np.abs(piece).max() / (7 if name == "int4" else 127)
            step = np.float16(exact)
            steps[start : start + width] = step if step >= exact else np.nextafter(step, np.float16(np.inf))
        found[key] = steps.reshape(array.shape)
    return found


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_the_error_is_below_one_step_and_nothing_on_average(name: CodecName, scale: float) -> None:
    arrays = normal(scale=scale)
    arrays["adapter/a"][1] = 0.0
    arrays["head/t/w"][0, 0] = [10 * scale, -10 * scale]
    steps = scales_of(arrays, name)
    draws = 2000
    shapes = {key: value.shape for key, value in arrays.items()}
    total: dict[str, Any] = {key: np.zeros(value.shape) for key, value in arrays.items()}
    rng = np.random.default_rng(0)
    for _ in range(draws):
        for key, value in codec.decode(codec.encode(arrays, name, rng), name, shapes).items():
            assert (np.abs(value - arrays[key]) <= steps[key] * (1 + 1e-4)).all()
            total[key] += value
    for key, array in arrays.items():
        # A rounding lies within a step and has a deviation of half a step at most: 5 deviations of the mean.
        assert (
            np.abs(total[key] / draws - array) <= 5 * steps[key] / 2 / math.sqrt(draws) + 1e-5 * np.abs(array)
        ).all()
    assert not total["adapter/a"][1].any()


def test_the_largest_value_of_a_row_is_kept() -> None:
    array = normal()["adapter/a"]
    for came, row in zip(there_and_back({"a": array}, "int8")["a"], array, strict=True):
        assert came[np.abs(row).argmax()] == pytest.approx(row[np.abs(row).argmax()], rel=0.01)


@given(st.lists(st.integers(-7, 7), min_size=1, max_size=70))
def test_int4_is_packed_two_a_byte(whole: list[int]) -> None:
    arrays = {"a": np.array(whole, np.float32) * np.float32(0.5)}
    arrays["a"][::32] = 3.5  # every group's step is then a half
    packed = load(codec.encode(arrays, "int4", np.random.default_rng(0)))["values"]
    expected = bytearray((len(whole) + 1) // 2)
    for index, value in enumerate(arrays["a"]):
        expected[index // 2] |= (round(float(value) * 2) % 16) << (4 * (index % 2))
    assert packed.tobytes() == bytes(expected)
    np.testing.assert_array_equal(there_and_back(arrays, "int4")["a"], arrays["a"])


@BOTH
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 1.0])
def test_top_k_is_exactly_the_largest(fraction: float, compress: bool) -> None:
    arrays = normal({"a": (40, 50), "b": (301,)})
    flat = laid_out(arrays)
    number = math.ceil(fraction * flat.size)
    expected = np.zeros_like(flat)
    for index in sorted(range(flat.size), key=lambda i: -abs(flat[i]))[:number]:
        expected[index] = np.float16(flat[index])
    np.testing.assert_array_equal(laid_out(there_and_back(arrays, Coding("top-k", compress, fraction))), expected)


def test_places_far_apart_are_found_again() -> None:
    """Gaps just below, at, and above what one number holds, in one byte and in two."""
    for gaps in ([0, 254, 255, 256, 509, 510, 511], [65534, 65535, 65536, 131070, 3]):
        where = np.cumsum(np.array(gaps) + 1) - 1
        arrays = {"a": np.zeros(where[-1] + 1, np.float32)}
        arrays["a"][where] = np.arange(1, len(gaps) + 1)
        came = there_and_back(arrays, Coding("top-k", top_k=len(gaps) / len(arrays["a"])))
        np.testing.assert_array_equal(came["a"], arrays["a"])


@pytest.mark.parametrize("alternating", [False, True])
def test_feedback_sends_everything_in_the_end(alternating: bool) -> None:
    coding = Coding("top-k", top_k=0.05)
    shapes: dict[str, tuple[int, ...]] = {"A": (8, 30), "B": (20, 8)}
    updates, sent = dict[str, Any](), dict[str, Any]()
    residual: codec.Arrays = {}
    for round in range(20):
        update = normal(shapes, seed=round, scale=0.01)
        if alternating:
            update = {"AB"[round % 2]: update["AB"[round % 2]]}
        leaves, residual = codec.with_feedback(update, residual, coding)
        assert sum(np.count_nonzero(array) for array in leaves.values()) <= math.ceil(
            0.05 * sum(array.size for array in update.values())
        )
        for name, array in there_and_back(leaves, coding).items():
            np.testing.assert_array_equal(array, leaves[name])  # encoding what is sent changes it no more
        for name in update:
            updates[name] = updates.get(name, 0) + update[name].astype(np.float64)
            sent[name] = sent.get(name, 0) + leaves[name].astype(np.float64)
    for name in shapes:
        np.testing.assert_allclose(sent[name] + residual[name], updates[name], rtol=0, atol=1e-6)
        assert np.abs(residual[name]).max() > 1e-3, "or nothing was left out, and the test shows nothing"


def test_a_residual_of_another_shape_is_forgotten() -> None:
    update = {"A": np.ones((4, 2), np.float32)}
    sent, residual = codec.with_feedback(update, {"A": np.ones((2, 2), np.float32)}, Coding("top-k", top_k=0.5))
    np.testing.assert_array_equal(sent["A"] + residual["A"], update["A"])


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_chance_is_the_generators(name: CodecName, compress: bool) -> None:
    arrays, coding = normal(), Coding(name, compress)
    first, again, other = (codec.encode(arrays, coding, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert (first == other) == (name not in ("int8", "int4"))


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_finite_does_not_arrive_as_finite(name: CodecName, compress: bool) -> None:
    for wrong in (np.nan, np.inf, 1e30):
        arrays = normal()
        arrays["head/t/b"][3] = wrong
        if name in ("int8", "int4"):
            with pytest.raises(ProtocolError, match="finite scales"):
                there_and_back(arrays, Coding(name, compress))
        else:
            holds = wrong == 1e30 and name in ("float32", "bfloat16")
            came = there_and_back(arrays, Coding(name, compress))
            assert np.isfinite(came["head/t/b"]).all() == holds


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_no_arrays_are_a_blob_too(name: CodecName, compress: bool) -> None:
    assert there_and_back({}, Coding(name, compress)) == {}
    assert there_and_back({"a": np.empty((0, 4), np.float32)}, Coding(name, compress))["a"].shape == (0, 4)


def adapter() -> codec.Arrays:
    """An update as large as MiniLM's at rank 8: 6 layers of 6 linear ones, and a head."""
    shapes: dict[str, tuple[int, ...]] = {"head/topics/linear.weight": (3, 384), "head/topics/linear.bias": (3,)}
    square = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}
    sizes = dict.fromkeys(sorted(square), (384, 384)) | {"intermediate.dense": (1536, 384), "output.dense": (384, 1536)}
    for layer in range(6):
        for part, (outputs, inputs) in sizes.items():
            name = f"adapter/base_model.model.encoder.layer.{layer}.{part}"
            shapes |= {f"{name}.lora_A.weight": (8, inputs), f"{name}.lora_B.weight": (outputs, 8)}
    return normal(shapes, scale=1e-3)


@pytest.mark.parametrize(
    ("coding", "most"),
    [
        (Coding("float32"), 4.04),
        (Coding("float16"), 2.04),
        (Coding("float16", compress=True), 1.72),
        (Coding("bfloat16", compress=True), 1.46),
        (Coding("int8"), 1.13),
        (Coding("int8", compress=True), 1.05),
        (Coding("int4"), 0.57),
        (Coding("int4", compress=True), 0.52),
        (Coding("top-k", top_k=0.1), 0.31),
        (Coding("top-k"), 0.0315),
        (Coding("top-k", compress=True), 0.026),
        (Coding("top-k", top_k=0.001), 0.0045),
    ],
)
def test_bytes_of_a_parameter(coding: Coding, most: float) -> None:
    update = adapter()
    size = sum(array.size for array in update.values())
    assert size == 332_931
    blob = codec.encode(update, coding, np.random.default_rng(0))
    assert 0.9 * most < len(blob) / size < most


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"\xff" * 64])
@pytest.mark.parametrize("name", CODECS)
def test_other_bytes_are_refused(blob: bytes, name: CodecName) -> None:
    with pytest.raises(ProtocolError, match="safetensors"):
        codec.decode(blob, name, SHAPES)
    with pytest.raises(ProtocolError, match="unpacked"):
        codec.decode(blob, Coding(name, compress=True), SHAPES)


def test_another_codec_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Expected float16 arrays, but 'a' is float32"):
        codec.decode(codec.encode({"a": np.zeros(2, np.float32)}, "float32"), "float16")
    blobs = {name: codec.encode(normal(), name, np.random.default_rng(0)) for name in CODECS}
    for made, blob in blobs.items():
        for name in CODECS:
            if name != made:
                with pytest.raises(ProtocolError, match="Expected"):
                    codec.decode(blob, name, SHAPES)


def parts(name: CodecName, coding: Coding | None = None) -> codec.Arrays:
    return load(codec.encode(normal(), coding or name, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("int8", lambda p: p["scales"].__setitem__(0, np.inf), "finite scales"),
        ("int8", lambda p: p["scales"].__setitem__(0, np.nan), "finite scales"),
        ("int4", lambda p: p["scales"].__setitem__(0, -1), "finite scales"),
        ("int8", lambda p: p["values"].__setitem__(0, -128), "from -127 to 127"),
        ("int4", lambda p: p["values"].__setitem__(0, 0x08), "from -7 to 7"),
        ("int4", lambda p: p["values"].__setitem__(-1, 0x10), None),
        ("int4", lambda p: p.__setitem__("values", p["values"][1:]), "blob of int4"),
        ("int8", lambda p: p.__setitem__("values", p["values"].reshape(1, -1)), "blob of int8"),
        ("int8", lambda p: p.__setitem__("values", p["values"].view(np.uint8)), "blob of int8"),
        ("int8", lambda p: p.__setitem__("more", p["values"]), "blob of int8"),
        ("int8", lambda p: p.pop("scales"), "blob of int8"),
        ("top-k", lambda p: p.pop("gaps"), "blob of top-k"),
        ("top-k", lambda p: p.__setitem__("values", p["values"][1:]), "blob of top-k"),
        ("top-k", lambda p: p.__setitem__("gaps", p["gaps"].astype(np.int64)), "blob of top-k"),
        ("top-k", lambda p: p.__setitem__("gaps", p["gaps"][1:]), "places"),
        ("top-k", lambda p: p.__setitem__("gaps", np.append(p["gaps"], np.uint8(255))), "places"),
        ("top-k", lambda p: p["gaps"].__setitem__(-1, 254), "places"),
    ],
)
def test_a_malformed_blob_is_refused(name: CodecName, change: Any, said: str | None) -> None:
    made = parts(name)
    change(made)
    if said is None:
        codec.decode(save(made), name, SHAPES)  # 228 values: the last byte is full
        return
    with pytest.raises(ProtocolError, match=said):
        codec.decode(save(made), name, SHAPES)


def test_an_odd_value_has_a_zero_beside_it() -> None:
    shapes = {"a": (3,)}
    made = load(codec.encode(normal(shapes), "int4", np.random.default_rng(0)))
    made["values"][-1] |= 0x10
    with pytest.raises(ProtocolError, match="zero beside the last value"):
        codec.decode(save(made), "int4", shapes)


def squeezed(blob: bytes, claimed: int | None = None) -> bytes:
    length = len(blob) if claimed is None else claimed
    packed: bytes = pa.compress(blob, codec="zstd", asbytes=True)
    return length.to_bytes(8, "little") + packed


def test_nothing_larger_than_what_was_agreed_is_unpacked() -> None:
    coding = Coding("float16", compress=True)
    bomb = bytes(200_000_000)
    assert len(squeezed(bomb)) < 20_000
    with pytest.raises(ProtocolError, match="Expected at most"):
        codec.decode(squeezed(bomb), coding, SHAPES)
    for claimed in (10, 2000):
        with pytest.raises(ProtocolError, match="Expected zstd"):
            codec.decode(squeezed(bomb, claimed), coding, SHAPES)
    with pytest.raises(ProtocolError, match="Expected at most"):
        codec.decode(squeezed(b"", 2**64 - 1), coding, SHAPES)
    good = codec.encode(normal(), coding)
    for wrong in (good[:-1], good[:8], good + b"x"):
        with pytest.raises(ProtocolError, match="Expected"):
            codec.decode(wrong, coding, SHAPES)


def test_names_as_long_as_they_may_be_fit_the_bound() -> None:
    shapes: dict[str, tuple[int, ...]] = {f"head/{'t' * 48}/{n}.{'w' * 100}": (1, 1, 1) for n in range(200)}
    for name in CODECS:
        assert there_and_back(normal(shapes), Coding(name, compress=True)).keys() == shapes.keys()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(CODECS), st.booleans())
def test_whatever_comes_is_decoded_or_refused(data: st.DataObject, name: CodecName, compress: bool) -> None:
    """Bytes changed, cut off, added: within the compression too, where a checksum does not help."""
    coding = Coding(name, compress=False)
    blob = bytearray(codec.encode(normal(), coding, np.random.default_rng(0)))
    for _ in range(data.draw(st.integers(0, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.one_of(st.just(len(blob)), st.integers(0, len(blob))))]
    blob += data.draw(st.binary(max_size=4))
    sent = squeezed(bytes(blob)) if compress else bytes(blob)
    if compress and data.draw(st.booleans()):
        changed = bytearray(sent)
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
        sent = bytes(changed)
    try:
        decoded = codec.decode(sent, Coding(name, compress), SHAPES)
    except ProtocolError:
        return
    assert all(array.dtype == np.float32 for array in decoded.values())
    if name not in FLOATS:
        assert {key: array.shape for key, array in decoded.items()} == SHAPES
        assert name == "top-k" or all(np.isfinite(array).all() for array in decoded.values())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(CODECS), st.booleans())
def test_noise_is_refused(blob: bytes, name: CodecName, compress: bool) -> None:
    with pytest.raises(ProtocolError):
        codec.decode(blob, Coding(name, compress), SHAPES)


SMALL = st.dictionaries(
    st.text("abc/", min_size=1, max_size=4), st.lists(st.integers(0, 5), max_size=3).map(tuple), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(SMALL, st.sampled_from(CODECS), st.booleans(), st.sampled_from([0.01, 0.5, 1.0]), st.integers(0, 9))
def test_any_shapes_come_back(
    shapes: dict[str, tuple[int, ...]], name: CodecName, compress: bool, fraction: float, seed: int
) -> None:
    arrays = normal(shapes, seed)
    decoded = there_and_back(arrays, Coding(name, compress, fraction))
    assert {key: value.shape for key, value in decoded.items()} == shapes
    if name in ("int8", "int4") or fraction == 1.0:
        for key, value in decoded.items():
            tolerance = np.abs(arrays[key]).max(initial=0) / (7 if name == "int4" else 127)
            assert (np.abs(value - arrays[key]) <= tolerance * 1.01 + 1e-6).all()


def test_every_dtype_that_safetensors_knows_is_refused_in_one_sentence() -> None:
    for kind in ("BF16", "F8_E4M3", "C64", "BOOL", "F64"):
        header = b'{"a":{"dtype":"%s","shape":[0],"data_offsets":[0,0]}}' % kind.encode()
        blob = len(header).to_bytes(8, "little") + header
        for name in CODECS:
            with pytest.raises(ProtocolError, match="Expected"):
                codec.decode(blob, name, SHAPES)


def test_arrays_of_any_layout_are_kept_as_they_are() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    given = {
        "columns": whole[:, :2],
        "rows": whole[1::2],
        "turned": whole.T,
        "one": whole[2, 3],
        "back": whole[:, ::-1],
    }
    kept = load(codec.as_safetensors(given, {"about": "them"}))
    for name, array in given.items():
        np.testing.assert_array_equal(kept[name], array)


def test_nobody_else_writes_arrays_of_numpy_as_safetensors() -> None:
    writes = re.compile(r"safetensors\.numpy import .*\bsave")  # torch refuses what does not lie in a row
    root = Path(codec.__file__).parents[1]
    files = [file for room in ("server", "client", "shared") for file in (root / room).rglob("*.py")]
    assert len(files) > 300
    found = [file.name for file in files if writes.search(file.read_text(encoding="utf-8"))]
    assert found == ["codec.py"]
