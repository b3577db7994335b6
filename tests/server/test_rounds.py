"""The round loop with real sites in process: faults drop one institution, and nothing that was stored is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from client.institution import Data, Institution
from client.site import Site, build_site
from server import rounds
from server.store import Store, replies, scores
from shared import codec, protocol
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import QuorumError, StoreError
from shared.federation import Federation
from shared.model import build_model
from simulations.engine import LocalGrid

Tamper = Callable[[protocol.TrainReply, Arrays], dict[str, Any]]


class FaultyGrid(LocalGrid):
    """The simulator's Grid with one institution whose training replies are tampered with, or that is away."""

    def __init__(self, sites: dict[str, Site], tamper: Tamper | None = None, away: set[int] | None = None) -> None:
        super().__init__(sites)
        self.tamper = tamper
        self.away = away or set()
        self.round = 0
        self.asked: list[tuple[int, str]] = []

    def get_nodes(self) -> list[NodeInfo]:
        nodes = list(super().get_nodes())
        stranger = NodeInfo(node_id=999, name="stranger", status="online")
        return [node for node in nodes if not (node.name == "law_firm" and self.round in self.away)] + [stranger]

    def _deliver(self, message: Message) -> Message:
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        self.asked.append((node, kind))
        reply = super()._deliver(message)
        if kind == "train" and self._names[node] == "law_firm" and self.tamper and not reply.has_error():
            good = protocol.decode(reply.content, protocol.TrainReply)
            changed = self.tamper(good, codec.decode(good.update, "float32"))
            if isinstance(changed.get("update"), dict):
                changed["update"] = codec.encode(changed["update"], "float32")
            return Message(protocol.encode(protocol.TrainReply(**(vars(good) | changed))), reply_to=message)
        return reply


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture
def make(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., tuple[Federation, dict[str, Site], Arrays]]:
    def build(**tables: Any) -> tuple[Federation, dict[str, Site], Arrays]:
        federation = tiny_federation(**tables)
        model = build_model(federation)
        held = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",)}
        sites = {}
        for name, tasks in held.items():
            data = {
                task: Data(
                    train=write_records(tmp_path / name / f"{task}.train.jsonl", task, slice(0, None, 2)),
                    validation=write_records(tmp_path / name / f"{task}.val.jsonl", task, slice(1, None, 4)),
                    test=write_records(tmp_path / name / f"{task}.test.jsonl", task, slice(1, None, 2)),
                )
                for task in tasks
            }
            sites[name] = build_site(Institution(name=name, data=data), federation, model)
        return federation, sites, get_state(model)

    return build


def run(store: Store, grid: LocalGrid, federation: Federation, initial: Arrays, run_id: str | None = None) -> str:
    run_id = run_id or store.create_run(federation)
    rounds.run(
        grid,
        federation=federation,
        store=store,
        run_id=run_id,
        initial_state=initial,
        announce=lambda _: None,
        poll_seconds=0.0,
    )
    return run_id


def train_status(store: Store, run_id: str) -> dict[str, set[tuple[str, str | None]]]:
    found: dict[str, set[tuple[str, str | None]]] = {}
    for row in store.rows(replies, run_id):
        if row["kind"] == "train":
            found.setdefault(row["institution"], set()).add((row["status"], row["reason"]))
    return found


def test_a_run_trains_scores_and_keeps_every_round(store: Store, make: Callable[..., Any]) -> None:
    federation, sites, initial = make()
    grid = FaultyGrid(sites)
    run_id = run(store, grid, federation, initial)
    assert store.run(run_id)["status"] == "completed"
    assert store.last_round(run_id) == 2
    last = store.load_checkpoint(run_id, 2)
    assert any(not np.array_equal(last[name], initial[name]) for name in initial)
    assert last["head/notes_qa/linear.weight"].tobytes() == initial["head/notes_qa/linear.weight"].tobytes()
    splits = {(row["round"], row["split"]) for row in store.rows(scores, run_id)}
    best = store.best_round(run_id)
    assert splits == {(0, "test"), (1, "validation"), (2, "validation"), (best, "test")}
    assert all(node != 999 for node, _ in grid.asked)


BAD: dict[str, tuple[Tamper, str]] = {
    "NaN": (lambda _, a: {"update": {n: x * np.nan for n, x in a.items()}}, "finite"),
    "wrong shape": (lambda _, a: {"update": {n: x.reshape(-1) for n, x in a.items()}}, "shape"),
    "missing key": (lambda _, a: {"update": dict(list(a.items())[1:])}, "missing"),
    "unknown key": (lambda _, a: {"update": a | {"head/entities/linear.bias": np.zeros(5, np.float32)}}, "not among"),
    "absurd count": (lambda _, a: {"examples": {"clauses": 10**12}}, "between 1 and"),
    "negative count": (lambda _, a: {"examples": {"clauses": -1}}, "between 1 and"),
    "huge norm": (lambda _, a: {"update": {n: x + 1e6 for n, x in a.items()}}, "norm"),
    "other name": (lambda _, a: {"institution": "hospital"}, "says it is from"),
    "other round": (lambda _, a: {"round": 7}, "answered round"),
    "no arrays": (lambda _, a: {"update": b"nonsense"}, "safetensors"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_drops_one_institution_and_says_why(store: Store, make: Callable[..., Any], fault: str) -> None:
    federation, sites, initial = make(rounds={"count": 1})
    tamper, said = BAD[fault]
    run_id = run(store, FaultyGrid(sites, tamper), federation, initial)
    status = train_status(store, run_id)
    assert status["hospital"] == {("ok", None)}
    ((kind, reason),) = status["law_firm"]
    assert kind == "dropped"
    assert said in str(reason)
    assert all(np.isfinite(array).all() for array in store.load_checkpoint(run_id, 1).values())


def test_an_absent_institution_is_named_and_takes_part_again(store: Store, make: Callable[..., Any]) -> None:
    federation, sites, initial = make(rounds={"count": 3})
    grid = FaultyGrid(sites, away={2})
    original = store.save_checkpoint

    def count(run_id: str, number: int, state: Any) -> None:
        original(run_id, number, state)
        grid.round = number + 1

    store.save_checkpoint = count  # type: ignore[method-assign,assignment]
    run_id = run(store, grid, federation, initial)
    by_round = {
        r["round"]: r["status"]
        for r in store.rows(replies, run_id)
        if r["kind"] == "train" and r["institution"] == "law_firm"
    }
    assert by_round == {1: "ok", 2: "missing", 3: "ok"}


def test_below_the_quorum_the_run_stops_and_its_state_is_kept(store: Store, make: Callable[..., Any]) -> None:
    federation, sites, initial = make(rounds={"quorum": 2})
    with pytest.raises(QuorumError, match=r"at least 2 valid updates in round 1, but 1 came \(without law_firm\)"):
        run(store, FaultyGrid(sites, BAD["NaN"][0]), federation, initial)
    run_id = str(store.run()["run"])
    assert store.last_round(run_id) == 0
    finished = run(store, FaultyGrid(sites), federation, initial, run_id)
    assert store.run(finished)["status"] == "completed"


def test_a_resumed_run_equals_an_uninterrupted_one(store: Store, make: Callable[..., Any]) -> None:
    federation, sites, initial = make(rounds={"count": 3})
    whole = run(store, FaultyGrid(sites), federation, initial)
    original = store.save_checkpoint

    def die(run_id: str, number: int, state: Any) -> None:
        if number == 2:
            raise StoreError("disk full")
        original(run_id, number, state)

    store.save_checkpoint = die  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError):
        run(store, FaultyGrid(sites), federation, initial)
    store.save_checkpoint = original  # type: ignore[method-assign]
    broken = str(store.run()["run"])
    assert store.last_round(broken) == 1
    run(store, FaultyGrid(sites), federation, initial, broken)
    one, other = store.load_checkpoint(whole, 3), store.load_checkpoint(broken, 3)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_early_stopping_keeps_the_best_round(store: Store, make: Callable[..., Any]) -> None:
    federation, sites, initial = make(rounds={"count": 9, "patience": 2}, training={"epochs_per_round": 0})
    run_id = run(store, FaultyGrid(sites), federation, initial)
    assert store.last_round(run_id) == 3  # nothing improves on round 1
    assert store.best_round(run_id) == 1


def test_another_agreement_is_a_refusal_with_a_name(store: Store, make: Callable[..., Any]) -> None:
    _, sites, initial = make()
    other, _, _ = make(seed=99)
    with pytest.raises(QuorumError):
        run(store, FaultyGrid(sites), other, initial)
    refused = [r for r in store.rows(replies) if r["status"] == "refused"]
    assert {r["institution"] for r in refused} == {"hospital", "law_firm"}
    assert "approved the federation file" in refused[0]["reason"]
