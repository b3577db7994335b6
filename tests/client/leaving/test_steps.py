"""The way out of a site: which steps an agreement has, and what each does to an update."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.leaving import steps
from client.leaving.steps import Leaving, Trained
from client.policy import Policy
from client.round.keep import LocalState
from client.round.secagg import SecureRounds
from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.codec import Arrays
from shared.federation import Federation
from shared.protocol import TrainReply, TrainRequest
from shared.state import Broadcast, Update

MakeFederation = Callable[..., Federation]
A, B, HEAD = "adapter/x.lora_A.weight", "adapter/x.lora_B.weight", "head/clauses/linear.bias"
SCAFFOLD = {"scaffold": True, "optimizer": "sgd", "momentum": 0.0}
EQUAL = {"weighting": "equal"}
ADALORA = {"type": "adalora", "target_rank": 2, "warmup_rounds": 1, "final_rounds": 1}


def arrays(seed: int, rank: int = 2) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {A: (rank, 5), B: (4, rank), HEAD: (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def leaving(federation: Federation, received: Arrays, state: Arrays, **more: Any) -> Leaving:
    trained = Trained(
        federation=federation,
        policy=Policy(),
        tasks={"clauses"},
        round=1,
        seed=1,
        received=Broadcast(received, more.pop("control", {})),
        variates=more.pop("variates", {}),
        importance=more.pop("importance", {}),
        rates=(0.5, 0.25),
    )
    return Leaving(trained, state, Update({name: array.shape for name, array in state.items()}), **more)


@pytest.mark.parametrize(
    ("tables", "names"),
    [
        ({}, ["subtract", "gate"]),
        ({"rounds": {"method": "fedsa"}}, ["subtract", "gate"]),
        ({"rounds": {"method": "fedrot"}}, ["align", "subtract", "gate"]),
        ({"adapter": ADALORA, "rounds": {"count": 4}}, ["prune", "subtract", "gate"]),
        ({"wire": {"up": "top-k"}}, ["subtract", "feedback", "gate"]),
        ({"rounds": {"method": "fedrot"}, "wire": {"up": "top-k"}}, ["align", "subtract", "feedback", "gate"]),
        ({"training": SCAFFOLD, "rounds": EQUAL}, ["subtract", "control", "gate", "remember"]),
    ],
)
def test_an_agreement_has_the_steps_of_its_features_in_one_order(
    tiny_federation: MakeFederation, tables: dict[str, Any], names: list[str]
) -> None:
    assert [step.__name__ for step in steps.steps_of(tiny_federation(**tables))] == names


def test_what_a_method_keeps_stays_as_it_is_and_the_rest_leaves_as_a_difference(
    tiny_federation: MakeFederation,
) -> None:
    received, state = arrays(1), arrays(2)
    after = steps.subtract(leaving(tiny_federation(rounds={"method": "fedsa"}), received, state))
    assert after.update.model.keys() == {A}
    np.testing.assert_array_equal(after.update.model[A], state[A] - received[A])
    assert after.kept.parts.keys() == {"home"}
    assert {name: array.tobytes() for name, array in after.kept.home.items()} == {
        name: state[name].tobytes() for name in (B, HEAD)
    }


def test_pruned_components_do_not_leave(tiny_federation: MakeFederation) -> None:
    federation = tiny_federation(adapter=ADALORA, rounds={"count": 4})
    received, state = arrays(1, rank=2), arrays(2, rank=4)
    importance = {"x": np.arange(4, dtype=np.float32)}
    after = steps.subtract(steps.prune(leaving(federation, received, state, importance=importance)))
    assert {name: array.shape for name, array in after.update.model.items()} == after.shapes.model
    assert after.shapes.model[A] == (2, 5)
    assert after.update.importance["x"].tolist() == [0.0, 1.0]
    assert after.shapes.importance == {"x": (2,)}


def test_a_step_changes_nothing_of_what_it_is_given(tiny_federation: MakeFederation) -> None:
    federation = tiny_federation(rounds={"method": "fedrot"}, wire={"up": "top-k", "top_k": 0.2})
    kept = LocalState(residual={name: np.ones_like(array) for name, array in arrays(3).items()})
    given = leaving(federation, arrays(1), arrays(2), kept=kept)
    for step in steps.steps_of(federation):
        before = repr(given)
        after = step(given)
        assert repr(given) == before, step.__name__
        given = after
    assert given.parcel
    left = given.kept.residual[A] + given.parcel.update.model[A]
    turned = steps.align(leaving(federation, arrays(1), arrays(2))).state[A] - arrays(1)[A]
    np.testing.assert_allclose(left, turned + 1, atol=1e-6, err_msg="what is not sent is kept")


def test_control_variates_are_kept_as_the_coordinator_decodes_their_change(tiny_federation: MakeFederation) -> None:
    """In float16 what is decoded is not what was encoded, and both sides must add up the same."""
    federation = tiny_federation(training=SCAFFOLD, rounds=EQUAL, wire={"up": "float16"})
    received, state, c, own = (arrays(seed) for seed in range(4))
    given = leaving(federation, received, state, control=c, variates=own)
    parcel, kept = steps.leave(given.trained, state, given.shapes.model, LocalState())
    for name, array in own.items():
        rate = 0.25 if name == HEAD else 0.5
        exact = -(state[name] - received[name]) / rate - c[name]
        decoded = parcel.update.control[name]
        np.testing.assert_allclose(decoded, exact, rtol=1e-3)
        assert (decoded != exact).any()
        np.testing.assert_array_equal(kept.variates[name], array + decoded)


def test_what_is_masked_is_what_the_gate_has_decoded(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate encodes and decodes once, and nobody does it again."""
    given, decoded = [], []
    original = codec.decode

    def begin(self: SecureRounds, reply: TrainReply, update: Arrays, *_: Any, **__: Any) -> TrainReply:
        given.append((reply.update, update))
        return replace(reply, update=b"")

    def decode(blob: bytes, *args: Any) -> Arrays:
        decoded.append(blob)
        return original(blob, *args)

    monkeypatch.setattr(SecureRounds, "begin", begin)
    site = make_site(
        "clauses",
        wire={"up": "float16"},
        secure_aggregation={"threshold": 3},
        rounds={"institutions": ["hospital", "bank", "clinic"], "quorum": 3},
    )
    state = codec.encode(of_tasks(get_state(site.model), {"clauses"}), "float32")
    monkeypatch.setattr(codec, "decode", decode)
    site.answer(TrainRequest(spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=state))
    ((blob, update),) = given
    assert decoded == [state, blob]
    assert {name: array.tobytes() for name, array in update.items()} == {
        name: array.tobytes() for name, array in original(blob, "float16").items()
    }
