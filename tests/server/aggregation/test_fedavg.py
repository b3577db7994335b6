"""Federated averaging against a slow, obvious computation."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from server.aggregation import ClientUpdate, Context, fedavg
from shared.codec import Arrays
from shared.errors import ReplyError
from shared.federation import Weighting

SHAPES = {"adapter/q.lora_A.weight": (2, 5), "adapter/q.lora_B.weight": (7, 2), "head/t/w": (3, 5), "head/u/w": (2, 5)}


def arrays(seed: int, tasks: tuple[str, ...]) -> Arrays:
    rng = np.random.default_rng(seed)
    names = [n for n in SHAPES if n.startswith("adapter/") or n.split("/")[1] in tasks]
    return {name: rng.standard_normal(SHAPES[name]).astype(np.float32) for name in names}


STATE = arrays(0, ("t", "u"))
UPDATES = [
    ClientUpdate("a", {"t": 10}, arrays(1, ("t",))),
    ClientUpdate("b", {"t": 30, "u": 5}, arrays(2, ("t", "u"))),
    ClientUpdate("c", {"u": 15}, arrays(3, ("u",))),
]


def test_it_equals_a_slow_mean() -> None:
    new, _, diagnostics = fedavg.apply(STATE, UPDATES)
    weights = {"a": (10 / 40) / 2, "b": (30 / 40 + 5 / 20) / 2, "c": (15 / 20) / 2}
    for name in ("adapter/q.lora_A.weight", "adapter/q.lora_B.weight"):
        mean = sum(weights[u.institution] * u.arrays[name].astype(float) for u in UPDATES)
        np.testing.assert_allclose(new[name], STATE[name] + mean, rtol=1e-6, atol=1e-6)
    a, b, c = (u.arrays for u in UPDATES)
    np.testing.assert_allclose(
        new["head/t/w"], STATE["head/t/w"] + (10 * a["head/t/w"] + 30 * b["head/t/w"]) / 40, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        new["head/u/w"], STATE["head/u/w"] + (5 * b["head/u/w"] + 15 * c["head/u/w"]) / 20, rtol=1e-5, atol=1e-6
    )
    assert diagnostics.weights == pytest.approx(weights)
    assert sum(diagnostics.weights.values()) == pytest.approx(1.0)


def test_a_head_that_nobody_holds_stays_bitwise() -> None:
    new, *_ = fedavg.apply(STATE, UPDATES[:1])
    assert new["head/u/w"].tobytes() == STATE["head/u/w"].tobytes()


def test_one_institution_or_identical_ones_give_its_own_state() -> None:
    update = UPDATES[1]
    alone, *_ = fedavg.apply(STATE, [update])
    twins, *_ = fedavg.apply(STATE, [update, ClientUpdate("twin", {"t": 90, "u": 5}, update.arrays)])
    for name, array in update.arrays.items():
        np.testing.assert_allclose(alone[name], STATE[name] + array, atol=1e-6)
        np.testing.assert_allclose(twins[name], STATE[name] + array, atol=1e-6)


def test_the_order_of_arrival_does_not_matter() -> None:
    one, *_ = fedavg.apply(STATE, UPDATES)
    other, *_ = fedavg.apply(STATE, UPDATES[::-1])
    for name in STATE:
        np.testing.assert_allclose(one[name], other[name], atol=1e-7)


def test_nobody_changes_nothing() -> None:
    new, *_ = fedavg.apply(STATE, [])
    assert all(new[name] is STATE[name] for name in STATE)


def test_an_update_counts_once() -> None:
    with pytest.raises(ReplyError, match="second one"):
        fedavg.apply(STATE, [UPDATES[0], UPDATES[0]])


def test_memory_does_not_grow_with_institutions() -> None:
    size = 100_000
    state = {"adapter/x": np.zeros(size, np.float32)}

    def updates() -> Iterator[ClientUpdate]:
        for i in range(100):
            yield ClientUpdate(str(i), {"t": 1}, {"adapter/x": np.full(size, i, np.float32)})

    tracemalloc.start()
    fedavg.apply(state, updates())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * size * 4


def test_rows_are_averaged_over_those_who_annotate_their_label() -> None:
    state = {"head/t/linear.weight": np.zeros((3, 2), np.float32), "head/t/linear.bias": np.ones(3, np.float32)}
    rows = {"a": np.array([True, True, False]), "b": np.array([False, True, False])}
    updates = [
        ClientUpdate(
            name,
            {"t": count},
            {key: np.full(array.shape, value, np.float32) for key, array in state.items()},
            {key: rows[name] for key in state},
        )
        for name, count, value in (("a", 10, 1.0), ("b", 30, 5.0))
    ]
    new, *_ = fedavg.apply(state, updates)
    second = (10 * 1.0 + 30 * 5.0) / 40
    np.testing.assert_allclose(new["head/t/linear.weight"], [[1.0, 1.0], [second, second], [0.0, 0.0]])
    np.testing.assert_allclose(new["head/t/linear.bias"], [2.0, 1.0 + second, 1.0])


def test_weights_by_examples_are_plain_fedavg() -> None:
    new, _, diagnostics = fedavg.apply(STATE, UPDATES, Context(weighting="examples"))
    assert diagnostics.weights == pytest.approx({"a": 10 / 60, "b": 35 / 60, "c": 15 / 60})
    name = "adapter/q.lora_A.weight"
    mean = sum(diagnostics.weights[u.institution] * u.arrays[name].astype(float) for u in UPDATES)
    np.testing.assert_allclose(new[name], STATE[name] + mean, rtol=1e-6, atol=1e-6)


def slow_mean(updates: list[ClientUpdate], name: str, weighting: Weighting) -> np.ndarray:
    weights = fedavg.adapter_weights({u.institution: u.examples for u in updates}, weighting)
    mean: np.ndarray = np.sum([weights[u.institution] * u.arrays[name].astype(float) for u in updates], axis=0)
    return mean


@pytest.mark.parametrize("weighting", ["tasks", "examples", "equal"])
@pytest.mark.parametrize(
    "held",
    [
        [{"t": 4, "u": 6}, {"t": 2, "u": 3}, {"t": 6, "u": 9}],  # one ratio throughout
        [{"t": 4, "u": 6, "v": 2}, {"t": 2, "u": 3, "v": 9}, {"t": 1, "u": 1, "v": 1}],  # told apart one after another
        [{"t": 4}, {"u": 6, "v": 2}, {"t": 2, "v": 1}, {"w": 5}, {"t": 1, "u": 8, "v": 1, "w": 3}],
    ],
)
def test_tasks_share_a_sum_only_while_nothing_tells_them_apart(
    held: list[dict[str, int]], weighting: Weighting
) -> None:
    name = "adapter/q.lora_A.weight"
    updates = [ClientUpdate(str(i), counts, {name: arrays(i, ())[name]}) for i, counts in enumerate(held)]
    for given in (updates, updates[::-1]):
        new, *_ = fedavg.apply(STATE, given, Context(weighting=weighting))
        np.testing.assert_allclose(new[name], STATE[name] + slow_mean(updates, name, weighting), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, fedavg.STAGE - 1, fedavg.STAGE, 2 * fedavg.STAGE + 3, 1000])
def test_many_updates_are_the_mean_in_double_precision(number: int) -> None:
    names = ("adapter/a", "adapter/b", "adapter/c", "head/t/w")
    rng = np.random.default_rng(number)
    shapes = dict(zip(names, ((37,), (2, 3), (41, 1), (5, 7)), strict=True))
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    updates = [
        ClientUpdate(str(who), {"t": who + 1}, {n: rng.normal(0.5, 1, s).astype(np.float32) for n, s in shapes.items()})
        for who in range(number)
    ]
    new, _, diagnostics = fedavg.apply(state, updates)
    counts = np.arange(1, number + 1, dtype=np.float64)
    for name in names:
        every = np.stack([update.arrays[name].astype(np.float64) for update in updates])
        mean = np.tensordot(counts / counts.sum(), every, axes=1)
        np.testing.assert_allclose(new[name], mean, rtol=0, atol=2e-6)
    whole = np.concatenate([array.ravel() for array in updates[0].arrays.values()])
    assert diagnostics.norms["0"] == pytest.approx(float(np.linalg.norm(whole)), rel=1e-5)


def test_an_update_without_a_head_leaves_it_to_the_others() -> None:
    a, b, _ = UPDATES
    headless = ClientUpdate("a", a.examples, {n: x for n, x in a.arrays.items() if not n.startswith("head/")})
    new, *_ = fedavg.apply(STATE, [headless, b])
    np.testing.assert_allclose(new["head/t/w"], STATE["head/t/w"] + b.arrays["head/t/w"], atol=1e-6)


@pytest.mark.parametrize("tasks", [1, 6])
def test_four_updates_fill_all_memory_that_is_needed(tasks: int) -> None:
    state = {f"adapter/{i}": np.zeros((8, 768), np.float32) for i in range(48)}
    counts = {f"t{i}": i + 1 for i in range(tasks)}
    peaks = []
    for institutions in (5, 50):
        given = (ClientUpdate(str(i), counts, {n: a + 1 for n, a in state.items()}) for i in range(institutions))
        tracemalloc.start()
        fedavg.apply(state, given)
        peaks.append(tracemalloc.get_traced_memory()[1] / sum(a.nbytes for a in state.values()))
        tracemalloc.stop()
    assert max(peaks) <= 4
    assert peaks[1] <= 1.02 * peaks[0]
