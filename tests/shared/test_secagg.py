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

from shared.errors import ProtocolError
from shared.secagg import keys as round_keys
from shared.secagg import masks, shares, view
from shared.secagg.fixedpoint import Word
from shared.secagg.keys import Keys, PublicKeys, make_keys
from shared.secagg.shares import Share, Shared
from shared.secagg.view import Context, Member, check_directory, sign_member, view_of
from simulations.nodekeys import node_key, public_keys

WORDS: list[Word] = [np.dtype("<u4"), np.dtype("<u8")]
NAMES = ("bank", "clinic", "hospital", "insurer", "law_firm")
THRESHOLD = 3
CONTEXT = Context("run", 1, "digest")
NODE_KEYS = public_keys((*NAMES, *(f"site_{index}" for index in range(12))))


def announced(name: str, keys: Keys, context: Context = CONTEXT) -> Member:
    """What an institution says of itself."""
    return sign_member(context, name, keys.public, {"clauses": 3}, {}, node_key=node_key(name))


def directory_of(keys: Mapping[str, Keys]) -> dict[str, Member]:
    return {name: announced(name, k) for name, k in keys.items()}


class Party:
    """An institution that does what the protocol says."""

    def __init__(self, name: str, vector: np.ndarray) -> None:
        self.name, self.vector = name, vector
        self.keys = make_keys()
        self.directory: dict[str, Member] = {}
        self.view = b""
        self.shared: Shared
        self.held: dict[str, Share] = {}

    def share(self, directory: dict[str, Member], threshold: int) -> Shared:
        self.directory = directory
        check_directory(directory, CONTEXT, node_keys=NODE_KEYS, threshold=threshold)
        seen = view_of(CONTEXT, directory)
        self.shared = shares.share_secrets(self.name, self.keys, directory, seen, threshold=threshold)
        return self.shared

    def mask(self, sealed: dict[str, str]) -> np.ndarray:
        seen = view_of(CONTEXT, self.directory)
        self.held = {
            sender: shares.open_share(self.name, self.keys, self.directory, seen, sender=sender, sealed=text)
            for sender, text in sealed.items()
        }
        self.held[self.name] = self.shared.own
        self.view = view_of(CONTEXT, self.directory, self.held)
        return masks.mask(
            self.vector,
            name=self.name,
            seed=self.shared.seed,
            keys=self.keys,
            directory=self.directory,
            view=self.view,
            peers=self.held.keys() - {self.name},
        )


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
    directory = directory_of({name: party.keys for name, party in parties.items()})
    sharing = {name: parties[name].share(directory, threshold) for name in stay(list(parties), "keys")}
    masked = {
        name: parties[name].mask({peer: s.sealed[name] for peer, s in sharing.items() if peer != name})
        for name in stay(list(sharing), "shares")
    }
    helpers = stay(list(masked), "masked")

    def given(of: str, kind: str) -> dict[str, bytes]:
        return {h: falsify(h, of, getattr(parties[h].held[of], kind)) for h in helpers}

    seeds = {
        name: shares.recover_seed(
            given(name, "seed"), directory, threshold=threshold, commitment=sharing[name].commitment
        )
        for name in masked
    }
    lost = {
        name: shares.recover_key(given(name, "key"), directory, threshold=threshold, of=name)
        for name in sharing
        if name not in masked
    }
    total = np.sum(list(masked.values()), axis=0, dtype=next(iter(vectors.values())).dtype)
    seen = view_of(CONTEXT, directory, sharing)
    return masks.unmask(total, seeds=seeds, lost=lost, directory=directory, view=seen), set(masked)


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


def slow_mask(vector: list[int], bits: int, own: bytes, agreed: dict[bool, list[bytes]]) -> list[int]:
    """The definition, a number at a time: y = x + PRG(b) + sum_later PRG(s) - sum_earlier PRG(s) mod 2^bits."""

    def number(key: bytes, index: int) -> int:
        first = index * bits // 8
        block = Cipher(algorithms.AES(key), modes.CTR((first // 16).to_bytes(16, "big"))).encryptor().update(bytes(16))
        return int.from_bytes(block[first % 16 : first % 16 + bits // 8], "little")

    out = []
    for index, value in enumerate(vector):
        value += number(own, index)
        value += sum(number(secret, index) for secret in agreed[True])
        value -= sum(number(secret, index) for secret in agreed[False])
        out.append(value % 2**bits)
    return out


@pytest.mark.parametrize("word", WORDS, ids=str)
def test_the_mask_is_its_definition(word: Word) -> None:
    keys = {name: make_keys() for name in NAMES}
    directory = directory_of(keys)
    vector, seed, me, seen = random_vectors(word)["clinic"], b"s" * 32, "clinic", b"v" * 32
    peers = [name for name in NAMES if name != me]
    agreed: dict[bool, list[bytes]] = {True: [], False: []}
    for peer in peers:  # the secret from the other end
        first, second = sorted((me, peer))
        use = f"mask between {first} and {second}"
        agreed[me < peer].append(round_keys.agree(keys[peer].masking, directory[me].keys.masking, view=seen, use=use))
    masked = masks.mask(vector, name=me, seed=seed, keys=keys[me], directory=directory, view=seen, peers=peers)
    own = round_keys.derive(seed, view=seen, use="own mask")
    assert masked.tolist() == slow_mask(vector.tolist(), 8 * word.itemsize, own, agreed)


def masked_pair(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masked vectors of two among three institutions, whose own masks the coordinator will take off in the end."""
    parties = [Party("bank", one), Party("clinic", other), Party("hospital", np.zeros_like(one))]
    directory = directory_of({p.name: p.keys for p in parties})
    sharing = {p.name: p.share(directory, 2) for p in parties}
    masked = [p.mask({peer: s.sealed[p.name] for peer, s in sharing.items() if peer != p.name}) for p in parties]
    bare = [m - masks.own_mask(p.shared.seed, m, p.view) for p, m in zip(parties, masked, strict=True)]
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
    key = bytes.fromhex(shares.commit(seed))
    guess = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(400))
    assert guess != masks.own_mask(seed, vector, b"v").tobytes()
    assert masks.own_mask(key, vector, b"v").tobytes() != masks.own_mask(seed, vector, b"v").tobytes()


def test_every_seed_bit_and_every_view_tells() -> None:
    """Flower's own generator folds the seed into 32 bits: these two seeds would give the same mask."""
    one, other = b"\x01" + bytes(31), bytes(4) + b"\x01" + bytes(27)
    vector = np.zeros(10, "<u4")
    assert (masks.own_mask(one, vector, b"v") != masks.own_mask(other, vector, b"v")).all()
    assert (masks.own_mask(one, vector, b"v") != masks.own_mask(one, vector, b"w")).all()


def test_fewer_shares_than_the_threshold_tell_nothing() -> None:
    keys = {name: make_keys() for name in NAMES}
    directory, first = directory_of(keys), Counter[int]()
    for _ in range(150):
        shared = shares.share_secrets("bank", keys["bank"], directory, b"v", threshold=3)
        first.update(shared.own.seed[4:])
    assert chisquare([first[value] for value in range(256)]).pvalue > 1e-9
    opened = shares.open_share("clinic", keys["clinic"], directory, b"v", sender="bank", sealed=shared.sealed["clinic"])
    two = {"bank": shared.own.seed, "clinic": opened.seed}
    with pytest.raises(ProtocolError, match="but 2 came that do not give it"):  # though two are taken for enough
        shares.recover_seed(two, directory, threshold=2, commitment=shared.commitment)
    with pytest.raises(ProtocolError, match="but 1 came"):
        shares.recover_seed({"bank": shared.own.seed}, directory, threshold=3, commitment=shared.commitment)


Three = tuple[dict[str, Keys], dict[str, Member], Shared]


@pytest.fixture
def three() -> Three:
    keys = {name: make_keys() for name in NAMES[:3]}
    directory = directory_of(keys)
    return keys, directory, shares.share_secrets("bank", keys["bank"], directory, b"v", threshold=2)


def test_shares_open_only_where_and_by_whom_they_should(three: Three) -> None:
    keys, directory, shared = three
    sealed = shared.sealed["clinic"]

    def open_share(name: str, sender: str, text: str, seen: bytes = b"v") -> Share:
        return shares.open_share(name, keys[name], directory, seen, sender=sender, sealed=text)

    assert open_share("clinic", "bank", sealed).seed
    wrong = [
        ("hospital", "bank", sealed),  # foreign
        ("clinic", "hospital", sealed),  # said to be of another
        ("bank", "clinic", sealed),  # sent back to its sender
        ("clinic", "bank", sealed[:-8]),
        ("clinic", "bank", "é"),
        ("clinic", "bank", sealed * 100),
        ("clinic", "stranger", sealed),
        ("clinic", "clinic", sealed),
    ]
    for name, sender, text in wrong:
        with pytest.raises(ProtocolError, match=f"that {sender} sealed for {name}"):
            open_share(name, sender, text)
    with pytest.raises(ProtocolError, match="in this round"):
        open_share("clinic", "bank", sealed, b"w")  # who saw another round
    keys["clinic"] = make_keys()  # another round
    with pytest.raises(ProtocolError, match="in this round"):
        open_share("clinic", "bank", sealed)


def negated(text: str) -> str:
    """The public key of the negated point: the other of the two with its x-coordinate."""
    return ("03" if text.startswith("02") else "02") + text[2:]


def test_a_key_and_its_negation_agree_on_the_same() -> None:
    """Why keys are compared by x-coordinate."""
    mine, peer = make_keys(), make_keys().public.masking
    both = [round_keys.agree(mine.masking, text, view=b"v", use="u") for text in (peer, negated(peer))]
    assert both[0] == both[1]


def uncompressed(text: str) -> str:
    numbers = round_keys.point(text).public_numbers()
    return "04" + numbers.x.to_bytes(32, "big").hex() + numbers.y.to_bytes(32, "big").hex()


def test_a_false_directory_is_refused(three: Three) -> None:
    keys, directory, _ = three
    mine, other = directory["bank"], directory["clinic"]

    def check(changed: dict[str, Member]) -> None:
        check_directory(directory | changed, CONTEXT, node_keys=NODE_KEYS, threshold=3)

    def signed(name: str, sealing: str, masking: str) -> dict[str, Member]:
        public = PublicKeys(sealing, masking)
        return {name: sign_member(CONTEXT, name, public, {"clauses": 3}, {}, node_key=node_key(name))}

    check({})
    with pytest.raises(ProtocolError, match="at least 3 institutions, but 1"):
        check_directory({"bank": mine}, CONTEXT, node_keys=NODE_KEYS, threshold=3)
    with pytest.raises(ProtocolError, match=r"\['stranger'\] are none"):
        check({"stranger": announced("stranger", make_keys())})
    twice = [
        signed("hospital", *(other.keys.sealing, other.keys.masking)),
        signed("clinic", other.keys.sealing, other.keys.sealing),
        signed("hospital", directory["hospital"].keys.sealing, negated(other.keys.masking)),
        signed("hospital", negated(other.keys.masking), directory["hospital"].keys.masking),
    ]
    for copied in twice:
        with pytest.raises(ProtocolError, match="one came twice or beside its negation"):
            check(copied)
    malformed = [
        "00",
        "zz",
        "",
        uncompressed(other.keys.masking),
        other.keys.masking.upper(),
        " " + other.keys.masking,
    ]
    for text in malformed:
        with pytest.raises(ProtocolError, match="a compressed point"):
            check(signed("hospital", directory["hospital"].keys.sealing, text))
    fresh = make_keys().public
    forged = [
        {"clinic": sign_member(CONTEXT, "clinic", fresh, {"clauses": 3}, {}, node_key=node_key("bank"))},
        {"clinic": Member(fresh, other.examples, other.labels, other.signature)},
        {"clinic": Member(other.keys, {"clauses": 10**9}, other.labels, other.signature)},
        {"clinic": Member(other.keys, other.examples, {"clauses": []}, other.signature)},
        {"clinic": Member(other.keys, other.examples, other.labels, "")},
        {"clinic": announced("clinic", keys["clinic"], Context("run", 2, "digest"))},
        {"clinic": announced("clinic", keys["clinic"], Context("other", 1, "digest"))},
        {"clinic": announced("clinic", keys["clinic"], Context("run", 1, "other"))},
    ]
    for replaced in forged:
        with pytest.raises(ProtocolError, match="that clinic has signed for this round"):
            check(replaced)


def test_whatever_differs_is_another_view(three: Three) -> None:
    _, directory, _ = three
    clinic = directory["clinic"]
    views = {
        view_of(CONTEXT, directory),
        view_of(CONTEXT, directory, NAMES[:3]),
        view_of(CONTEXT, directory, NAMES[:2]),
        view_of(Context("run", 2, "digest"), directory),
        view_of(Context("run", 1, "other"), directory),
        view_of(CONTEXT, {name: of for name, of in directory.items() if name != "clinic"}),
        view_of(CONTEXT, directory | {"clinic": Member(clinic.keys, {"clauses": 4}, {}, "")}),
        view_of(CONTEXT, directory | {"clinic": Member(clinic.keys, clinic.examples, {"clauses": ["payment"]}, "")}),
        view_of(CONTEXT, directory | {"clinic": announced("clinic", make_keys())}),
    }
    assert len(views) == 9
    assert view_of(CONTEXT, dict(reversed(directory.items()))) in views
    assert len({view.survivors_message(seen, NAMES[:2]) for seen in views}) == 9


def test_views_that_differ_give_noise_and_nothing_else() -> None:
    """All but one see the same round: the sum of all, with every mask taken off that can be, is uniform."""
    vectors = {name: np.full(100_000, 7, "<u4") for name in NAMES[:3]}
    parties = {name: Party(name, vector) for name, vector in vectors.items()}
    directory = directory_of({name: p.keys for name, p in parties.items()})
    sharing = {name: p.share(directory, 2) for name, p in parties.items()}
    masked = {n: p.mask({s: sharing[s].sealed[n] for s in sharing if s != n}) for n, p in parties.items()}
    odd = parties["clinic"]
    masked["clinic"] = masks.mask(
        odd.vector,
        name="clinic",
        seed=odd.shared.seed,
        keys=odd.keys,
        directory=directory,
        view=view_of(Context("run", 1, "another"), directory, NAMES[:3]),
        peers={"bank", "hospital"},
    )
    total = np.sum(list(masked.values()), axis=0, dtype="<u4")
    clear = total - masks.own_mask(odd.shared.seed, total, view_of(Context("run", 1, "another"), directory, NAMES[:3]))
    for name in ("bank", "hospital"):
        clear = clear - masks.own_mask(parties[name].shared.seed, total, parties[name].view)
    assert chisquare(np.bincount(np.frombuffer(clear.tobytes(), np.uint8), minlength=256)).pvalue > 1e-9
    assert (clear == 21).mean() < 1e-3


def test_secrets_do_not_print(three: Three) -> None:
    keys, _, shared = three
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
