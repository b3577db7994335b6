"""FedNova: unequal local steps bias the fixed point of plain averaging, and not that of normalised averaging."""

from collections.abc import Mapping

import numpy as np
import pytest

from server.aggregation import ClientUpdate, Context, fedavg, fednova
from shared.codec import Arrays

A, HEAD = "adapter/x.lora_A.weight", "head/clauses/linear.weight"
CURVATURE = {"hospital": 1.0, "law_firm": 3.0}
OPTIMUM = {"hospital": np.array([[1.0, -2.0]]), "law_firm": np.array([[3.0, 2.0]])}
STEPS = {"hospital": 2, "law_firm": 20}
RATE = 0.002


def train(name: str, start: np.ndarray, momentum: float) -> np.ndarray:
    """Heavy-ball gradient descent on curvature / 2 |w - optimum|^2."""
    w, buffer = start.astype(np.float64), np.zeros_like(start, np.float64)
    for _ in range(STEPS[name]):
        buffer = momentum * buffer + CURVATURE[name] * (w - OPTIMUM[name])
        w = w - RATE * buffer
    return np.asarray(w - start, np.float32)


def settle(normalize: bool, examples: Mapping[str, int], momentum: float) -> np.ndarray:
    state: Arrays = {A: np.zeros((1, 2), np.float32)}
    for _ in range(800):
        updates = [
            ClientUpdate(name, {"clauses": n}, {A: train(name, state[A], momentum)}, steps=STEPS[name])
            for name, n in examples.items()
        ]
        if normalize:
            state, *_ = fednova.apply(state, updates, Context(weighting="examples", momentum=momentum))
        else:
            state, *_ = fedavg.apply(state, updates, Context(weighting="examples"))
    return state[A]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_fixed_point_is_that_of_the_weighted_objective(momentum: float) -> None:
    examples = {"hospital": 30, "law_firm": 10}
    weights = {name: n * CURVATURE[name] for name, n in examples.items()}
    right = sum(weights[name] * OPTIMUM[name] for name in weights) / sum(weights.values())
    apart = np.abs(OPTIMUM["hospital"] - OPTIMUM["law_firm"]).max()
    plain, normalised = settle(False, examples, momentum), settle(True, examples, momentum)
    assert np.abs(plain - right).max() > 0.1 * apart
    assert np.abs(normalised - right).max() < 0.1 * np.abs(plain - right).max()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_steps_count_for_is_the_sum_of_their_gradients_shares(momentum: float) -> None:
    for steps in (1, 2, 7):
        moved, buffer = 0.0, 0.0
        for _ in range(steps):  # a gradient of 1 throughout
            buffer = momentum * buffer + 1.0
            moved += buffer
        assert fednova.gain(steps, momentum) == pytest.approx(moved)
    assert fednova.gain(0, momentum) == 1.0


def draw(seed: int, steps: int, name: str, tasks: Mapping[str, int], rows: np.ndarray | None = None) -> ClientUpdate:
    rng = np.random.default_rng(seed)
    arrays = {A: rng.normal(size=(2, 3)).astype(np.float32)}
    if "clauses" in tasks:
        arrays[HEAD] = rng.normal(size=(4, 3)).astype(np.float32)
    return ClientUpdate(name, tasks, arrays, {HEAD: rows} if rows is not None else {}, steps=steps)


def test_it_equals_a_slow_loop_per_array_and_row() -> None:
    rows = np.array([True, True, False, False])
    updates = [
        draw(1, 3, "bank", {"clauses": 10, "entities": 20}, rows),
        draw(2, 50, "hospital", {"entities": 5}),
        draw(3, 7, "law_firm", {"clauses": 30}, ~rows | np.array([True, False, False, False])),
    ]
    rng = np.random.default_rng(0)
    other = "head/notes_qa/linear.bias"
    state = {
        A: rng.normal(size=(2, 3)).astype(np.float32),
        HEAD: rng.normal(size=(4, 3)).astype(np.float32),
        other: rng.normal(size=3).astype(np.float32),
    }
    new, _, diagnostics = fednova.apply(state, iter(updates), Context(weighting="tasks"))
    p, tau = diagnostics.weights, {u.institution: u.steps for u in updates}
    mean = sum(p[u.institution] * u.arrays[A].astype(np.float64) / u.steps for u in updates)
    expected = state[A] + mean * sum(p[name] * tau[name] for name in p)
    np.testing.assert_allclose(new[A], expected, rtol=1e-5)
    for row in range(4):
        holders = [u for u in updates if HEAD in u.arrays and u.rows[HEAD][row]]
        share = {u.institution: u.examples["clauses"] / sum(h.examples["clauses"] for h in holders) for u in holders}
        mean = sum(share[u.institution] * u.arrays[HEAD][row].astype(np.float64) / u.steps for u in holders)
        expected = state[HEAD][row] + mean * sum(share[name] * tau[name] for name in share)
        np.testing.assert_allclose(new[HEAD][row], expected, rtol=1e-5)
    assert new[other] is state[other]
    for update in updates[1:2]:
        whole = np.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in update.arrays.values()))
        assert diagnostics.norms[update.institution] == pytest.approx(whole, rel=1e-5)
    assert diagnostics.norm == pytest.approx(fedavg.step_norm(new, state))


def test_equal_steps_are_plain_averaging() -> None:
    updates = [draw(1, 9, "bank", {"clauses": 10}), draw(2, 9, "hospital", {"clauses": 5})]
    state = {A: np.zeros((2, 3), np.float32), HEAD: np.ones((4, 3), np.float32)}
    plain, *_ = fedavg.apply(state, updates)
    normalised, *_ = fednova.apply(state, updates, Context(weighting="tasks", momentum=0.9))
    for name in state:
        np.testing.assert_allclose(normalised[name], plain[name], rtol=1e-5)
