"""What everybody weighs in a sum: as plain averaging weighs it, and nobody more than the agreed share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from server.aggregation import ClientUpdate, Context, fedavg
from shared.errors import ProtocolError
from shared.federation.rounds import Weighting
from shared.rows import row_masks
from shared.weighting import Shares, capped, check_counted, check_shares, sum_shares

OUTPUTS: Mapping[str, Sequence[str | None]] = {
    "clauses": ("payment", "liability"),
    "entities": (None, "Drug", "Drug"),
    "notes_qa": (),
}
SHAPES = {
    "adapter/q.lora_A.weight": (2, 3),
    "head/clauses/linear.weight": (2, 3),
    "head/clauses/linear.bias": (2,),
    "head/entities/linear.bias": (3,),
    "head/entities/dense.weight": (2, 2),
    "head/notes_qa/linear.bias": (2,),
}


@dataclass(frozen=True)
class Holder:
    examples: Mapping[str, int]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


HELD = {
    "bank": Holder({"clauses": 70}, {"clauses": ["payment"]}),
    "clinic": Holder({"clauses": 100, "entities": 40}),
    "hospital": Holder({"clauses": 90, "entities": 35}),
    "insurer": Holder({"clauses": 95, "entities": 30}),
}


def shares(held: Mapping[str, Holder], weighting: Weighting, most: float = 0.5) -> Shares:
    return sum_shares(held, shapes=SHAPES, outputs=OUTPUTS, weighting=weighting, most=most)


@pytest.mark.parametrize("weighting", ["tasks", "examples", "equal"])
def test_they_weigh_what_plain_averaging_gives_them(weighting: Weighting) -> None:
    rng = np.random.default_rng(0)
    updates = []
    for name, of in HELD.items():
        arrays = {
            array: rng.normal(size=shape).astype(np.float32)
            for array, shape in SHAPES.items()
            if array.startswith("adapter/") or array.split("/")[1] in of.examples
        }
        rows = row_masks(
            {task: OUTPUTS[task] for task in of.examples},
            {task: dict.fromkeys(labels, 1) for task, labels in of.labels.items()},
        )
        updates.append(ClientUpdate(name, of.examples, arrays, rows))
    zero = {array: np.zeros(shape, np.float32) for array, shape in SHAPES.items()}
    plain, *_ = fedavg.apply(zero, updates, Context(weighting=weighting))
    weights = shares(HELD, weighting)
    for array, shape in SHAPES.items():
        arrays = {update.institution: update.arrays.get(array, np.zeros(shape)) for update in updates}
        mean = sum(weights[name][array] * arrays[name] for name in HELD)
        np.testing.assert_allclose(mean, plain[array], atol=1e-6, err_msg=array)


def test_nobody_weighs_more_than_the_share() -> None:
    rng = np.random.default_rng(1)
    for most in (0.4, 0.5, 0.7, 1.0):
        for _ in range(50):
            held = {
                name: Holder({task: int(rng.lognormal(5, 3)) + 1 for task in of.examples}, of.labels)
                for name, of in HELD.items()
            }
            for weighting in ("tasks", "examples", "equal"):
                weights = shares(held, weighting, most)
                check_shares(weights, held, most=most)
                for array in SHAPES:
                    total = np.sum([own[array] for own in weights.values()], axis=0)
                    assert (np.isclose(total, 1) | (total == 0)).all()
                assert np.isclose(sum(float(own["adapter/q.lora_A.weight"].max()) for own in weights.values()), 1)


def test_what_one_institution_holds_weighs_nothing() -> None:
    held = {"bank": HELD["bank"], "clinic": HELD["clinic"], "hospital": Holder({"clauses": 90})}
    weights = shares(held, "tasks")
    assert not any(own["head/entities/linear.bias"].any() for own in weights.values())
    assert not any(own["head/entities/dense.weight"].any() for own in weights.values())
    assert shares(held, "tasks", most=1.0)["clinic"]["head/entities/linear.bias"].all()
    alone = {"bank": HELD["bank"], "law_firm": Holder({"clauses": 5}, {"clauses": ["payment"]})}
    rows = shares(alone | {"clinic": Holder({"clauses": 7})}, "equal")["clinic"]["head/clauses/linear.weight"]
    assert rows.ravel().tolist() == [1 / 3, 0.0]  # nobody else annotates the second label


def test_a_sum_that_lost_too_many_is_refused() -> None:
    weights = shares(HELD, "tasks")
    check_shares(weights, HELD, most=0.5)
    with pytest.raises(ProtocolError, match=r"more than 0.5 .* in the adapter, but of .* would weigh 0.77"):
        check_shares(weights, {"bank", "clinic"}, most=0.5)
    with pytest.raises(ProtocolError, match=r"in the head of clauses, but of .* would weigh 1.00"):
        check_shares(weights, {"bank", "clinic"}, most=0.8)
    check_shares(weights, {"bank", "clinic"}, most=1.0)


@pytest.mark.parametrize(
    ("weights", "most", "expected"),
    [
        ([1, 1, 1], 0.5, [1 / 3] * 3),
        ([10, 1, 1], 0.5, [0.5, 0.25, 0.25]),
        ([1000, 999, 1, 1], 0.4, [0.4, 0.4, 0.1, 0.1]),
        ([3, 1], 0.5, [0.5, 0.5]),
        ([3, 1], 1.0, [0.75, 0.25]),
        ([5, 0, 0], 0.5, [1, 0, 0]),
        ([0, 0], 0.5, [0, 0]),
    ],
)
def test_capped_shares(weights: list[float], most: float, expected: list[float]) -> None:
    np.testing.assert_allclose(capped(np.array(weights, float), most), expected)


@pytest.mark.parametrize(
    "false",
    [
        Holder({}),
        Holder({"strange": 1}),
        Holder({"clauses": 0}),
        Holder({"clauses": -5}),
        Holder({"clauses": 10**9 + 1}),
        Holder({"clauses": 1}, {"clauses": ["strange"]}),
        Holder({"clauses": 1}, {"entities": ["Drug"]}),
        Holder({"notes_qa": 1}, {"notes_qa": ["payment"]}),
    ],
)
def test_false_counts_are_refused(false: Holder) -> None:
    check_counted(HELD, OUTPUTS)
    with pytest.raises(ProtocolError, match="mallory"):
        check_counted(HELD | {"mallory": false}, OUTPUTS)
