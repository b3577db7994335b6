"""What a training process takes stays what it is, round after round."""

import pytest

from simulations.benchmarks.measured import Asked
from simulations.benchmarks.table import run


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rounds() -> None:
    result = run("memory", Asked(turns=1, small=True))
    assert result.name == "memory"
    assert result.curves
    found = result.curves.values
    assert max(found["given back"]) < 1100
    assert found["given back"][4] < 1.08 * found["given back"][1]
    assert max(found["after a round"]) < 1200  # it still grows by some of the products that are kept (KERNELS)
