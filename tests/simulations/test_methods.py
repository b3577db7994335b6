"""Every method in whole federations: it learns, goes on as if not interrupted, and is released as it was scored."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from flwr.app import Message

from client.institution import AdapterSize, Data, Institution
from client.opening import build_site
from client.predict import open_bundle
from client.site import Site
from client.train.scoring import score
from server.release.making import release
from server.store import Store, events, replies, scores
from shared import protocol
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import QuorumError
from shared.federation import Federation
from shared.federation.methods import METHODS, MethodName
from shared.flower.messages import NodeInfo
from shared.model.multitask import build_model
from shared.state import State, pack_state
from simulations.engine import LocalGrid, run_on

ALL = get_args(MethodName)
LOW = 4
"""A seed with which the untrained model scores little, so that there is something to learn."""
HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}


class Grid(LocalGrid):
    """The simulator's Grid, at which an institution may be away for the first rounds."""

    def __init__(self, sites: dict[str, Site], late: str | None = None, rounds: int = 0) -> None:
        super().__init__(sites)
        self.late, self.rounds, self.trained = late, rounds, set[int]()

    def get_nodes(self) -> list[NodeInfo]:
        away = len(self.trained) <= self.rounds and self.late
        return [node for node in super().get_nodes() if node.name != away]

    def _deliver(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            self.trained.add(protocol.decode(message.content, protocol.TrainRequest).round)
        elif self.trained and max(self.trained) == self.rounds:
            self.trained.add(self.rounds + 1)  # it comes while the round is being scored
        return super()._deliver(message)


@pytest.fixture(scope="module")
def start(
    tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]
) -> Callable[..., tuple[Federation, dict[str, Site], Arrays]]:
    def build(
        method: str, ranks: dict[str, int] | None = None, **tables: Any
    ) -> tuple[Federation, dict[str, Site], Arrays]:
        tables["rounds"] = {"method": method, "count": 3} | tables.get("rounds", {})
        rate = 3e-2 if method == "fed-sb" else 1e-2
        tables["training"] = {"learning_rate": rate, "epochs_per_round": 2} | tables.get("training", {})
        tables = {"seed": LOW} | tables
        federation, sites = tiny_federation(HELD, **tables), {}
        models = {
            rank: build_model(federation, rank=rank) for rank in {federation.adapter.rank, *(ranks or {}).values()}
        }
        for name, tasks in HELD.items():
            rank = (ranks or {}).get(name, federation.adapter.rank)
            institution = Institution(name=name, data=split_data(name, tasks), adapter=AdapterSize(rank=rank))
            sites[name] = build_site(institution, federation, models[rank])
        return federation, sites, get_state(models[federation.adapter.rank])

    return build


def scored_on_test(store: Store, run_id: str, round: int) -> dict[tuple[str, str, str], float]:
    return {
        (row["institution"], row["task"], row["metric"]): row["value"]
        for row in store.rows(scores, run_id)
        if row["round"] == round and row["split"] in ("test", "personal")
    }


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing has interrupted."""

    name: MethodName
    store: Store
    run_id: str
    sites: dict[str, Site]

    @property
    def best(self) -> int:
        """The round that is released."""
        best = self.store.best_round(self.run_id)
        assert best
        return best


@pytest.fixture(scope="module", params=ALL)
def whole(
    request: pytest.FixtureRequest, start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    """One run by each method, for all tests that look at it."""
    folder = tmp_path_factory.mktemp("store")
    federation, sites, initial = start(request.param)
    with Store.open(f"sqlite:///{folder / 'store.db'}", checkpoints=folder / "checkpoints") as opened:
        yield Whole(request.param, opened, run_on(Grid(sites), federation, initial, opened), sites)


def test_a_federation_learns_by_every_method(whole: Whole) -> None:
    before, after = (scored_on_test(whole.store, whole.run_id, round) for round in (0, whole.best))
    primary = [key for key in after if key[2] in ("macro_f1", "f1")]
    assert sum(after[key] for key in primary) > sum(before[key] for key in primary) + 0.1 * len(primary)
    assert all(row["status"] == "ok" for row in whole.store.rows(replies, whole.run_id))
    said = [row["text"] for row in whole.store.rows(events, whole.run_id)]
    assert any(f"Method: {whole.name} (as rounds.method says)" in text for text in said)


def test_what_is_released_scores_what_was_reported(whole: Whole, tmp_path: Path) -> None:
    if METHODS[whole.name].keeps:
        pytest.skip("there is no global model")
    predictor = open_bundle(release(whole.store, whole.run_id, tmp_path / "bundle"))
    reported = scored_on_test(whole.store, whole.run_id, whole.best)
    for institution, site in whole.sites.items():
        for task in site.data:
            found = score(predictor.model, task, site.data[task], "test", "float32")
            for metric, value in found.items():
                assert value == pytest.approx(reported[institution, task, metric], abs=1e-6), (institution, task)


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    whole: Whole, store: Store, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, sites, initial = start(whole.name)
    save, stopped = Store.save_checkpoint, store.create_run(federation)

    def die(self: Store, run_id: str, round: int, state: State) -> None:
        if round == 2:
            raise KeyboardInterrupt
        save(self, run_id, round, state)

    monkeypatch.setattr(Store, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        run_on(Grid(sites), federation, initial, store, run_id=stopped)
    monkeypatch.undo()
    if not METHODS[whole.name].keeps:  # what is kept at home is in these sites' memory
        federation, sites, initial = start(whole.name)
    run_on(Grid(sites), federation, initial, store, run_id=stopped)
    one = pack_state(whole.store.load_checkpoint(whole.run_id, 3))
    other = pack_state(store.load_checkpoint(stopped, 3))
    assert one.keys() == other.keys()
    for array in one:
        np.testing.assert_allclose(one[array], other[array], atol=2e-5, err_msg=array)
    assert scored_on_test(whole.store, whole.run_id, 3) == pytest.approx(scored_on_test(store, stopped, 3), abs=1e-6)


@pytest.mark.parametrize("name", ["fedex", "flora"])
def test_a_late_institution_catches_up_with_moved_weights(
    store: Store, start: Callable[..., Any], name: MethodName
) -> None:
    rounds = {"count": 4, "grace_seconds": 0.5}
    federation, sites, initial = start(name, rounds=rounds)
    other, _, _ = start(name, rounds=rounds)
    late = dataclasses.replace(sites["bank"], model=build_model(other))  # a model of its own, as in a deployment
    run_id = run_on(Grid({**sites, "bank": late}, "bank", rounds=2), federation, initial, store)
    rows = [row for row in store.rows(replies, run_id) if row["institution"] == "bank" and row["kind"] == "train"]
    assert [(row["round"], row["status"]) for row in rows] == [
        (1, "missing"),
        (2, "missing"),
        (3, "ok"),
        (4, "ok"),
    ]
    assert late.model.base.version == sites["hospital"].model.base.version == f"{run_id}:{store.best_round(run_id)}"
    fresh = build_model(other).state_dict()
    for key, weight in sites["hospital"].model.state_dict().items():
        if ".base_layer.weight" in key:
            torch.testing.assert_close(late.model.state_dict()[key], weight, atol=1e-5, rtol=0)
            assert not torch.equal(fresh[key], weight)


@pytest.mark.parametrize("name", ["fedavg", "flexlora", "flora"])
def test_institutions_of_different_ranks(store: Store, start: Callable[..., Any], name: MethodName) -> None:
    ranks = {"hospital": 4, "law_firm": 2, "bank": 1}
    federation, sites, initial = start(name, ranks, adapter={"min_rank": 1})
    run_id = run_on(Grid(sites), federation, initial, store)
    rows = [row for row in store.rows(replies, run_id) if row["kind"] == "train"]
    assert {row["status"] for row in rows} == {"ok"}
    up = {row["institution"]: row["bytes_up"] for row in rows}
    assert up["bank"] < up["hospital"]
    best = store.best_round(run_id)
    assert best
    before, after = scored_on_test(store, run_id, 0), scored_on_test(store, run_id, best)
    assert sum(after.values()) > sum(before.values())


def test_a_rank_that_the_federation_does_not_allow_is_refused(store: Store, start: Callable[..., Any]) -> None:
    federation, sites, initial = start("flexlora", {"bank": 1}, adapter={"min_rank": 2}, rounds={"quorum": 3})
    with pytest.raises(QuorumError):
        run_on(Grid(sites), federation, initial, store)
    said = [row["text"] for row in store.rows(events)]
    assert any("Expected an adapter of a rank from 2 to 4, but bank's is 1" in text for text in said), said


def test_a_method_without_a_choice_of_ranks_refuses_them(tiny_federation: Callable[..., Federation]) -> None:
    with pytest.raises(ValueError, match=r"with adapter\.min_rank, rounds\.method must be one of"):
        tiny_federation(adapter={"min_rank": 2}, rounds={"method": "fedex"})
    with pytest.raises(ValueError, match="min_rank must be at most rank, 4, not 5"):
        tiny_federation(adapter={"min_rank": 5})
    assert tiny_federation(adapter={"min_rank": 2}, rounds={"method": "auto"}).method_name == "flexlora"
