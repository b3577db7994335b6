"""The benchmark of aggregation, small: it sums what the coordinator sums, and sees an update that is kept."""

from collections.abc import Iterator

import numpy as np
import pytest

from server.aggregation import ClientUpdate
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.methods import MethodName
from simulations.benchmarks import aggregation


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "LAYERS", 1)
    monkeypatch.setattr(aggregation, "WIDTH", 16)
    monkeypatch.setattr(aggregation, "SAME_BYTES", 11)


def test_both_sides_add_up_the_same_updates() -> None:
    federation = aggregation.federation_of("fedavg", 2)
    state = aggregation.initial_state(federation)
    pool = aggregation.make_pool(state, federation)
    weights = 100.0 + np.arange(10)
    new = aggregation.step(federation, state, aggregation.incoming(pool, 10))
    bare = aggregation.bare_sum(pool, 10)
    for name, array in new.items():
        added = [pool[i % aggregation.POOL][name].astype(float) for i in range(10)]
        np.testing.assert_allclose(array - state[name], np.average(added, axis=0, weights=weights), atol=1e-7)
        np.testing.assert_allclose(bare[name], np.sum(added, axis=0), atol=1e-6)


@pytest.mark.parametrize("name", aggregation.ADAPTED)
def test_every_method_is_measured(name: MethodName) -> None:
    federation = aggregation.federation_of(name, 2)
    if aggregation.ADAPTED[name].linear:
        found = aggregation.measure_linear(federation, 8, 1)
        assert len(found) == 9
    else:
        found = aggregation.measure(federation, 3)
        assert len(found) == 4
    assert found[0] > 0
    assert found[1] > 0


def test_an_update_that_is_kept_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = aggregation.federation_of("fedavg", 2)
    state = aggregation.initial_state(federation)
    pool = aggregation.make_pool(state, federation)

    def keep_all(_: Federation, before: Arrays, updates: Iterator[ClientUpdate]) -> Arrays:
        held = list(updates)
        return before | held[-1].arrays

    monkeypatch.setattr(aggregation, "step", keep_all)
    assert aggregation.memory(federation, state, pool, 50)[2] > 50
