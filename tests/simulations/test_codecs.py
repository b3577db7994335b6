"""Every codec in whole federations: it learns, sends what it promises, and goes on as if not interrupted."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.preflight import Kept
from client.site import Site
from server.store import Store, replies, scores
from shared import codec
from shared.adapter import get_state
from shared.codec import Arrays, CodecName, Coding, StateCodec
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.state import State, pack_state
from simulations.engine import LocalGrid, run_on
from simulations.nodekeys import node_key

UP, DOWN = get_args(CodecName), get_args(StateCodec)
HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}
SECURE = {"quorum": 3, "weighting": "equal", "method": "fedavg"}
Make = Callable[..., tuple[Federation, dict[str, Site], Arrays]]


@pytest.fixture
def make(tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]) -> Make:
    def build(wire: dict[str, Any], **tables: Any) -> tuple[Federation, dict[str, Site], Arrays]:
        tables["rounds"] = {"count": 5, "method": "fedavg"} | tables.get("rounds", {})
        tables["training"] = {"learning_rate": 2e-2, "epochs_per_round": 3} | tables.get("training", {})
        federation, sites = tiny_federation(HELD, wire=wire, **tables), {}
        model = build_model(federation)
        for name, tasks in HELD.items():
            sites[name] = build_site(
                Institution(name=name, data=split_data(name, tasks)), federation, model, Kept(node_key=node_key(name))
            )
        return federation, sites, get_state(model)

    return build


def run(store: Store, made: tuple[Federation, dict[str, Site], Arrays], run_id: str | None = None) -> str:
    federation, sites, initial = made
    return run_on(LocalGrid(sites), federation, initial, store, run_id=run_id)


def final(store: Store, run_id: str) -> float:
    """Mean of the primary metrics on the test records."""
    found = [r["value"] for r in store.rows(scores, run_id) if r["split"] == "test" and r["round"]]
    return float(np.mean(found))


def sent(store: Store, run_id: str, way: str) -> int:
    return sum(row[way] for row in store.rows(replies, run_id) if row["kind"] == "train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wire", "up", "down"),
    [
        ({"up": "float16", "down": "float16"}, 0.5, 0.5),
        ({"up": "bfloat16", "down": "bfloat16"}, 0.5, 0.5),
        ({"up": "int8", "down": "float32"}, 0.25, 1.0),
        ({"up": "float32", "down": "int8"}, 1.0, 0.25),
        ({"up": "int4", "down": "int8"}, 0.125, 0.25),
        ({"up": "int4", "down": "int8", "compress": True}, 0.125, 0.25),
        ({"up": "top-k", "top_k": 0.5, "down": "float16"}, 0.375, 0.5),
    ],
)
def test_a_federation_learns_by_every_codec(
    store: Store, make: Make, wire: dict[str, Any], up: float, down: float
) -> None:
    exact = run(store, make({"up": "float32", "down": "float32"}))
    coded = run(store, make(wire))
    assert all(row["status"] == "ok" for row in store.rows(replies, coded))
    assert final(store, coded) > final(store, exact) - 0.15
    headers = 3 * 5 * 2500  # names, shapes and scales of three institutions in five rounds; small models feel them
    for way, share in (("bytes_up", up), ("bytes_down", down)):
        assert sent(store, coded, way) <= 1.1 * share * sent(store, exact, way) + headers


@pytest.mark.slow
@pytest.mark.parametrize("up", ["int8", "top-k"])
def test_a_round_trained_twice_sends_the_same(store: Store, make: Make, up: str, monkeypatch: Any) -> None:
    whole = run(store, make({"up": up, "down": "int8"}))
    made = make({"up": up, "down": "int8"})
    save, stopped = Store.save_checkpoint, store.create_run(made[0])

    def die(self: Store, run_id: str, round: int, state: State) -> None:
        if round == 2:
            raise KeyboardInterrupt
        save(self, run_id, round, state)

    monkeypatch.setattr(Store, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        run(store, made, stopped)
    monkeypatch.undo()
    run(store, made, stopped)
    one, other = (pack_state(store.load_checkpoint(run_id, 5)) for run_id in (whole, stopped))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-6, err_msg=name)


def test_what_top_k_leaves_out_is_kept_and_sent_later(store: Store, make: Make, monkeypatch: Any) -> None:
    given, left, original = list[Arrays](), list[Arrays](), codec.with_feedback

    def watched(update: Arrays, residual: Arrays, coding: Coding) -> tuple[Arrays, Arrays]:
        sent, after = original(update, residual, coding)
        given.append(residual)
        left.append(after)
        return sent, after

    monkeypatch.setattr(codec, "with_feedback", watched)
    made = make({"up": "top-k", "top_k": 0.05, "down": "float32"})
    run_id = run(store, made)
    number = len(made[1])
    assert len(given) == 5 * number
    assert not any(given[:number]), "nothing was left out before the first round"
    for before, after in zip(left, given[number:], strict=False):
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)
        assert any(array.any() for array in before.values())
    for site, after in zip(made[1].values(), left[-number:], strict=True):
        kept = site.memory.keep.upto(run_id, 5).residual
        assert all(np.array_equal(kept[name], after[name]) for name in after)


def test_compression_goes_with_masked_sums(store: Store, make: Make) -> None:
    secure = {"secure_aggregation": {"threshold": 3, "clip": 8.0}, "rounds": SECURE}
    plain = run(store, make({"up": "float32", "down": "float32"}, **secure))
    packed = run(store, make({"up": "float32", "down": "float32", "compress": True}, **secure))
    assert {row["status"] for row in store.rows(replies, packed)} == {"ok"}
    one, other = (store.load_checkpoint(run_id, 5).model for run_id in (plain, packed))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("wire", "tables", "said"),
    [
        ({"up": "int8"}, {"secure_aggregation": {"threshold": 3}, "rounds": SECURE}, "sums are computed over integers"),
        ({"up": "top-k"}, {"rounds": {"method": "flora"}}, "it restarts A and B in every round"),
        ({"up": "top-k"}, {"rounds": {"method": "fedsvd"}}, "'int4' works"),
        ({"down": "int8"}, {"adapter": {"type": "adalora"}}, "wire.down must not be 'int8': factors cut to"),
        ({"down": "top-k"}, {}, "wire.down"),
        ({"up": "zip"}, {}, "wire.up"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_federation: Callable[..., Federation], wire: dict[str, Any], tables: dict[str, Any], said: str
) -> None:
    tables = {"rounds": {"method": "fedavg", "weighting": "equal", "count": 6}} | tables
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        tiny_federation(HELD, wire=wire, **tables)
