"""A round's result does not depend on the order in which institutions answer."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.rounds import collecting
from server.store import Store
from shared.adapter import get_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.engine import LocalGrid, run_on

NAMES = ("bank", "clinic", "hospital", "law_firm")


class Ordered(LocalGrid):
    """The simulator's Grid whose institutions answer in a given order."""

    def __init__(self, sites: dict[str, Site], order: Iterable[str]) -> None:
        super().__init__(sites)
        self._rank = {name: place for place, name in enumerate(order)}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        first = min(self._pending, key=lambda one: self._rank[self._names[self._pending[one].metadata.dst_node_id]])
        return super().pull_messages([one for one in message_ids if one == first])


@pytest.fixture
def trained(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., Arrays]:
    """Trains four institutions that answer in an order; the model after the last round."""

    def train(order: tuple[str, ...], **tables: Any) -> Arrays:
        named = {"institutions": list(NAMES), **tables.pop("rounds")}
        federation = tiny_federation(**tables, rounds=named)
        model, sites = build_model(federation), {}
        for place, name in enumerate(NAMES):
            data = {
                task: Data(
                    train=write_records(tmp_path / name / f"{task}.train.jsonl", task, slice(place, None, 5)),
                    validation=write_records(tmp_path / name / f"{task}.validation.jsonl", task, slice(4, None, 5)),
                )
                for task in ("clauses", "entities")
            }
            sites[name] = build_site(Institution(name=name, data=data), federation, model)
        folder = tmp_path / "-".join(order)
        with Store.open(f"sqlite:///{folder}.db", checkpoints=folder) as store:
            run = run_on(Ordered(sites, order), federation, get_state(model), store)
            return store.load_checkpoint(run, federation.rounds.count).model

    return train


def same(one: Arrays, other: Arrays) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize(
    "tables",
    [
        {"rounds": {"method": "fedavg"}},
        {"rounds": {"method": "fedex"}},
        {
            "rounds": {"method": "fedavg", "weighting": "equal"},
            "training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0},
        },
        {"rounds": {"method": "rolora", "weighting": "equal", "quorum": 3}, "robust": {"filter": "median"}},
    ],
    ids=["fedavg", "fedex", "scaffold", "robust"],
)
def test_whoever_answers_first_the_result_is_the_same_to_the_bit(
    trained: Callable[..., Arrays], tables: dict[str, Any]
) -> None:
    first, *others = [trained(order, **tables) for order in (NAMES, NAMES[::-1], (*NAMES[2:], *NAMES[:2]))]
    assert all(same(first, other) for other in others)


def test_a_large_round_holds_none_and_depends_on_the_order(
    trained: Callable[..., Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "IN_ORDER_BYTES", 0)
    states = [
        trained(order, rounds={"method": "fedavg"}) for order in itertools.islice(itertools.permutations(NAMES), 8)
    ]
    assert not all(same(states[0], other) for other in states)
