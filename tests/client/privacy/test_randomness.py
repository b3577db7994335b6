"""The stream of noise and coins against their distributions; keys that matter in every bit and show nowhere."""

import math
import pickle
import secrets
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from client.privacy.owners import Private
from client.privacy.randomness import CHUNK, Secret, Stream
from shared.federation import Privacy

KEY = bytes(range(32))
"""Tests of a distribution take a fixed key: they pass or fail for good."""


def flipped(bit: int) -> bytes:
    return (int.from_bytes(KEY, "big") ^ (1 << bit)).to_bytes(32, "big")


def test_every_bit_of_the_key_gives_other_noise() -> None:
    """A generator that used 32 bits of its seed passed for random for as long as nobody tried all of them."""
    first = Stream(KEY).noise(4)
    coins = Stream(KEY).uniform(4)
    draws = {tuple(first.tolist())}
    for bit in range(256):
        other = Stream(flipped(bit)).noise(4)
        assert not (other == first).any(), f"bit {bit} of the key makes no difference"
        assert not (Stream(flipped(bit)).uniform(4) == coins).any(), f"bit {bit} of the key makes no difference"
        draws.add(tuple(other.tolist()))
    assert len(draws) == 257
    assert torch.equal(Stream(KEY).noise(4), first)


def test_every_bit_of_the_secret_gives_other_numbers() -> None:
    first = Secret(KEY).generator("reword", "clauses", "anna", 0).random()
    others = {Secret(flipped(bit)).generator("reword", "clauses", "anna", 0).random() for bit in range(256)}
    assert len(others) == 256
    assert first not in others


def test_the_stream_is_aes_of_the_whole_key() -> None:
    """Against the cipher itself, block by block: AES-256 of a counter."""
    cipher = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor()
    blocks = b"".join(cipher.update(counter.to_bytes(16, "big")) for counter in range(8))
    words = np.frombuffer(blocks, dtype="<u8")
    stream = Stream(KEY)
    expected = [(int(word) >> 11) / 2**53 for word in words]
    assert [*stream.uniform(6), *stream.uniform(10)] == expected


def test_normal_is_box_and_muller_of_the_stream() -> None:
    """Against Python's own float64, number by number."""
    cipher = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(cipher.update(bytes(6 * 8)), dtype="<i8").tolist()
    radius = [math.sqrt(-2 * math.log(((word % 2**63) + 1) / 2**63)) for word in words[:3]]
    angle = [math.pi * word / 2**63 for word in words[3:]]
    expected = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
    expected += [r * math.sin(a) for r, a in zip(radius, angle, strict=True)]
    assert Stream(KEY).normal(5).tolist() == pytest.approx(expected[:5], rel=1e-12)


@pytest.mark.parametrize("draw", [Stream.normal, Stream.noise])
def test_noise_is_normal(draw: Callable[[Stream, int], torch.Tensor]) -> None:
    """Kolmogorov and Smirnov's distance, moments and tails of a million numbers."""
    count = 1_000_000
    found = draw(Stream(KEY), count)
    assert found.dtype == torch.float64
    assert found.shape == (count,)
    assert len(set(found.tolist())) > count - 10
    numbers = found.numpy()
    assert stats.kstest(numbers, "norm").pvalue > 0.01
    for power, (moment, spread) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], 1):
        assert abs(float((numbers**power).mean()) - moment) < 4 * math.sqrt(spread / count), power
    for bound in (1, 2, 3, 4):
        expected = 2 * count * stats.norm.sf(bound)
        beyond = int((abs(numbers) > bound).sum())
        assert abs(beyond - expected) < 4 * math.sqrt(expected), bound
    assert abs(numbers).max() < 7


def test_coins_are_uniform() -> None:
    coins = Stream(KEY).uniform(1_000_000)
    assert stats.kstest(coins, "uniform").pvalue > 0.01
    assert coins.min() >= 0
    assert coins.max() < 1
    assert set((coins[:1000] * 2**53) % 1) == {0.0}, "not multiples of 2^-53"
    last = (coins * 2**53).astype(np.uint64)
    for bit in range(53):
        assert abs(int((last >> np.uint64(bit) & np.uint64(1)).sum()) - 500_000) < 4 * 500, f"bit {bit} is not fair"


def test_draws_know_nothing_of_each_other() -> None:
    """Neighbours, the two of a pair, one step and the next: no correlation, nor of their squares."""
    stream, count = Stream(KEY), 2 * CHUNK
    first, second = stream.noise(count).numpy(), stream.noise(count).numpy()
    limit = 4 / math.sqrt(count)
    for one, other in [
        (first, second),
        (first[:-1], first[1:]),
        (first[: CHUNK // 2], first[CHUNK // 2 : CHUNK]),
        (first[:CHUNK], first[CHUNK:]),
    ]:
        assert abs(np.corrcoef(one, other)[0, 1]) < limit * math.sqrt(count / len(one))
        assert abs(np.corrcoef(one**2, other**2)[0, 1]) < limit * math.sqrt(count / len(one))


@pytest.mark.parametrize("size", [0, 1, 7, CHUNK, CHUNK + 1])
def test_as_many_as_asked_for(size: int) -> None:
    assert Stream(KEY).noise(size).shape == (size,)
    assert Stream(KEY).uniform(size).shape == (size,)


def test_without_a_key_the_operating_system_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def give(count: int) -> bytes:
        asked.append(count)
        return KEY

    monkeypatch.setattr(secrets, "token_bytes", give)
    assert torch.equal(Stream().noise(3), Stream(KEY).noise(3))
    assert Secret().generator("a").random() == Secret(KEY).generator("a").random()
    assert asked == [32, 32]
    monkeypatch.undo()
    assert not torch.equal(Stream().noise(3), Stream().noise(3))
    assert Secret().generator("a").random() != Secret().generator("a").random()


@pytest.mark.parametrize("kind", [Stream, Secret])
def test_a_key_of_another_length_is_none(kind: type[Stream]) -> None:
    with pytest.raises(ValueError, match="key"):
        kind(bytes(65))


def test_keys_show_nowhere() -> None:
    private = Private(Privacy(noise_multiplier=1.0), 1.0, {("clauses", 0): "anna"}, Secret(KEY))
    for holder in (Stream(KEY), Secret(KEY), private):
        shown = f"{holder!r} {holder} {vars(holder)}"
        assert KEY.hex() not in shown
        assert repr(KEY)[2:-1] not in shown
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(holder)
    assert "anna" not in repr(private)


def test_each_record_draws_for_itself() -> None:
    """Other words, owners or places give other numbers; the same give the same."""
    secret = Secret(KEY)
    words: list[tuple[str | int, ...]] = [
        ("redraw", 0, "t", "anna", 0),
        ("redraw", 1, "t", "anna", 0),
        ("redraw", 0, "t", "anna", 1),
    ]
    words += [("redraw", 0, "t", "ann", 0), ("redraw", 0, "ta", "nna", 0), ("redraw", "0", "t", "anna", 0)]
    assert len({secret.generator(*each).random() for each in words}) == len(words)
    assert secret.generator(*words[0]).random() == secret.generator(*words[0]).random()


def test_who_else_is_there_does_not_change_a_records_chance() -> None:
    """An owner in front moves the positions of all records after hers, and nothing else."""
    settings = Privacy(noise_multiplier=1.0)
    few = {("notes", 0): "ben", ("notes", 1): "carla", ("notes", 2): "ben"}
    more = {("notes", 0): "anna", **{("notes", record + 1): owner for (_, record), owner in few.items()}}
    alone = Private(settings, 1.0, few, Secret(KEY)).chance("redraw", 3)
    joined = Private(settings, 1.0, more, Secret(KEY)).chance("redraw", 3)
    numbers = [alone("notes", record).random() for record in range(3)]
    assert [joined("notes", record + 1).random() for record in range(3)] == numbers
    assert len({*numbers, joined("notes", 0).random()}) == 4
