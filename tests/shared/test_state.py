"""What is packed is what is unpacked, under names that checkpoints and messages have had since the first release."""

import numpy as np
import pytest

from shared.codec import Arrays
from shared.errors import ProtocolError
from shared.state import (
    Broadcast,
    Moments,
    State,
    Update,
    Variates,
    pack_broadcast,
    pack_state,
    pack_steps,
    pack_update,
    unpack_broadcast,
    unpack_state,
    unpack_steps,
    unpack_update,
)

A, W = "adapter/x.lora_A.weight", "head/t/w"


def arrays(*names: str) -> Arrays:
    return {name: np.full(2, len(name), np.float32) for name in names}


def test_a_checkpoint_has_a_prefix_for_all_but_the_model() -> None:
    state = State(
        arrays(A, W),
        Moments(arrays(A), arrays(W)),
        Variates(arrays(A), arrays(W)),
        {"x.y": (np.ones((4, 1)), np.ones((1, 4)))},
    )
    named = pack_state(state)
    assert named.keys() == {
        *(A, W, f"optimizer/m/{A}", f"optimizer/v/{W}", f"scaffold/sum/{A}", f"scaffold/count/{W}"),
        *("base/x.y.B", "base/x.y.A"),
    }
    back = unpack_state(named)
    assert pack_state(back).keys() == named.keys()
    assert back.model.keys() == {A, W}
    assert back.moments.first.keys() == back.variates.sums.keys() == {A}
    assert back.moments.second.keys() == back.variates.counts.keys() == {W}
    assert back.steps["x.y"][0] is named["base/x.y.B"]
    assert unpack_state(arrays(A, W)).model.keys() == {A, W}


def test_messages_have_a_prefix_for_all_but_the_model() -> None:
    update = Update(arrays(A, W), arrays(A), arrays("x"))
    assert pack_update(update).keys() == {A, W, f"control/{A}", "importance/x"}
    assert pack_update(unpack_update(pack_update(update))).keys() == pack_update(update).keys()
    assert unpack_update(pack_update(update)).importance.keys() == {"x"}
    assert unpack_update({A: (2,), f"control/{A}": (2,)}) == Update({A: (2,)}, {A: (2,)}, {}), "or their shapes"
    broadcast = Broadcast(arrays(A, W), arrays(A))
    assert pack_broadcast(broadcast).keys() == {A, W, f"control/{A}"}
    assert unpack_broadcast(pack_broadcast(broadcast)).control.keys() == {A}
    assert "importance/x" in unpack_broadcast(arrays("importance/x")).model, "for the receiver to refuse"


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (24, 24)])
@pytest.mark.parametrize("rank", [4, 20, 200])
def test_a_step_in_a_checkpoint_is_no_larger_than_its_layer(shape: tuple[int, int], rank: int) -> None:
    rng, (outputs, inputs) = np.random.default_rng(rank), shape
    b, a = (rng.standard_normal(each).astype(np.float32) for each in ((outputs, rank), (rank, inputs)))
    named = pack_state(State({}, steps={"x.y": (b, a)}))
    assert sum(array.nbytes for array in named.values()) <= 4 * min(outputs * inputs, rank * (outputs + inputs))
    assert (list(named) == ["base/x.y.B", "base/x.y.A"]) == (rank * (outputs + inputs) <= outputs * inputs)
    again_b, again_a = unpack_state(named).steps["x.y"]
    assert np.allclose(again_b @ again_a, b @ a, atol=1e-4)
    assert pack_state(unpack_state(named)).keys() == named.keys()
    assert list(pack_steps({"x.y": (b, a)})) == ["base/x.y.B", "base/x.y.A"], "institutions get factors"


def test_a_step_without_a_factor_is_refused() -> None:
    whole = pack_steps({"x.y": (np.ones((2, 1)), np.ones((1, 2)))})
    assert list(unpack_steps(whole)) == ["x.y"]
    del whole["base/x.y.A"]
    with pytest.raises(ProtocolError, match=r"'base/x\.y\.A' is missing"):
        unpack_steps(whole)
