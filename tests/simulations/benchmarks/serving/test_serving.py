"""The benchmarks of serving run, small."""

import pytest

from simulations.benchmarks.measured import Asked
from simulations.benchmarks.serving import load, memory

pytestmark = pytest.mark.slow


def test_a_server_beside_the_pipeline() -> None:
    found = load.findings(Asked(turns=1, small=True))
    assert [one.subject.split(", ")[1] for one in found.comparisons] == ["64 clients", "8 clients", "1 clients"]
    assert all(one.ours[0] > 0 and one.theirs[0] > 0 for one in found.comparisons)
    assert [row[0] for row in found.tables[0].rows] == [1, 8, 64]


def test_the_memory_of_a_server() -> None:
    found = memory.findings(Asked(small=True))
    assert found.curves is not None
    assert len(found.curves.values["collegium serve"]) == 5
