"""What is shared: complete, named as peft names it, and nothing else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict

from shared import adapter
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model


@pytest.fixture
def model(tiny_federation: Callable[..., Federation]) -> MultiTaskModel:
    return build_model(tiny_federation())


def test_adapter_names_and_values_are_pefts_own(model: MultiTaskModel) -> None:
    ours = {n.removeprefix(adapter.ADAPTER): a for n, a in adapter.get_state(model).items() if n.startswith("adapter/")}
    theirs = get_peft_model_state_dict(model.encoder)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.numpy())


def test_every_trainable_parameter_is_shared_and_no_frozen_one(model: MultiTaskModel) -> None:
    shared = {id(p) for p in adapter.tensors(model).values()}
    assert shared == {id(p) for p in model.parameters() if p.requires_grad}


def test_state_round_trip(model: MultiTaskModel) -> None:
    state = {name: array + 1 for name, array in adapter.get_state(model).items()}
    adapter.set_state(model, state)
    for name, array in adapter.get_state(model).items():
        np.testing.assert_array_equal(array, state[name])


def test_get_state_is_a_copy(model: MultiTaskModel) -> None:
    state = adapter.get_state(model)
    with torch.no_grad():
        for parameter in adapter.tensors(model).values():
            parameter.add_(1.0)
    assert any(not np.array_equal(array, state[name]) for name, array in adapter.get_state(model).items())


def test_heads_that_are_not_sent_stay(model: MultiTaskModel) -> None:
    before = adapter.get_state(model)
    adapter.set_state(model, {n: a + 1 for n, a in adapter.of_tasks(before, {"clauses"}).items()})
    after = adapter.get_state(model)
    for name in before:
        moved = not np.array_equal(before[name], after[name])
        assert moved == (adapter.task_of(name) in (None, "clauses")), name


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_a_state_that_does_not_fit_changes_nothing(model: MultiTaskModel, fault: str) -> None:
    before = adapter.get_state(model)
    state = {name: array + 1 for name, array in before.items()}
    name = sorted(state)[0]
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["adapter/base"] = np.zeros(2, np.float32)
    else:
        state[name] = state[name].T.copy()
    with pytest.raises(ProtocolError, match={"missing": "is missing", "unknown": "not among", "shape": "shape"}[fault]):
        adapter.set_state(model, state)
    for key, array in adapter.get_state(model).items():
        np.testing.assert_array_equal(array, before[key])


def test_the_initial_state_is_the_same_wherever_it_is_built(tiny_federation: Callable[..., Federation]) -> None:
    first = adapter.get_state(build_model(tiny_federation()))
    torch.rand(7)
    again = adapter.get_state(build_model(tiny_federation()))
    other = adapter.get_state(build_model(tiny_federation(seed=14)))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)
