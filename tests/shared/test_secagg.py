"""Masks: they vanish in the sum and nowhere else, whoever goes away and whatever is sent."""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2_contingency, chisquare

from shared import secagg
from shared.errors import ProtocolError
from shared.fixedpoint import Word
from shared.secagg import Keys, PublicKeys, Share, Shared

WORDS: list[Word] = [np.dtype("<u4"), np.dtype("<u8")]
NAMES = ("bank", "clinic", "hospital", "insurer", "law_firm")
THRESHOLD = 3


class Party:
    """An institution that does what the protocol says."""

    def __init__(self, name: str, vector: np.ndarray) -> None:
        self.name, self.vector = name, vector
        self.keys = secagg.make_keys()
        self.directory: dict[str, PublicKeys] = {}
        self.shared: Shared
        self.held: dict[str, Share] = {}

    def share(self, directory: dict[str, PublicKeys], threshold: int) -> Shared:
        self.directory = directory
        self.shared = secagg.share_secrets(self.name, self.keys, directory, threshold=threshold)
        return self.shared

    def mask(self, sealed: dict[str, str]) -> np.ndarray:
        self.held = {
            sender: secagg.open_share(self.name, self.keys, self.directory, sender=sender, sealed=text)
            for sender, text in sealed.items()
        }
        mine = {"name": self.name, "seed": self.shared.seed, "keys": self.keys}
        masked = secagg.mask(self.vector, **mine, directory=self.directory, peers=self.held)  # type: ignore[arg-type]
        self.held[self.name] = self.shared.own
        return masked


def play(
    vectors: dict[str, np.ndarray],
    *,
    threshold: int = THRESHOLD,
    gone: Mapping[str, Collection[str]] | None = None,
    falsify: Callable[[str, str, bytes], bytes] = lambda holder, of, share: share,
) -> tuple[np.ndarray, set[str]]:
    """The whole protocol; who is `gone` after a stage is not heard of again. The sum, and whose vectors are in it."""
    gone = gone or {}

    def stay(names: Collection[str], stage: str) -> list[str]:
        return [name for name in names if name not in gone.get(stage, ())]

    parties = {name: Party(name, vectors[name]) for name in stay(list(vectors), "before keys")}
    directory = {name: party.keys.public for name, party in parties.items()}
    sharing = {name: parties[name].share(directory, threshold) for name in stay(list(parties), "keys")}
    masked = {
        name: parties[name].mask({peer: s.sealed[name] for peer, s in sharing.items() if peer != name})
        for name in stay(list(sharing), "shares")
    }
    helpers = stay(list(masked), "masked")

    def shares(of: str, kind: str) -> dict[str, bytes]:
        return {h: falsify(h, of, getattr(parties[h].held[of], kind)) for h in helpers}

    seeds = {
        name: secagg.recover_seed(
            shares(name, "seed"), directory, threshold=threshold, commitment=sharing[name].commitment
        )
        for name in masked
    }
    lost = {
        name: secagg.recover_key(shares(name, "key"), directory, threshold=threshold, of=name)
        for name in sharing
        if name not in masked
    }
    total = np.sum(list(masked.values()), axis=0, dtype=next(iter(vectors.values())).dtype)
    return secagg.unmask(total, seeds=seeds, lost=lost, directory=directory), set(masked)


def random_vectors(word: Word, names: tuple[str, ...] = NAMES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.integers(0, 2 ** (8 * word.itemsize), 50, word, endpoint=False) for name in names}


def plain_sum(vectors: dict[str, np.ndarray], names: Collection[str]) -> list[int]:
    word = next(iter(vectors.values())).dtype
    return [sum(int(vectors[n][i]) for n in names) % 2 ** (8 * word.itemsize) for i in range(50)]


STAGES = ("before keys", "keys", "shares", "masked")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", range(len(NAMES) - THRESHOLD + 1))
def test_integer_sums_are_the_plain_sums(number: int, stage: str) -> None:
    vectors = random_vectors(WORDS[0])
    for away in itertools.combinations(NAMES, number):
        total, names = play(vectors, gone={stage: away})
        assert names == (set(NAMES) if stage == "masked" else set(NAMES) - set(away))
        assert total.tolist() == plain_sum(vectors, names)


@pytest.mark.parametrize("word", WORDS, ids=str)
def test_going_away_at_several_stages(word: Word) -> None:
    vectors = random_vectors(word)
    total, names = play(vectors, threshold=2, gone={"keys": ["bank"], "shares": ["hospital"], "masked": ["clinic"]})
    assert names == {"clinic", "insurer", "law_firm"}
    assert total.tolist() == plain_sum(vectors, names)


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_there_is_no_sum(stage: str) -> None:
    with pytest.raises(ProtocolError, match=r"at least 3 institutions, but 2|3 true shares of a secret, but [02] came"):
        play(random_vectors(WORDS[0]), gone={stage: ["bank", "law_firm", "clinic"]})


@pytest.mark.parametrize("gone", [{}, {"shares": ["law_firm"]}])
def test_a_false_share_is_not_used(gone: dict[str, list[str]]) -> None:
    def flip(holder: str, of: str, share: bytes) -> bytes:
        return share[:9] + bytes([share[9] ^ 1]) + share[10:] if holder == "bank" else share

    def other_number(holder: str, of: str, share: bytes) -> bytes:
        return (2).to_bytes(4, "little") + share[4:] if holder == "bank" else share

    def short(holder: str, of: str, share: bytes) -> bytes:
        return share[:20] if holder == "bank" else share

    vectors = random_vectors(WORDS[0])
    for falsify in (flip, other_number, short):
        total, names = play(vectors, gone=gone, falsify=falsify)
        assert total.tolist() == plain_sum(vectors, names)


@pytest.mark.parametrize("gone", [{}, {"shares": ["law_firm"]}])
def test_too_many_false_shares_give_no_sum(gone: dict[str, list[str]]) -> None:
    def flip(holder: str, of: str, share: bytes) -> bytes:
        noise = hashlib.sha256(holder.encode()).digest()[
            :16
        ]  # equal errors of two could cancel: the secret is right then
        return share[:4] + noise + share[20:] if holder in ("bank", "clinic", "insurer") else share

    with pytest.raises(ProtocolError, match="3 true shares"):
        play(random_vectors(WORDS[0]), gone=gone, falsify=flip)


def slow_mask(vector: list[int], bits: int, seed: bytes, agreed: dict[bool, list[bytes]]) -> list[int]:
    """The definition, a number at a time: y = x + PRG(b) + sum_later PRG(s) - sum_earlier PRG(s) mod 2^bits."""

    def number(secret: bytes, index: int) -> int:
        key = hashlib.sha256(b"mask" + secret).digest()
        first = index * bits // 8
        block = Cipher(algorithms.AES(key), modes.CTR((first // 16).to_bytes(16, "big"))).encryptor().update(bytes(16))
        return int.from_bytes(block[first % 16 : first % 16 + bits // 8], "little")

    out = []
    for index, value in enumerate(vector):
        value += number(seed, index)
        value += sum(number(secret, index) for secret in agreed[True])
        value -= sum(number(secret, index) for secret in agreed[False])
        out.append(value % 2**bits)
    return out


@pytest.mark.parametrize("word", WORDS, ids=str)
def test_the_mask_is_its_definition(word: Word) -> None:
    keys = {name: secagg.make_keys() for name in NAMES}
    directory = {name: k.public for name, k in keys.items()}
    vector, seed, me = random_vectors(word)["clinic"], b"s" * 32, "clinic"
    peers = [name for name in NAMES if name != me]
    agreed: dict[bool, list[bytes]] = {True: [], False: []}
    for peer in peers:  # the secret from the other end
        agreed[me < peer].append(secagg._agree(keys[peer].masking, directory[me].masking))
    masked = secagg.mask(vector, name=me, seed=seed, keys=keys[me], directory=directory, peers=peers)
    assert masked.tolist() == slow_mask(vector.tolist(), 8 * word.itemsize, seed, agreed)


def masked_pair(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masked vectors of two among three institutions, whose own masks the coordinator will take off in the end."""
    parties = [Party("bank", one), Party("clinic", other), Party("hospital", np.zeros_like(one))]
    directory = {p.name: p.keys.public for p in parties}
    sharing = {p.name: p.share(directory, 2) for p in parties}
    masked = [p.mask({peer: s.sealed[p.name] for peer, s in sharing.items() if peer != p.name}) for p in parties]
    bare = [m - secagg._stream(p.shared.seed, m) for p, m in zip(parties, masked, strict=True)]
    assert (np.sum(bare, axis=0, dtype=one.dtype) == one + other).all()
    return bare[0], bare[1]


def test_one_masked_vector_is_uniform_even_without_its_own_mask() -> None:
    constant = np.full(100_000, 7, "<u4")
    for seen in masked_pair(constant, constant):
        counts = np.bincount(np.frombuffer(seen.tobytes(), np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-9
        assert len(np.unique(seen)) > 99_000


def test_inputs_with_the_same_sum_look_the_same() -> None:
    x = np.arange(100_000, dtype="<u4")
    y = np.full(100_000, 5, "<u4")
    z = np.zeros(100_000, "<u4")
    one, other = masked_pair(x, y), masked_pair(z, x + y)
    views = [pair[0].astype(np.uint64) * 3 + pair[1].astype(np.uint64) for pair in (one, other)]  # see both at once
    table = [np.bincount((view % 2**32 >> 24).astype(np.int64), minlength=256) for view in views]
    assert chi2_contingency(table).pvalue > 1e-9


def test_what_is_announced_of_a_seed_is_not_the_key_of_its_mask() -> None:
    seed, vector = b"s" * 32, np.zeros(100, "<u4")
    key = bytes.fromhex(secagg.commit(seed))
    guess = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(400))
    assert guess != secagg._stream(seed, vector).tobytes()
    assert secagg._stream(key, vector).tobytes() != secagg._stream(seed, vector).tobytes()


def test_every_seed_bit_tells() -> None:
    """Flower's own generator folds the seed into 32 bits: these two seeds would give the same mask."""
    one, other = b"\x01" + bytes(31), bytes(4) + b"\x01" + bytes(27)
    vector = np.zeros(10, "<u4")
    assert (secagg._stream(one, vector) != secagg._stream(other, vector)).all()


def test_fewer_shares_than_the_threshold_tell_nothing() -> None:
    keys = {name: secagg.make_keys() for name in NAMES}
    directory = {name: k.public for name, k in keys.items()}
    first = Counter[int]()
    for _ in range(150):
        shared = secagg.share_secrets("bank", keys["bank"], directory, threshold=3)
        first.update(shared.own.seed[4:])
    assert chisquare([first[value] for value in range(256)]).pvalue > 1e-9
    two = {"bank": shared.own.seed} | {
        "clinic": secagg.open_share(
            "clinic", keys["clinic"], directory, sender="bank", sealed=shared.sealed["clinic"]
        ).seed
    }
    with pytest.raises(ProtocolError, match="but 2 came that do not give it"):  # though two are taken for enough
        secagg.recover_seed(two, directory, threshold=2, commitment=shared.commitment)
    with pytest.raises(ProtocolError, match="but 1 came"):
        secagg.recover_seed({"bank": shared.own.seed}, directory, threshold=3, commitment=shared.commitment)


@pytest.fixture
def two() -> tuple[dict[str, Keys], dict[str, PublicKeys], Shared]:
    keys = {name: secagg.make_keys() for name in NAMES[:3]}
    directory = {name: k.public for name, k in keys.items()}
    return keys, directory, secagg.share_secrets("bank", keys["bank"], directory, threshold=2)


def test_shares_open_only_where_and_by_whom_they_should(
    two: tuple[dict[str, Keys], dict[str, PublicKeys], Shared],
) -> None:
    keys, directory, shared = two
    sealed = shared.sealed["clinic"]

    def open_share(name: str, sender: str, text: str) -> Share:
        return secagg.open_share(name, keys[name], directory, sender=sender, sealed=text)

    assert open_share("clinic", "bank", sealed).seed
    wrong = [
        ("hospital", "bank", sealed),  # foreign
        ("clinic", "hospital", sealed),  # said to be of another
        ("bank", "clinic", sealed),  # sent back to its sender: the agreed key is the same
        ("clinic", "bank", sealed[:-8]),
        ("clinic", "bank", "é"),
        ("clinic", "bank", sealed * 100),
        ("clinic", "stranger", sealed),
        ("clinic", "clinic", sealed),
    ]
    for name, sender, text in wrong:
        with pytest.raises(ProtocolError, match=f"that {sender} sealed for {name}"):
            open_share(name, sender, text)
    keys["clinic"] = secagg.make_keys()  # another round
    with pytest.raises(ProtocolError, match="in this round"):
        open_share("clinic", "bank", sealed)


def test_a_false_directory_is_refused(two: tuple[dict[str, Keys], dict[str, PublicKeys], Shared]) -> None:
    keys, directory, _ = two
    mine, other = directory["bank"], directory["clinic"]
    false: list[tuple[dict[str, PublicKeys], str]] = [
        ({"bank": mine}, "at least 2 institutions, but 1"),
        (directory | {"bank": secagg.make_keys().public}, "own public keys"),
        ({"clinic": other, "hospital": directory["hospital"]}, "own public keys"),
        (directory | {"hospital": other}, "one came twice"),
        (directory | {"clinic": PublicKeys(other.sealing, other.sealing)}, "one came twice"),
        (directory | {"clinic": PublicKeys("00", other.masking)}, "P-256"),
        (directory | {"clinic": PublicKeys(other.sealing, "zz")}, "P-256"),
    ]
    for wrong, said in false:
        with pytest.raises(ProtocolError, match=said):
            secagg.share_secrets("bank", keys["bank"], wrong, threshold=2)


def test_swapped_keys_of_two_peers_are_noticed_when_shares_are_opened(
    two: tuple[dict[str, Keys], dict[str, PublicKeys], Shared],
) -> None:
    keys, directory, _ = two
    swapped = directory | {"clinic": directory["hospital"], "hospital": directory["clinic"]}
    shared = secagg.share_secrets("bank", keys["bank"], swapped, threshold=2)
    for name in ("clinic", "hospital"):
        with pytest.raises(ProtocolError, match="that bank sealed"):
            secagg.open_share(name, keys[name], directory, sender="bank", sealed=shared.sealed[name])


def test_secrets_do_not_print(two: tuple[dict[str, Keys], dict[str, PublicKeys], Shared]) -> None:
    keys, _, shared = two
    shown = repr(shared) + repr(keys["bank"]) + repr(shared.own)
    assert str(shared.seed) not in shown
    assert "EllipticCurvePrivateKey" not in shown
    assert isinstance(keys["bank"].masking, ec.EllipticCurvePrivateKey)


def test_many_institutions_at_random() -> None:
    rng = random.Random(5)
    names = tuple(f"site_{index}" for index in range(12))
    vectors = random_vectors(WORDS[0], names)
    gone = {stage: rng.sample(names, 2) for stage in ("keys", "shares", "masked")}
    total, took_part = play(vectors, threshold=6, gone=gone)
    assert total.tolist() == plain_sum(vectors, took_part)
