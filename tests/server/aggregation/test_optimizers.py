"""Server optimizers against a loop written from the paper's algorithm 2, one number at a time."""

import math

import numpy as np
import pytest

from server.aggregation import optimizers
from shared.codec import Arrays
from shared.federation import ServerOptimizer
from shared.rows import moved_rows
from shared.state import Moments

NAMES = {"adapter/x.lora_A.weight": (2, 3), "adapter/x.lora_B.weight": (4, 2), "head/clauses/linear.bias": (3,)}
KINDS = ("fedavgm", "fedadagrad", "fedadam", "fedyogi")


def draw(seed: int, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in NAMES.items()}


def slow(agreed: ServerOptimizer, x: float, steps: list[float]) -> float:
    """Algorithm 2 of arXiv 2003.00295 for one coordinate; FedAvgM is equation (1) of arXiv 1909.06335."""
    m, v = 0.0, agreed.tau**2
    for delta in steps:
        if agreed.type == "fedavgm":
            m = agreed.momentum * m + delta
            x = x + agreed.rate * m
            continue
        m = agreed.momentum * m + (1 - agreed.momentum) * delta
        if agreed.type == "fedadagrad":
            v = v + delta**2
        elif agreed.type == "fedadam":
            v = agreed.beta_2 * v + (1 - agreed.beta_2) * delta**2
        else:
            sign = (v > delta**2) - (v < delta**2)
            v = v - (1 - agreed.beta_2) * delta**2 * sign
        x = x + agreed.rate * m / (math.sqrt(v) + agreed.tau)
    return x


def everything(state: Arrays) -> dict[str, np.ndarray]:
    return {name: np.ones((1,) * array.ndim, bool) for name, array in state.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.3, "beta_1": 0.5, "beta_2": 0.9, "tau": 0.05}])
def test_three_rounds_equal_the_papers_loop(kind: str, options: dict[str, float]) -> None:
    agreed = ServerOptimizer.model_validate({"type": kind, **options})
    start, steps = draw(0), [draw(1, 0.1), draw(2, 0.01), draw(3, 0.2)]
    state, moments = start, optimizers.init(agreed, start)
    for step in steps:
        new = {name: state[name] + step[name] for name in state}
        state, moments = optimizers.apply(agreed, moments, state, new, everything(state))
    for name in NAMES:
        expected = [
            slow(agreed, float(x), [float(step[name].flat[i]) for step in steps])
            for i, x in enumerate(start[name].ravel())
        ]
        np.testing.assert_allclose(state[name].ravel(), expected, rtol=1e-4, atol=2e-6, err_msg=name)
        assert state[name].dtype == np.float32
    moved = max(float(np.abs(state[name] - start[name]).max()) for name in NAMES)
    assert moved > 0.01


def test_the_defaults_are_the_papers() -> None:
    assert [ServerOptimizer(type=kind).momentum for kind in KINDS] == [0.9, 0.0, 0.9, 0.9]  # type: ignore[arg-type]
    assert (ServerOptimizer().beta_2, ServerOptimizer().tau) == (0.99, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_could_move_stays_bitwise_and_so_do_its_moments(kind: str) -> None:
    agreed = ServerOptimizer.model_validate({"type": kind, "beta_1": 0.9})
    state = draw(0)
    moments = optimizers.init(agreed, state)
    first = {name: state[name] + array for name, array in draw(1, 0.1).items()}
    state, moments = optimizers.apply(agreed, moments, state, first, everything(state))
    a, b, head = NAMES
    new = {**state, a: state[a] + 0.1, head: state[head] + np.array([0.1, 0.0, 0.0], np.float32)}
    moved = {a: np.ones((1, 1), bool), head: np.array([True, True, False])}
    after, kept = optimizers.apply(agreed, moments, state, new, moved)
    assert after[b] is state[b]
    before, now = (of.first | {f"second {name}": array for name, array in of.second.items()} for of in (moments, kept))
    assert all(now[key] is before[key] for key in now if key.endswith(b))
    assert after[head][2].tobytes() == state[head][2].tobytes()
    for key in (key for key in now if key.endswith(head)):
        assert now[key][2] == before[key][2]
        assert now[key][0] != before[key][0]
    assert after[head][1] != state[head][1], "what somebody moved by zero goes on by its momentum"
    assert (after[a] != state[a]).all()


def test_no_optimizer_remembers_nothing() -> None:
    assert optimizers.init(ServerOptimizer(), draw(0)) == Moments()
    made = optimizers.init(ServerOptimizer(type="fedavgm"), draw(0))
    assert (set(made.first), made.second) == (set(NAMES), {})


def test_rows_are_moved_by_those_who_annotate_them() -> None:
    shapes = {
        "adapter/x.lora_B.weight": (4, 2),
        "head/clauses/linear.weight": (3, 8),
        "head/clauses/linear.bias": (3,),
        "head/entities/linear.bias": (2,),
    }
    outputs = {"clauses": ("payment", "liability", None), "entities": ("Drug", "Party")}
    labels = {"hospital": {"clauses": {"payment": 3}}, "law_firm": {"clauses": {"payment": 3, "liability": 1}}}
    examples = {"hospital": {"clauses": 3}, "law_firm": {"clauses": 4}}
    one = moved_rows(shapes, {"hospital": examples["hospital"]}, outputs=outputs, labels=labels)
    assert one.keys() == shapes.keys() - {"head/entities/linear.bias"}
    assert one["head/clauses/linear.weight"].tolist() == [[True], [False], [True]]
    assert one["head/clauses/linear.bias"].tolist() == [True, False, True]
    assert one["adapter/x.lora_B.weight"].all()
    both = moved_rows(shapes, examples, outputs=outputs, labels=labels)
    assert all(rows.all() for rows in both.values())
