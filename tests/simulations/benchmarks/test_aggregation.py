"""The benchmark of aggregation, small: it sums what the coordinator sums, and sees an update that is kept."""

from collections.abc import Iterator

import numpy as np
import pytest

from server.aggregation import ClientUpdate
from shared.codec import Arrays
from simulations.benchmarks import aggregation
from simulations.benchmarks.measured import Asked


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "LAYERS", 1)
    monkeypatch.setattr(aggregation, "WIDTH", 16)
    monkeypatch.setattr(aggregation, "SAME_BYTES", 11)


def test_both_sides_add_up_the_same_updates() -> None:
    scene = aggregation.scene_of("fedavg", 2)
    weights = 100.0 + np.arange(10)
    new = aggregation.step(scene, 10)
    bare = aggregation.bare_sum(scene.pool, 10)
    for name, array in new.items():
        added = [scene.pool[i % aggregation.POOL][name].astype(float) for i in range(10)]
        np.testing.assert_allclose(array - scene.state[name], np.average(added, axis=0, weights=weights), atol=1e-7)
        np.testing.assert_allclose(bare[name], np.sum(added, axis=0), atol=1e-6)


def test_every_method_is_measured() -> None:
    found = aggregation.findings(Asked(turns=2, small=True))
    assert [comparison.subject for comparison in found.comparisons] == [row[0] for row in found.tables[0].rows]
    assert all(min(comparison.ours + comparison.theirs) > 0 for comparison in found.comparisons)
    linear, others = ({str(row[0]).partition(",")[0] for row in table.rows} for table in found.tables)
    assert linear | others == aggregation.ADAPTED.keys()
    assert not linear & others


def test_an_update_that_is_kept_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_all(state: Arrays, updates: Iterator[ClientUpdate], **_: object) -> tuple[Arrays]:
        held = list(updates)
        return (state | held[-1].arrays,)

    monkeypatch.setattr(aggregation, "aggregate", keep_all)
    assert aggregation.memory(aggregation.scene_of("fedavg", 2), 50)[2] > 50
