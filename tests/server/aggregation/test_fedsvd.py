"""FedSVD keeps the product and turns A to its principal directions."""

import numpy as np
import pytest

from server.aggregation.fedsvd import refactor
from shared.codec import Arrays

A, B, HEAD = "adapter/x.lora_A.weight", "adapter/x.lora_B.weight", "head/clauses/linear.weight"


def state(outputs: int, inputs: int, rank: int) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {A: (rank, inputs), B: (outputs, rank), HEAD: (2, 3)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def product(arrays: Arrays) -> np.ndarray:
    dense: np.ndarray = arrays[B].astype(np.float64) @ arrays[A].astype(np.float64)
    return dense


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 24), (24, 40), (32, 32)])
def test_the_product_stays_and_a_is_orthonormal(outputs: int, inputs: int) -> None:
    before = state(outputs, inputs, 4)
    after = refactor(before)
    assert np.linalg.norm(product(after) - product(before)) < 1e-6 * np.linalg.norm(product(before))
    np.testing.assert_allclose(after[A] @ after[A].T, np.eye(4), atol=1e-6)
    sizes = np.linalg.svd(product(before), compute_uv=False)[:4]
    np.testing.assert_allclose(np.linalg.norm(after[B], axis=0), sizes, rtol=1e-5)
    assert after[A].dtype == after[B].dtype == np.float32
    assert after[HEAD] is before[HEAD]


def test_a_product_of_zero_stays_as_it_is() -> None:
    before = state(8, 6, 2)
    before[B][:] = 0
    assert all(after is before[name] for name, after in refactor(before).items())
