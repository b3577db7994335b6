"""Every method against dense arithmetic that forms the products: layers not square, weights unequal."""

from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np
import pytest

from client.train.rotation import align
from server.aggregation import ClientUpdate, Context, context_of, fedavg, fedsvd, flexlora
from server.aggregation.methods import AGGREGATORS, aggregate, aggregator_of
from server.aggregation.mixed_ranks import narrow
from shared.adapter import factor_name, is_sent
from shared.codec import Arrays
from shared.federation import Adapter, Federation
from shared.federation.methods import METHODS, MethodName, choose, columns
from shared.model import lowrank
from shared.model.deployed import deployed
from shared.model.lowrank import add_up

LAYERS = {"enc.query": (5, 12), "enc.dense": (14, 6)}
"""Outputs and inputs."""
RANK = 3
HEAD, OTHER = "head/t/w", "head/u/w"
EXAMPLES = {"a": {"t": 10}, "b": {"t": 25, "u": 5}, "c": {"u": 15}}
ALL = get_args(MethodName)


def start(seed: int = 0, *, core: bool = False) -> Arrays:
    rng = np.random.default_rng(seed)
    state = {name: rng.standard_normal((2, 4)).astype(np.float32) for name in (HEAD, OTHER)}
    for layer, (outputs, inputs) in LAYERS.items():
        state[factor_name(layer, "A")] = rng.standard_normal((RANK, inputs)).astype(np.float32)
        state[factor_name(layer, "B")] = rng.standard_normal((outputs, RANK)).astype(np.float32)
        if core:
            state[factor_name(layer, "R")] = rng.standard_normal((RANK, RANK)).astype(np.float32)
    return state


def make(name: MethodName, institutions: Iterable[str] = EXAMPLES, ranks: dict[str, int] | None = None) -> Any:
    """State, updates of round 1, and the weights that institutions should have."""
    method, state, updates = METHODS[name], start(core=name == "fed-sb"), []
    for seed, institution in enumerate(institutions, 1):
        rng = np.random.default_rng(seed)
        held, rank = EXAMPLES[institution], (ranks or {}).get(institution, RANK)
        arrays = {
            key: rng.standard_normal(array.shape).astype(np.float32) * 0.3
            for key, array in narrow(state, rank).items()
            if is_sent(key, method, 1) and (not key.startswith("head/") or key.split("/")[1] in held)
        }
        updates.append(ClientUpdate(institution, held, arrays, rank=rank))
    return state, updates, fedavg.adapter_weights({u.institution: u.examples for u in updates}, "tasks")


def dense(state: Arrays, layer: str, scale: float) -> np.ndarray:
    """s B A or s B R A in float64."""
    a, b = (state[factor_name(layer, f)].astype(np.float64) for f in ("A", "B"))
    core = factor_name(layer, "R")
    product: np.ndarray = scale * (b @ state[core].astype(np.float64) @ a if core in state else b @ a)
    return product


def ideal(state: Arrays, updates: list[ClientUpdate], weights: dict[str, float], layer: str, scale: float) -> Any:
    """The weighted mean of what institutions have, product by product."""
    total = np.zeros(LAYERS[layer])
    for update in updates:
        own = narrow(state, update.rank)
        own = {n: own[n] + update.arrays[n] if n in update.arrays else own[n] for n in own}
        total += weights[update.institution] * dense(own, layer, scale)
    return total


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture
def agree(tiny_federation: Callable[..., Federation]) -> Callable[..., Federation]:
    def make_one(name: str, **rounds: Any) -> Federation:
        believed: dict[str, Any] = {"method": name, "max_share": 1.0}
        return tiny_federation(adapter={"rank": RANK, "alpha": 7.0}, rounds=believed | rounds)

    return make_one


def test_the_registry_is_what_the_federation_file_allows() -> None:
    assert set(METHODS) == set(ALL)
    for method in METHODS.values():
        assert method.source
        assert all(columns(method).values())
    assert set(AGGREGATORS) == {*ALL, "adalora"}


def test_what_the_agreement_says_decides_how_it_is_aggregated(agree: Callable[..., Federation]) -> None:
    for name in ALL:
        assert aggregator_of(agree(name)) is AGGREGATORS[name]
    pruned = agree("fedavg").model_copy(update={"adapter": Adapter(type="adalora")})
    assert aggregator_of(pruned) is AGGREGATORS["adalora"]
    context = context_of(agree("fedavg", normalize_steps=True, weighting="examples", count=7), 3)
    assert (context.weighting, context.normalize_steps, context.round, context.rounds) == ("examples", True, 3, 7)
    assert (context.adapter.rank, context.max_share, context.momentum) == (RANK, 1.0, 0.0), "AdamW has no momentum"


@pytest.mark.parametrize("name", [name for name in ALL if METHODS[name].exact])
def test_exact_methods_give_the_mean_of_products(agree: Callable[..., Federation], name: MethodName) -> None:
    federation, (state, updates, weights) = agree(name), make(name)
    scale = federation.adapter.scale
    new, steps, diagnostics = aggregate(state, updates, federation=federation, round=1)
    assert diagnostics.weights == pytest.approx(weights)
    for layer in LAYERS:
        wanted = ideal(state, updates, weights, layer, scale)
        b, a = steps.get(layer, (np.zeros((1, 1)), np.zeros((1, 1))))
        found = dense(new, layer, scale) + b.astype(np.float64) @ a
        assert difference(found, wanted) < 1e-6


def test_plain_averaging_is_not_exact(agree: Callable[..., Federation]) -> None:
    state, updates, weights = make("fedavg")
    new, *_ = aggregate(state, updates, federation=agree("fedavg"), round=1)
    for layer in LAYERS:
        assert difference(dense(new, layer, 1.0), ideal(state, updates, weights, layer, 1.0)) > 1e-3


def test_what_fedex_leaves_over_has_few_components(agree: Callable[..., Federation]) -> None:
    state, updates, _ = make("fedex", ("a", "c"))
    _, steps, *_ = aggregate(state, updates, federation=agree("fedex"), round=1)
    for b, a in steps.values():
        assert b.shape[1] == a.shape[0] == RANK  # (K - 1) r for K = 2
    alone = aggregate(state, updates[:1], federation=agree("fedex"), round=1)
    assert not alone.steps, "one institution leaves nothing over"


def test_steps_of_an_earlier_round_are_not_added_again(agree: Callable[..., Federation]) -> None:
    state, updates, _ = make("fedex")
    federation = agree("fedex")
    new, *_ = aggregate(state, updates, federation=federation, round=1)
    again = aggregate(new, updates[:1], federation=federation, round=2)
    assert not again.steps


def test_flora_begins_anew(agree: Callable[..., Federation]) -> None:
    state, updates, _ = make("flora")
    new, *_ = aggregate(state, updates, federation=agree("flora"), round=1)
    later, *_ = aggregate(state, updates, federation=agree("flora"), round=2)
    for layer, (_, inputs) in LAYERS.items():
        a = new[factor_name(layer, "A")]
        assert not new[factor_name(layer, "B")].any()
        assert 0 < np.abs(a).max() <= inputs**-0.5
        assert not np.array_equal(a, later[factor_name(layer, "A")])


@pytest.mark.parametrize("ranks", [{}, {"a": 1, "b": 2}], ids=["equal", "different"])
def test_flexlora_is_the_nearest_product_of_its_rank(agree: Callable[..., Federation], ranks: dict[str, int]) -> None:
    state, updates, weights = make("flexlora", ranks=ranks)
    new, *_ = aggregate(state, updates, federation=agree("flexlora"), round=1)
    for layer in LAYERS:
        wanted = ideal(state, updates, weights, layer, 1.0)
        sizes = np.linalg.svd(wanted, compute_uv=False)
        for rank in range(1, RANK + 1):  # what an institution of each rank is sent
            error = np.linalg.norm(dense(narrow(new, rank), layer, 1.0) - wanted)
            assert error == pytest.approx(np.sqrt((sizes[rank:] ** 2).sum()), rel=1e-5)


def test_padded_averaging_of_different_ranks_is_worse(agree: Callable[..., Federation]) -> None:
    state, updates, weights = make("fedavg", ranks={"a": 1, "b": 2})
    padded, *_ = aggregate(state, updates, federation=agree("fedavg"), round=1)
    cut, *_ = aggregate(state, updates, federation=agree("flexlora"), round=1)
    for layer in LAYERS:
        wanted = ideal(state, updates, weights, layer, 1.0)
        assert difference(dense(cut, layer, 1.0), wanted) < 0.7 * difference(dense(padded, layer, 1.0), wanted)


def test_a_rotation_of_an_institutions_factors_changes_only_plain_averaging(agree: Callable[..., Federation]) -> None:
    state, updates, _ = make("fedavg")
    turned = [rotated(state, update, seed) for seed, update in enumerate(updates)]
    for name, exact in (("fedavg", False), ("fedex", True), ("flora", True), ("flexlora", True)):
        for layer in LAYERS:
            whole = []
            for given in (updates, turned):
                new, steps, *_ = aggregate(state, given, federation=agree(name), round=1)
                scale = agree(name).adapter.scale
                b, a = steps.get(layer, (np.zeros((1, 1)), np.zeros((1, 1))))
                whole.append(dense(new, layer, scale) + b @ a)
            assert (difference(*whole) < 1e-5) == exact, name


def rotated(state: Arrays, update: ClientUpdate, seed: int) -> ClientUpdate:
    """The same products from other factors: (B R, R^T A)."""
    rng, arrays = np.random.default_rng(seed), dict(update.arrays)
    for layer in LAYERS:
        q, _ = np.linalg.qr(rng.standard_normal((RANK, RANK)))
        q[:, 0] *= np.linalg.det(q)
        a, b = factor_name(layer, "A"), factor_name(layer, "B")
        arrays[a] = (q.T @ (state[a] + arrays[a]) - state[a]).astype(np.float32)
        arrays[b] = ((state[b] + arrays[b]) @ q - state[b]).astype(np.float32)
    return ClientUpdate(update.institution, update.examples, arrays)


@pytest.mark.parametrize("round", [1, 2])
def test_fedrot_undoes_a_rotation(round: int) -> None:
    state, (update, *_), _ = make("fedrot")
    small = {name: array * 0.1 for name, array in update.arrays.items()}
    own = {name: state[name] + small.get(name, 0) for name in state}
    moved = rotated(state, ClientUpdate("a", {"t": 1}, small), 5)
    turned = {name: state[name] + moved.arrays.get(name, 0) for name in state}
    back, straight = (align(given, state, round=round, softness=1.0) for given in (turned, own))
    for layer in LAYERS:
        assert difference(dense(back, layer, 1.0), dense(own, layer, 1.0)) < 1e-6
        for factor in ("A", "B"):
            name = factor_name(layer, factor)
            assert difference(back[name], straight[name]) < 1e-5
            assert difference(back[name], own[name]) < difference(turned[name], own[name])
    assert np.array_equal(back[HEAD], turned[HEAD])


def test_fedrot_leaves_factors_alone_that_began_at_zero() -> None:
    state, (update, *_), _ = make("fedrot")
    zero = {name: array * 0 if ".lora_B." in name else array for name, array in state.items()}
    own = {name: zero[name] + update.arrays.get(name, 0) for name in zero}
    assert all(np.array_equal(align(own, zero, round=2)[name], own[name]) for name in own)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("institutions", [("a",), ("a", "a")], ids=["alone", "identical"])
def test_one_institution_or_identical_ones_give_what_it_trained(
    agree: Callable[..., Federation], name: MethodName, institutions: tuple[str, ...]
) -> None:
    federation, (state, (update,), _) = agree(name), make(name, ("a",))
    updates = [ClientUpdate(f"i{n}", update.examples, update.arrays) for n, _ in enumerate(institutions)]
    new, steps, *_ = aggregate(state, updates, federation=federation, round=1)
    own = {key: state[key] + update.arrays.get(key, 0) for key in state}
    scale = federation.adapter.scale
    for layer in LAYERS:
        b, a = steps.get(layer, (np.zeros((1, 1)), np.zeros((1, 1))))
        assert difference(dense(new, layer, scale) + b @ a, dense(own, layer, scale)) < 1e-5
    if HEAD in update.arrays:
        np.testing.assert_allclose(new[HEAD], own[HEAD], atol=1e-6)
    assert new[OTHER].tobytes() == state[OTHER].tobytes(), "a head that nobody holds stays, bit by bit"


def test_fedsvd_after_a_round_keeps_products() -> None:
    state = start()
    new = fedsvd.refactor(state)
    for layer in LAYERS:
        a = new[factor_name(layer, "A")]
        np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-6)
        assert difference(dense(new, layer, 1.0), dense(state, layer, 1.0)) < 1e-6


def test_the_decomposition_of_factors_is_that_of_the_product() -> None:
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((9, 4)), rng.standard_normal((4, 6))
    u, sizes, vt = lowrank.decompose(b, a)
    np.testing.assert_allclose(sizes, np.linalg.svd(b @ a, compute_uv=False)[:4], rtol=1e-10)
    np.testing.assert_allclose((u * sizes) @ vt, b @ a, atol=1e-12)
    wide = lowrank.compress((np.hstack([b, b]), np.vstack([a, a])))
    assert wide[0].shape == (9, 4)
    np.testing.assert_allclose(wide[0] @ wide[1], 2 * b @ a, atol=1e-5)
    more_than_the_layer = lowrank.compress((rng.standard_normal((3, 9)), rng.standard_normal((9, 5))))
    assert more_than_the_layer[0].shape == (3, 3)


def test_a_cut_product_of_fewer_components_leaves_directions_to_train() -> None:
    b, a = lowrank.truncate((np.ones((5, 1)), np.ones((1, 4))), 1)
    np.testing.assert_allclose(b @ a, np.ones((5, 4)), atol=1e-6)
    b, a = lowrank.truncate((np.zeros((5, 2)), np.ones((2, 4))), 2)
    assert not b.any()
    np.testing.assert_allclose(a @ a.T, np.eye(2), atol=1e-6)


def test_noise_in_both_factors_multiplies() -> None:
    """The reason for training B alone under [privacy]: about 25 times the power (768 wide, rank 8)."""
    rng, d, rank, tau = np.random.default_rng(0), 768, 8, 0.1
    q, _ = np.linalg.qr(rng.standard_normal((d, rank)))
    a, b = q.T * np.sqrt(1 / 3), np.zeros((d, rank))
    noise_a, noise_b = (tau * rng.standard_normal(shape) for shape in ((rank, d), (d, rank)))
    both = np.linalg.norm((b + noise_b) @ (a + noise_a) - b @ a) ** 2
    one = np.linalg.norm(noise_b @ a) ** 2
    expected = (tau**2 * d * np.linalg.norm(a) ** 2 + tau**4 * d * d * rank) / (tau**2 * d * np.linalg.norm(a) ** 2)
    assert both / one == pytest.approx(expected, rel=0.1)
    assert 20 < both / one < 30


@pytest.mark.parametrize("name", ["fedex", "flora", "fed-sb", "fedavg"])
def test_what_is_released_is_a_plain_adapter_of_the_same_products(
    agree: Callable[..., Federation], name: MethodName
) -> None:
    federation = agree(name)
    scale = federation.adapter.scale
    state, updates, _ = make(name)
    first = aggregate(state, updates, federation=federation, round=1)
    second = aggregate(first.state, updates, federation=federation, round=2)
    made = deployed(second.state, add_up([first.steps, second.steps]), federation)
    plain, ranks = made.arrays, made.ranks
    assert made.error == 0
    assert bool(ranks) == METHODS[name].folds
    for layer, shape in LAYERS.items():
        moved = np.zeros(shape)
        for result in (first, second):
            b, a = result.steps.get(layer, (np.zeros((1, 1)), np.zeros((1, 1))))
            moved += b.astype(np.float64) @ a
        found = dense(plain, layer, 1.0 if ranks else scale)
        assert difference(found, dense(second.state, layer, scale) + moved) < 1e-6
        assert ranks.get(layer, RANK) == plain[factor_name(layer, "A")].shape[0]
    assert not any(".lora_R." in key or key.startswith("base/") for key in plain)


@pytest.mark.parametrize("name", ["fedex", "flora"])
def test_a_release_of_a_limited_rank_is_the_nearest_one_and_tells_how_near(
    agree: Callable[..., Federation], name: MethodName
) -> None:
    federation = agree(name)
    state, updates, _ = make(name)
    result = aggregate(state, updates, federation=federation, round=1)
    exact = deployed(result.state, result.steps, federation)
    near = deployed(result.state, result.steps, federation, 3)
    errors = []
    for layer in LAYERS:
        product = dense(exact.arrays, layer, 1.0)
        u, sizes, vt = np.linalg.svd(product)
        best = (u[:, :3] * sizes[:3]) @ vt[:3]
        errors.append(np.linalg.norm(product - best) / np.linalg.norm(product))
        assert difference(dense(near.arrays, layer, 1.0), best) < 1e-6
        assert near.ranks[layer] == 3
    assert near.error == pytest.approx(max(errors), rel=1e-4)
    assert near.error > 0.01


def test_flexlora_of_the_whole_rank_needs_no_cut() -> None:
    state, updates, weights = make("flexlora", ("a",))
    new, *_ = flexlora.apply(state, updates, Context(weighting="tasks"))
    for layer in LAYERS:
        assert difference(dense(new, layer, 1.0), ideal(state, updates, weights, layer, 1.0)) < 1e-6


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "fedex"),
        ({"institutions": 11}, "rolora"),
        ({"rank": 4}, "rolora"),
        ({"secure": True}, "rolora"),
        ({"private": True}, "fedsvd"),
        ({"private": True, "secure": True, "institutions": 50}, "fedsvd"),
        ({"mixed_ranks": True, "institutions": 50}, "flexlora"),
    ],
)
def test_the_default(given: dict[str, Any], name: str) -> None:
    usual = {"institutions": 3, "rank": 8, "mixed_ranks": False, "private": False, "secure": False}
    chosen, reason = choose(**usual | given)
    assert chosen == name
    assert reason
