"""Robust filters against dense arithmetic that does form the products, and against attacks."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from threadpoolctl import threadpool_info, threadpool_limits

from server.aggregation import ClientUpdate, Context, fedavg, fedex
from server.aggregation.mixed_ranks import narrow
from server.robust import apply, describe, filters, products
from server.robust.coordinates import median, trimmed_mean
from server.robust.products import adapter_steps
from shared.codec import Arrays
from shared.errors import QuorumError
from shared.federation import Adapter, Robust
from shared.federation.filters import FilterName
from shared.federation.methods import METHODS

LAYERS = {"q": (9, 6), "k": (5, 12)}
"""Outputs and inputs."""
RANK = 4
A, B, R = (f"adapter/{{}}.lora_{factor}.weight" for factor in "ABR")


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def make_state(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    state: Arrays = {"head/t/linear.weight": normal(rng, 3, 6), "head/t/linear.bias": normal(rng, 3)}
    for layer, (outputs, inputs) in LAYERS.items():
        state |= {A.format(layer): normal(rng, RANK, inputs), B.format(layer): normal(rng, outputs, RANK)}
    return state


STATE = make_state()


def make_updates(count: int, sent: str, *, ranks: Sequence[int] = (RANK,), seed: int = 1) -> list[ClientUpdate]:
    """Updates of random factors, and of the head, with a common direction."""
    rng = np.random.default_rng(seed)
    common = {name: normal(rng, *array.shape) for name, array in STATE.items()}
    updates = []
    for i, rank in zip(range(count), itertools.cycle(ranks)):
        arrays: Arrays = {}
        for name, array in narrow(STATE, rank).items():
            if name.startswith("head/") or any(f".lora_{factor}." in name for factor in sent):
                arrays[name] = (narrow(common, rank)[name] + normal(rng, *array.shape)).astype(np.float32)
        if "R" in sent:
            arrays |= {R.format(layer): normal(rng, rank, rank) for layer in LAYERS}
        updates.append(ClientUpdate(f"i{i}", {"t": 5}, arrays, rank=rank if rank != RANK else None))
    return updates


def dense(update: ClientUpdate, scale: float = 1.0, state: Mapping[str, np.ndarray] = STATE) -> np.ndarray:
    """The step of all layers' products that an update proposes, formed."""
    parts = []
    for layer in sorted({name.removeprefix("adapter/").split(".")[0] for name in state if name.startswith("adapter/")}):
        names = A.format(layer), B.format(layer), R.format(layer)
        received = {name: array.astype(float) for name, array in narrow(state, update.rank).items()}
        a, b = (received[name] for name in names[:2])
        delta = {name: scale * update.arrays[name].astype(float) for name in names if name in update.arrays}
        if names[2] in delta:
            parts.append(b @ delta[names[2]] @ a)
        else:
            parts.append((b + delta.get(names[1], 0.0)) @ (a + delta.get(names[0], 0.0)) - b @ a)
    return np.concatenate([part.reshape(-1) for part in parts])


def robust(name: FilterName, **values: object) -> Robust:
    return Robust.model_validate({"filter": name, **values})


CASES: list[tuple[str, str, tuple[int, ...]]] = [
    ("ffa", "B", (RANK,)),
    ("rolora", "A", (RANK,)),
    ("fedex", "AB", (RANK,)),
    ("fed-sb", "R", (RANK,)),
]
CASES += [("flexlora", "AB", (4, 2, 3))]


@pytest.mark.parametrize(("method", "sent", "ranks"), CASES)
def test_inner_products_are_those_of_the_products(method: str, sent: str, ranks: tuple[int, ...]) -> None:
    updates = make_updates(5, sent, ranks=ranks)
    steps = adapter_steps(STATE, updates, method=METHODS[method])  # type: ignore[index]
    rows = np.stack([dense(update) for update in updates])
    np.testing.assert_allclose(steps.gram, rows @ rows.T, rtol=1e-9, atol=1e-9 * np.abs(rows @ rows.T).max())
    apart = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(filters.distances(steps.gram), apart, atol=1e-9 * apart.max())
    scales, trust = np.array([1.0, 0.5, 0.3, 1.0, 2.0]), np.array([1.0, 0.5, 0.0, 1.0, 0.25])
    mean = sum(w * dense(u, t) for u, t, w in zip(updates, scales, trust, strict=True)) / trust.sum()
    beside = np.concatenate([rows, mean[None]])
    np.testing.assert_allclose(
        steps.beside_mean(scales, trust), beside @ beside.T, rtol=1e-9, atol=1e-9 * np.abs(beside @ beside.T).max()
    )


def test_inner_products_are_the_same_however_few_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = make_updates(5, "AB", ranks=(4, 2, 3))
    whole = adapter_steps(STATE, updates, method=METHODS["flexlora"]).grams
    monkeypatch.setattr(products, "ROWS", 7)
    np.testing.assert_allclose(adapter_steps(STATE, updates, method=METHODS["flexlora"]).grams, whole, rtol=1e-9)


@pytest.mark.parametrize(("method", "sent", "ranks"), CASES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 3.0])
def test_scaled_factors_have_the_length_asked_for(method: str, sent: str, ranks: tuple[int, ...], share: float) -> None:
    updates = make_updates(4, sent, ranks=ranks)
    steps = adapter_steps(STATE, updates, method=METHODS[method])  # type: ignore[index]
    wanted = share * filters.norms(steps.gram)
    scales = steps.scale_to(wanted)
    np.testing.assert_allclose(
        [np.linalg.norm(dense(u, t)) for u, t in zip(updates, scales, strict=True)], wanted, rtol=1e-9
    )
    for update, scale, most in zip(updates, scales, wanted, strict=True):
        assert all(np.linalg.norm(dense(update, scale * s)) <= most * (1 + 1e-9) for s in np.linspace(0, 1, 30))


def test_inner_products_are_computed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    during, gram = list[int](), products._gram

    def watched(arrays: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        during.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return gram(arrays)

    monkeypatch.setattr(products, "_gram", watched)
    with threadpool_limits(2, user_api="blas"):
        adapter_steps(STATE, make_updates(2, "AB"), method=METHODS["fedavg"])
        products.head_steps([[np.ones((2, 3))], [np.ones((2, 3))]])
    assert set(during) == {1}


def test_the_length_is_reached_first_on_the_way() -> None:
    """(B + t dB)(A + t dA) may come back before it goes far: not everything up to its end is short."""
    state: Arrays = {A.format("q"): np.array([[1.0]], np.float32), B.format("q"): np.array([[1.0]], np.float32)}
    arrays = {name: np.array([[-4.0]], np.float32) for name in state}  # t -> (1 - 4 t)^2 - 1, which is -1 at 1/4
    steps = adapter_steps(state, [ClientUpdate("a", {}, arrays)], method=METHODS["fedex"])
    assert steps.scale_to(np.array([0.75])) == pytest.approx([1 / 8])
    assert steps.scale_to(np.array([2.0])) == pytest.approx([(1 + 3**0.5) / 4])


def test_a_step_of_zero_stays_and_a_length_of_zero_stops() -> None:
    updates = make_updates(2, "AB")
    still = replace(updates[0], arrays={name: np.zeros_like(array) for name, array in updates[0].arrays.items()})
    steps = adapter_steps(STATE, [still, updates[1]], method=METHODS["fedex"])
    assert list(steps.scale_to(np.array([3.0, 0.0]))) == [1.0, 0.0]


def test_weiszfeld_finds_the_dense_geometric_median() -> None:
    rows = np.random.default_rng(3).standard_normal((7, 4))
    rows[0] += 30.0
    weights = filters.geometric_median(rows @ rows.T)
    best = minimize(lambda x: np.linalg.norm(rows - x, axis=1).sum(), rows.mean(axis=0), tol=1e-12, method="BFGS").x
    np.testing.assert_allclose(weights @ rows, best, atol=1e-4)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.argmin() == 0


def test_the_geometric_median_may_be_one_of_the_steps_or_all_of_them() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    np.testing.assert_allclose(filters.geometric_median(rows @ rows.T) @ rows, [0.0, 0.0], atol=1e-9)
    assert filters.geometric_median(np.ones((4, 4))) == pytest.approx([0.25] * 4)
    assert filters.geometric_median(np.zeros((4, 4))) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("byzantine", [1, 2])
def test_krum_equals_a_loop(byzantine: int) -> None:
    rows = np.random.default_rng(4).standard_normal((8, 5))
    scores = []
    for i in range(8):
        apart = sorted(float(((rows[i] - rows[j]) ** 2).sum()) for j in range(8) if j != i)
        scores.append(sum(apart[: 8 - byzantine - 2]))
    np.testing.assert_allclose(filters.krum_scores(rows @ rows.T, byzantine), scores)


def test_numbers_by_themselves_equal_a_loop() -> None:
    values = np.random.default_rng(5).standard_normal((7, 3, 2))
    for at in np.ndindex(3, 2):
        ranked = sorted(values[:, *at])
        assert median(values)[at] == ranked[3]
        assert trimmed_mean(values, 2)[at] == pytest.approx(sum(ranked[2:5]) / 3)
    assert trimmed_mean(values[:3], 2) == pytest.approx(median(values[:3]))


def average(updates: Sequence[ClientUpdate]) -> Arrays:
    return fedavg.apply(STATE, updates, Context(weighting="equal"))[0]


def step_of(new: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return new[name].astype(float) - STATE[name]


HEAD = "head/t/linear.weight"


def test_norm_bound_cuts_the_product_to_the_median_length() -> None:
    updates = make_updates(5, "AB")
    updates[2] = replace(updates[2], arrays={name: 20 * array for name, array in updates[2].arrays.items()})
    lengths = [np.linalg.norm(dense(update)) for update in updates]
    bound = sorted(lengths)[2]
    filtered, findings = apply(STATE, updates, robust=robust("norm-bound"), method=METHODS["fedex"])
    assert [np.linalg.norm(dense(u)) for u in filtered] == pytest.approx([min(x, bound) for x in lengths], rel=1e-5)
    clipped = {f.institution for f in findings if f.part == "adapter" and f.verdict == "clipped"}
    assert clipped == {f"i{i}" for i, length in enumerate(lengths) if length > bound}
    reason = next(f.reason for f in findings if f.institution == "i2" and f.part == "adapter")
    assert reason == f"length {lengths[2]:.3g}, the median is {bound:.3g}"
    heads = [np.sqrt(sum((u.arrays[n].astype(float) ** 2).sum() for n in u.arrays if "head" in n)) for u in updates]
    told = [f.norm for f in findings if f.part == "head/t"]
    assert told == pytest.approx(heads)
    kept = np.linalg.norm(np.concatenate([filtered[2].arrays[n].ravel() for n in STATE if "head" in n]))
    assert kept == pytest.approx(sorted(heads)[2], rel=1e-5)


def test_multi_krum_averages_all_but_the_farthest_and_krum_takes_one() -> None:
    updates = make_updates(6, "B")
    updates[4] = replace(updates[4], arrays={name: -10 * array for name, array in updates[4].arrays.items()})
    filtered, findings = apply(STATE, updates, robust=robust("multi-krum"), method=METHODS["ffa"])
    mean = np.mean([u.arrays[B.format("q")] for u in updates[:4] + updates[5:]], axis=0)
    np.testing.assert_allclose(step_of(average(filtered), B.format("q")), mean, atol=1e-5)
    assert {(f.institution, f.part) for f in findings if f.verdict == "dropped"} == {
        ("i4", "adapter"),
        ("i4", "head/t"),
    }
    assert all(f.cosine is not None and (f.cosine < 0) == (f.institution == "i4") for f in findings)
    filtered, findings = apply(STATE, updates, robust=robust("krum"), method=METHODS["ffa"])
    rows = np.stack([dense(update) for update in updates])
    best = int(filters.krum_scores(rows @ rows.T, 1).argmin())
    np.testing.assert_allclose(
        step_of(average(filtered), B.format("q")), updates[best].arrays[B.format("q")], atol=1e-5
    )
    assert [f.institution for f in findings if f.part == "adapter" and f.verdict == "kept"] == [f"i{best}"]


def test_the_geometric_median_of_products_is_what_is_averaged() -> None:
    """Under an exact method, the step of the model is the geometric median of the institutions' steps."""
    updates = make_updates(5, "AB")
    updates[0] = replace(updates[0], arrays={name: 5 * array for name, array in updates[0].arrays.items()})
    rows = np.stack([dense(update) for update in updates])
    weights = filters.geometric_median(rows @ rows.T)
    filtered, findings = apply(STATE, updates, robust=robust("geometric-median"), method=METHODS["fedex"])
    new, residual, diagnostics = fedex.apply(
        STATE, filtered, Context(weighting="equal", adapter=Adapter(rank=1, alpha=1.0))
    )
    assert list(diagnostics.weights.values()) == pytest.approx(list(weights))
    products = [new[B.format(n)] @ new[A.format(n)] + np.matmul(*residual[n]) for n in sorted(LAYERS)]
    before = [STATE[B.format(n)] @ STATE[A.format(n)] for n in sorted(LAYERS)]
    step = np.concatenate([(p - q).reshape(-1) for p, q in zip(products, before, strict=True)])
    np.testing.assert_allclose(step, weights @ rows, atol=1e-3)
    assert [f.institution for f in findings if f.verdict == "down-weighted" and f.part == "adapter"] == ["i0"]
    heads = [np.concatenate([u.arrays[n].ravel() for n in STATE if "head" in n]).astype(float) for u in updates]
    weights = filters.geometric_median(np.array(heads) @ np.array(heads).T)
    mean = np.tensordot(weights, [u.arrays[HEAD] for u in updates], axes=1)
    np.testing.assert_allclose(step_of(new, HEAD), mean, atol=1e-5)


def test_fltrust_equals_its_formula() -> None:
    updates = make_updates(5, "B")
    updates[3] = replace(updates[3], arrays={name: -2 * array for name, array in updates[3].arrays.items()})
    filtered, findings = apply(STATE, updates, robust=robust("fltrust", root="i1"), method=METHODS["ffa"])
    rows = np.stack([dense(update) for update in updates])
    root = rows[1]
    trust = np.array([max(0.0, row @ root / np.linalg.norm(row) / np.linalg.norm(root)) for row in rows])
    scaled = [row * np.linalg.norm(root) / np.linalg.norm(row) for row in rows]
    expected = sum(w * row for w, row in zip(trust, scaled, strict=True)) / trust.sum()
    new = average(filtered)
    step = {name: step_of(new, name).astype(np.float32) for name in STATE if "lora_B" in name}
    np.testing.assert_allclose(dense(ClientUpdate("", {}, step)), expected, atol=1e-4)
    assert [f.institution for f in findings if f.verdict == "dropped"] == ["i3", "i3"]
    still = {name: np.zeros_like(array) for name, array in updates[1].arrays.items()}
    filtered, _ = apply(
        STATE,
        [updates[0], replace(updates[1], arrays=still)],
        robust=robust("fltrust", root="i1"),
        method=METHODS["ffa"],
    )
    assert not any(step_of(average(filtered), name).any() for name in STATE)


def test_without_the_root_the_round_has_no_result() -> None:
    with pytest.raises(QuorumError, match=r"Expected an update of i9, the reference that robust\.root names"):
        apply(STATE, make_updates(3, "B"), robust=robust("fltrust", root="i9"), method=METHODS["ffa"])


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
def test_numbers_take_the_place_of_every_update(name: FilterName) -> None:
    updates = make_updates(5, "B")
    updates[2] = replace(updates[2], arrays={key: -10 * array for key, array in updates[2].arrays.items()})
    filtered, findings = apply(STATE, updates, robust=robust(name), method=METHODS["ffa"])
    new = average(filtered)
    for key in (B.format("q"), HEAD):
        values = np.sort(np.stack([u.arrays[key].astype(float) for u in updates]), axis=0)
        expected = values[2] if name == "median" else values[1:4].mean(axis=0)
        np.testing.assert_allclose(step_of(new, key), expected, atol=1e-5)
    flagged = {(f.institution, f.part) for f in findings if f.verdict == "down-weighted"}
    assert flagged == {("i2", "adapter"), ("i2", "head/t")}
    assert all(f.reason is None or "% of the numbers, where 40% is chance" in f.reason for f in findings)


def test_rows_are_filtered_over_those_who_may_move_them() -> None:
    updates = make_updates(5, "B")
    rows = np.array([True, False, True])
    masks = {name: rows for name in ("head/t/linear.weight", "head/t/linear.bias")}
    updates[:2] = [replace(update, rows=masks) for update in updates[:2]]
    filtered, _ = apply(STATE, updates, robust=robust("median"), method=METHODS["ffa"])
    values = np.stack([update.arrays[HEAD][1] for update in updates[2:]])
    np.testing.assert_allclose(step_of(average(filtered), HEAD)[1], np.median(values, axis=0), atol=1e-6)
    filtered, _ = apply(STATE, updates, robust=robust("geometric-median"), method=METHODS["ffa"])
    trust = np.array([0.01, 0.02, 0.03])  # of the rows' holders: it is what they have that counts, and not how much
    filtered[2:] = [replace(u, trust={**u.trust, "t": float(t)}) for u, t in zip(filtered[2:], trust, strict=True)]
    mean = np.tensordot(trust / trust.sum(), values, axes=1)
    np.testing.assert_allclose(step_of(average(filtered), HEAD)[1], mean, atol=1e-5)
    wild = replace(updates[0], arrays=dict(updates[0].arrays))
    wild.arrays[HEAD] = wild.arrays[HEAD].copy()
    wild.arrays[HEAD][1] = 1e6  # a row that is not its own is no part of its step
    _, findings = apply(STATE, [wild, *updates[1:]], robust=robust("norm-bound"), method=METHODS["ffa"])
    assert max(f.norm for f in findings if f.part == "head/t") < 100


def test_heads_are_filtered_over_their_holders_and_never_a_single_one() -> None:
    updates = make_updates(6, "B")
    alone = {"head/u/linear.weight": np.full((2, 6), 50.0, np.float32)}
    updates[5] = replace(updates[5], examples={"t": 5, "u": 5}, arrays={**updates[5].arrays, **alone})
    for i in (0, 1):
        arrays = {name: array for name, array in updates[i].arrays.items() if not name.startswith("head/")}
        updates[i] = replace(updates[i], examples={}, arrays=arrays)
    state = {**STATE, "head/u/linear.weight": np.zeros((2, 6), np.float32)}
    filtered, findings = apply(state, updates, robust=robust("multi-krum"), method=METHODS["ffa"])
    assert filtered[5].arrays["head/u/linear.weight"].tobytes() == alone["head/u/linear.weight"].tobytes()
    used = {f.part: f.filter for f in findings}
    assert used == {"adapter": "multi-krum", "head/t": "norm-bound", "head/u": "none"}
    assert [f.verdict for f in findings if f.part == "head/u"] == ["kept"]
    assert [f.institution for f in findings if f.part == "head/t"] == ["i2", "i3", "i4", "i5"]


def test_of_two_holders_the_shorter_step_is_the_bound() -> None:
    assert filters.median_norm(np.diag([4.0, 1e8])) == 2.0


def test_nobody_has_more_say_for_the_tasks_that_it_claims() -> None:
    updates = make_updates(4, "B")
    greedy = {f"head/{task}/linear.weight": np.zeros((2, 6), np.float32) for task in "uvw"}
    updates[0] = replace(updates[0], examples=dict.fromkeys("tuvw", 9), arrays={**updates[0].arrays, **greedy})
    state = {**STATE, **{name: np.zeros((2, 6), np.float32) for name in greedy}}
    filtered, _ = apply(state, updates, robust=robust("norm-bound"), method=METHODS["ffa"])
    *_, diagnostics = fedavg.apply(state, filtered, Context(weighting="equal"))
    assert diagnostics.weights == pytest.approx({update.institution: 0.25 for update in updates})


def test_findings_are_told_in_one_line() -> None:
    updates = make_updates(3, "B")
    updates[1] = replace(updates[1], arrays={name: 9 * array for name, array in updates[1].arrays.items()})
    _, findings = apply(STATE, updates, robust=robust("norm-bound"), method=METHODS["ffa"])
    flagged = [f for f in findings if f.institution == "i1"]
    assert describe(flagged) == (f"i1 clipped (adapter: {flagged[0].reason}); i1 clipped (head/t: {flagged[1].reason})")
    assert describe(flagged, most=1).endswith("; and 1 more, see `collegium server status`")
    assert describe([f for f in findings if f.verdict == "kept"]) == ""


GAP_LAYER = (40, 48)
GAP_RANK = 16


def gap_updates(*, malicious: int, benign: int = 4) -> tuple[Arrays, list[ClientUpdate], np.ndarray]:
    """Benign updates around a common small step, and malicious ones whose every number is one standard deviation off.

    The signs of those deviations agree, so that the product is a large step along `target`, which is returned.
    """
    rng, (outputs, inputs) = np.random.default_rng(11), GAP_LAYER
    a, b = A.format("q"), B.format("q")
    state: Arrays = {
        a: (0.1 * rng.standard_normal((GAP_RANK, inputs))).astype(np.float32),
        b: np.zeros((outputs, GAP_RANK), np.float32),
    }
    mean = {name: 0.1 * rng.standard_normal(array.shape) for name, array in state.items()}
    updates = [
        ClientUpdate(
            f"benign{i}", {}, {n: (m + rng.standard_normal(m.shape)).astype(np.float32) for n, m in mean.items()}
        )
        for i in range(benign)
    ]
    left, right, signs = (rng.choice([-1.0, 1.0], size) for size in (outputs, inputs, GAP_RANK))
    centre = {n: np.mean([u.arrays[n] for u in updates], axis=0) for n in mean}
    spread = {n: np.std([u.arrays[n] for u in updates], axis=0) for n in mean}
    off = {b: np.outer(left, signs), a: np.outer(signs, right)}
    arrays = {n: (centre[n] + spread[n] * off[n]).astype(np.float32) for n in mean}
    for name in mean:
        assert (np.abs(arrays[name] - centre[name]) <= spread[name] * (1 + 1e-5)).all()
    target = np.outer(left, right).reshape(-1)
    updates += [ClientUpdate(f"gap{i}", {}, arrays) for i in range(malicious)]
    return state, updates, target / np.linalg.norm(target)


def test_gap_attack_passes_factor_by_factor() -> None:
    state, updates, target = gap_updates(malicious=1)
    for name in state:  # each factor is as near to the others as theirs are to each other: the nearest of all, even
        rows = np.stack([update.arrays[name].reshape(-1).astype(float) for update in updates])
        assert filters.norms(rows @ rows.T)[-1] <= 1.5 * filters.median_norm(rows @ rows.T)
        assert filters.krum_scores(rows @ rows.T, 1).argmin() == 4
    medians = {name: np.median([u.arrays[name] for u in updates], axis=0).astype(np.float32) for name in state}
    benign = {name: np.median([u.arrays[name] for u in updates[:4]], axis=0).astype(np.float32) for name in state}
    attacked, clean = (dense(ClientUpdate("", {}, arrays), state=state) for arrays in (medians, benign))
    assert attacked @ target > 5 * abs(clean @ target)
    assert attacked @ target > 0.5 * np.linalg.norm(attacked)  # most of the step is the attacker's


@pytest.mark.parametrize("name", ["krum", "multi-krum", "geometric-median", "norm-bound", "fltrust"])
@pytest.mark.parametrize("method", ["fedex", "flora", "fedavg"])
def test_gap_attack_does_not_pass_in_the_space_of_products(name: FilterName, method: str) -> None:
    state, updates, target = gap_updates(malicious=1)
    trusted = {"root": "benign0"} if name == "fltrust" else {}
    filtered, findings = apply(state, updates, robust=robust(name, **trusted), method=METHODS[method])  # type: ignore[index]
    verdicts = {f.institution: f.verdict for f in findings}
    if name in ("krum", "multi-krum"):
        assert verdicts["gap0"] == "dropped"
        assert filtered[-1].trust[None] == 0.0
    elif method != "fedavg":  # which averages factors: there the attack is weaker, and so is what is held against it
        assert verdicts["gap0"] in ("clipped", "down-weighted", "dropped")
    if name == "multi-krum":
        assert all(verdicts[f"benign{i}"] == "kept" for i in range(4))

    def taken(updates: Sequence[ClientUpdate]) -> float:
        """How far the model goes along the target."""
        if method != "fedavg":
            trust = np.array([update.trust.get(None, 1.0) for update in updates])
            steps = [share * dense(u, state=state) for share, u in zip(trust / trust.sum(), updates, strict=True)]
            return float(np.sum(steps, axis=0) @ target)
        new, *_ = fedavg.apply(state, [replace(u, examples={"t": 1}) for u in updates], Context(weighting="equal"))
        step = {n: (new[n] - state[n]).astype(np.float32) for n in state}
        return float(dense(ClientUpdate("", {}, step), state=state) @ target)

    assert abs(taken(filtered)) < 0.5 * taken(updates)


def test_a_pair_of_harmless_product_is_held_back_where_factors_are_averaged_by_themselves() -> None:
    """(B M, M^-1 A) proposes no step of the product, and spoils mean(B) mean(A)."""
    updates = make_updates(5, "AB")
    gauge = 50.0
    arrays = {
        name: array * ((gauge if "lora_B" in name else 1 / gauge) - 1)
        for name, array in STATE.items()
        if name.startswith("adapter/")
    }
    updates[4] = replace(updates[4], examples={}, arrays={n: x.astype(np.float32) for n, x in arrays.items()})
    assert np.linalg.norm(dense(updates[4])) < 1e-3
    filtered, findings = apply(STATE, updates, robust=robust("multi-krum"), method=METHODS["fedavg"])
    assert {f.institution: f.verdict for f in findings if f.part == "adapter"}["i4"] == "dropped"
    assert filtered[4].trust[None] == 0.0
    filtered, findings = apply(STATE, updates, robust=robust("norm-bound"), method=METHODS["fedavg"])
    assert {f.institution: f.verdict for f in findings if f.part == "adapter"}["i4"] == "clipped"
    _, findings = apply(STATE, updates, robust=robust("norm-bound"), method=METHODS["fedex"])
    assert {f.institution: f.verdict for f in findings if f.part == "adapter"}["i4"] == "kept"  # exact: it does no harm


def test_what_stays_at_home_is_no_part_of_a_step() -> None:
    """Under fedsa A alone is sent and averaged, and B is not known."""
    updates = make_updates(3, "A")
    steps = adapter_steps(STATE, updates, method=METHODS["fedsa"])
    rows = np.stack([np.concatenate([u.arrays[A.format(n)].ravel() for n in sorted(LAYERS)]) for u in updates])
    np.testing.assert_allclose(steps.gram, rows.astype(float) @ rows.T.astype(float), rtol=1e-9)
