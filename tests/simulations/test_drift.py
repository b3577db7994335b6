"""SCAFFOLD on quadratics and in whole runs; server optimizers in whole runs: what both sides do together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.institution import Data, Institution, Runtime
from client.opening import build_site
from client.round.keep import LocalState
from client.site import Site
from client.train.drift import correct, renew
from server.aggregation import ClientUpdate, Context, fedavg, scaffold
from server.release.making import release
from server.store import Store, replies
from shared import codec, protocol
from shared.adapter import ADAPTER, HEAD, get_state
from shared.codec import Arrays
from shared.errors import StoreError
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.protocol import EvaluateRequest, TrainRequest
from shared.state import Variates, pack_state, unpack_broadcast, unpack_update
from simulations.engine import LocalGrid, run_federation, run_on

W = "adapter/x.lora_A.weight"
CURVATURE = {"hospital": np.array([[1.0, 4.0]]), "law_firm": np.array([[5.0, 1.0]])}
OPTIMUM = {"hospital": np.array([[1.0, -2.0]]), "law_firm": np.array([[3.0, 2.0]])}
STEPS, RATE = 20, 0.04


def local(name: str, start: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """Many steps of SGD on sum(curvature / 2 (w - optimum)^2), corrected as the trainer does it; new minus start."""
    w = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.SGD([w], lr=RATE)
    curvature, optimum = (torch.from_numpy(of[name].astype(np.float32)) for of in (CURVATURE, OPTIMUM))
    for _ in range(STEPS):
        optimizer.zero_grad()
        (curvature / 2 * (w - optimum) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        correct([(w, torch.from_numpy(correction))])
        optimizer.step()
    return np.asarray(w.detach().numpy() - start)


def settle(*, corrected: bool, away: Callable[[str, int], bool] = lambda name, round: False) -> np.ndarray:
    """Where averaging ends; checks in every round that c is the mean of all c_i ever told."""
    state: Arrays = {W: np.zeros((1, 2), np.float32)}
    own = {name: np.zeros((1, 2), np.float32) for name in OPTIMUM}
    kept = Variates()
    told: set[str] = set()
    for round in range(1, 121):
        updates = []
        c = scaffold.mean(kept, {W: (1, 2)})
        for name in OPTIMUM:
            if away(name, round):
                continue
            update = {W: local(name, state[W], c[W] - own[name] if corrected else np.zeros((1, 2), np.float32))}
            change = renew(c, update, (STEPS * RATE, STEPS * RATE)) if corrected else {}
            updates.append(ClientUpdate(name, {"clauses": 5}, update, control=change))
        state, *_ = fedavg.apply(state, updates, Context(weighting="equal"))
        for update_ in updates if corrected else ():
            kept = scaffold.add(kept, update_, {W} if update_.institution in told else ())
            told.add(update_.institution)
            own[update_.institution] = own[update_.institution] + update_.control[W]
            mean = np.mean([own[name] for name in sorted(told)], axis=0)
            np.testing.assert_allclose(scaffold.mean(kept, {W: (1, 2)})[W], mean, atol=1e-5)
    return state[W]


def optimum() -> np.ndarray:
    """Of the mean of both objectives."""
    return np.asarray(sum(CURVATURE[name] * OPTIMUM[name] for name in OPTIMUM) / sum(CURVATURE.values()))


def test_many_local_steps_mislead_plain_averaging_and_not_scaffold() -> None:
    assert np.abs(settle(corrected=False) - optimum()).max() > 0.3
    assert np.abs(settle(corrected=True) - optimum()).max() < 1e-3


def test_scaffold_gets_there_with_a_late_institution_that_is_often_away() -> None:
    ended = settle(corrected=True, away=lambda name, round: name == "law_firm" and (round < 5 or 20 < round < 25))
    assert np.abs(ended - optimum()).max() < 1e-3


def test_rows_count_for_those_who_annotate_them() -> None:
    name, kept = "head/clauses/linear.bias", Variates()
    rows = {"hospital": np.array([True, False]), "law_firm": np.array([True, True])}
    for institution, value in (("hospital", 1.0), ("law_firm", 3.0)):
        change = {name: np.full(2, value, np.float32)}
        update = ClientUpdate(institution, {"clauses": 1}, {}, {name: rows[institution]}, control=change)
        kept = scaffold.add(kept, update, ())
    assert scaffold.mean(kept, {name: (2,)})[name].tolist() == [2.0, 3.0]


SCAFFOLD: dict[str, dict[str, Any]] = {
    "training": {
        "optimizer": "sgd",
        "momentum": 0.0,
        "learning_rate": 0.3,
        "scaffold": True,
        "epochs_per_round": 2,
        "batch_tokens": 128,
    },
    "rounds": {"count": 4, "weighting": "equal", "method": "rolora"},
}
ADAM = {"server_optimizer": {"type": "fedadam"}, "rounds": {"count": 4, "method": "rolora"}}
HEADS = {"server_optimizer": {"type": "fedyogi"}, "rounds": {"count": 4, "method": "heads"}}
Make = Callable[..., tuple[Federation, dict[str, Site], Arrays]]


class Watched(LocalGrid):
    """Keeps what goes down and up, and lets one institution's updates be lost in a round."""

    def __init__(self, sites: dict[str, Site], lost: tuple[str, int] | None = None) -> None:
        super().__init__(sites)
        self.lost = lost
        self.down: list[tuple[str, TrainRequest | EvaluateRequest]] = []
        self.up: list[tuple[str, protocol.TrainReply]] = []

    def _deliver(self, message: Any) -> Any:
        name = self._names[message.metadata.dst_node_id]
        request = protocol.decode(message.content, *(TrainRequest, EvaluateRequest, protocol.QueryRequest))
        if isinstance(request, TrainRequest | EvaluateRequest):
            self.down.append((name, request))
        answer = super()._deliver(message)
        if isinstance(request, TrainRequest) and not answer.has_error():
            reply = protocol.decode(answer.content, protocol.TrainReply)
            if (name, request.round) == self.lost:
                changed = protocol.TrainReply(**(vars(reply) | {"round": 99}))
                return type(message)(protocol.encode(changed), reply_to=message)
            self.up.append((name, reply))
        return answer


@pytest.fixture
def make(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]) -> Make:
    def build(
        held: dict[str, tuple[str, ...]] | None = None, **tables: Any
    ) -> tuple[Federation, dict[str, Site], Arrays]:
        held = held or {"hospital": ("clauses", "entities"), "law_firm": ("clauses",)}
        federation = tiny_federation(tuple(held), **tables)
        model, sites = build_model(federation), {}
        for name, tasks in held.items():
            data = {
                task: Data(train=write_records(tmp_path / name / f"{task}.jsonl", task, slice(0, None, 2)))
                for task in tasks
            }
            institution = Institution(name=name, data=data, runtime=Runtime(state=tmp_path / name / "state"))
            sites[name] = build_site(institution, federation, model)
        return federation, sites, get_state(model)

    return build


@pytest.mark.parametrize("tables", [SCAFFOLD, ADAM, HEADS], ids=["scaffold", "fedadam", "heads"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(
    store: Store, make: Make, tables: dict[str, Any], cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, sites, initial = make(**tables)
    whole = run_on(LocalGrid(sites), federation, initial, store)
    original = store.save_checkpoint

    def die(run_id: str, number: int, state: Any) -> None:
        if number == cut:
            raise StoreError("disk full")
        original(run_id, number, state)

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_checkpoint", die)
        with pytest.raises(StoreError):
            run_on(LocalGrid(sites), federation, initial, store)
    broken = str(store.run()["run"])
    assert store.last_round(broken) == cut - 1
    run_on(LocalGrid(sites), federation, initial, store, run_id=broken)
    one, other = (pack_state(store.load_checkpoint(run_id, 4)) for run_id in (whole, broken))
    assert one.keys() == other.keys()
    assert any(not name.startswith((ADAPTER, HEAD)) for name in one)
    assert all(array.tobytes() == other[name].tobytes() for name, array in one.items())


def test_moments_stay_at_the_coordinator(store: Store, make: Make, tmp_path: Path) -> None:
    federation, sites, initial = make(**ADAM)
    grid = Watched(sites)
    run_id = run_on(grid, federation, initial, store)
    last = store.load_checkpoint(run_id, 4)
    state = last.model
    factors = [name for name in initial if ".lora_A." in name]
    assert last.moments.first.keys() == last.moments.second.keys() == initial.keys()
    one = store.load_checkpoint(run_id, 1)
    assert all(one.model[name].tobytes() == initial[name].tobytes() for name in factors), "rolora trains B in round 1"
    assert not any(one.moments.first[name].any() for name in factors)
    assert any(last.moments.first[name].any() for name in factors)
    lone = "head/notes_qa/linear.weight"
    assert state[lone].tobytes() == initial[lone].tobytes()
    assert len(grid.down) > 8
    for _, request in grid.down:
        assert all(name.startswith((ADAPTER, HEAD)) for name in codec.decode(request.state, "float32"))
    bundle = release(store, run_id, tmp_path / "bundle")
    written = {name for file in bundle.rglob("*.safetensors") for name in load_file(file)}
    assert written
    assert not any("optimizer" in name for name in written)


def test_the_server_optimizer_moves_along_the_mean(store: Store, make: Make) -> None:
    """FedAvgM without momentum at half the rate goes half of the way of the mean update."""
    tables = {"rounds": {"count": 1, "method": "fedavg"}}
    federation, sites, initial = make(**tables)
    plain = store.load_checkpoint(run_on(LocalGrid(sites), federation, initial, store), 1).model
    half = {"server_optimizer": {"type": "fedavgm", "beta_1": 0.0, "learning_rate": 0.5}}
    federation, sites, initial = make(**tables, **half)
    moved = store.load_checkpoint(run_on(LocalGrid(sites), federation, initial, store), 1).model
    for name, array in initial.items():
        np.testing.assert_allclose(moved[name] - array, (plain[name] - array) / 2, atol=1e-6)


def variates(site: Site, run_id: str, round: int) -> Arrays:
    return site.memory.keep.upto(run_id, round).variates


def check_means(store: Store, sites: dict[str, Site], run_id: str, last: dict[str, int]) -> None:
    """The checkpoint's c is the mean of what the sites keep; `last` is each one's last round that was taken."""
    state = store.load_checkpoint(run_id, max(last.values()))
    own = {name: variates(sites[name], run_id, round) for name, round in last.items()}
    names = set().union(*own.values())
    assert any(".lora_A." in name for name in names)
    assert any(".lora_B." in name for name in names)
    found = scaffold.mean(
        state.variates, {name: next(of[name] for of in own.values() if name in of).shape for name in names}
    )
    for name in names:
        mean = np.mean([of[name] for of in own.values() if name in of], axis=0)
        np.testing.assert_allclose(found[name], mean, atol=1e-6, err_msg=name)
        assert mean.any()


def test_c_is_the_mean_of_what_the_sites_keep_though_an_update_was_lost(store: Store, make: Make) -> None:
    """In round 3 the coordinator drops a reply: the site's variates of that round do not count on either side."""
    federation, sites, initial = make(**SCAFFOLD)
    grid = Watched(sites, lost=("law_firm", 3))
    run_id = run_on(grid, federation, initial, store)
    status = {(r["round"], r["institution"]): r["status"] for r in store.rows(replies, run_id) if r["kind"] == "train"}
    assert status[3, "law_firm"] == "dropped"
    assert status[4, "law_firm"] == "ok"
    asked = {(name, request.round): request.taken for name, request in grid.down if isinstance(request, TrainRequest)}
    assert [asked["hospital", round] for round in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert [asked["law_firm", round] for round in (1, 2, 3, 4)] == [0, 1, 2, 2]
    check_means(store, sites, run_id, {"hospital": 4, "law_firm": 4})


def test_variates_travel_beside_what_they_correct_and_nothing_else(store: Store, make: Make, tmp_path: Path) -> None:
    federation, sites, initial = make(**SCAFFOLD)
    grid = Watched(sites)
    run_id = run_on(grid, federation, initial, store)
    for _, request in grid.down:
        control = unpack_broadcast(codec.decode(request.state, "float32")).control
        assert bool(control) == isinstance(request, TrainRequest)
    for name, reply in grid.up:
        update = unpack_update(codec.decode(reply.update, "float32"))
        arrays, control = update.model, update.control
        assert arrays.keys() == control.keys()
        assert name == "hospital" or not any(array.startswith("head/entities/") for array in arrays)
    bundle = release(store, run_id, tmp_path / "bundle")
    written = {name for file in bundle.rglob("*.safetensors") for name in load_file(file)}
    assert not any("control/" in name or "scaffold" in name for name in written)


def test_parts_at_home_are_not_corrected(store: Store, make: Make) -> None:
    federation, sites, initial = make(**SCAFFOLD, personal={"keep": ["heads"]})
    grid = Watched(sites)
    run_id = run_on(grid, federation, initial, store)
    assert {row["status"] for row in store.rows(replies, run_id)} == {"ok"}
    for _, reply in grid.up:
        update = unpack_update(codec.decode(reply.update, "float32"))
        arrays, control = update.model, update.control
        assert arrays.keys() == control.keys()
        assert all(array.startswith("adapter/") for array in control)


def test_one_institution_with_scaffold_is_plain_sgd(store: Store, make: Make) -> None:
    alone = {"hospital": ("clauses", "entities")}
    federation, sites, initial = make(alone, **SCAFFOLD)
    corrected = store.load_checkpoint(run_on(LocalGrid(sites), federation, initial, store), 4).model
    tables = SCAFFOLD | {"training": SCAFFOLD["training"] | {"scaffold": False}}
    federation, sites, initial = make(alone, **tables)
    plain = store.load_checkpoint(run_on(LocalGrid(sites), federation, initial, store), 4).model
    assert any(plain[name].tobytes() != initial[name].tobytes() for name in initial)
    assert all(corrected[name].tobytes() == plain[name].tobytes() for name in initial)


def test_a_site_that_has_lost_its_variates_says_so(store: Store, make: Make, tmp_path: Path) -> None:
    federation, sites, initial = make(**SCAFFOLD)
    original = store.save_checkpoint

    def forget(run_id: str, number: int, state: Any) -> None:
        original(run_id, number, state)
        if number == 2:
            sites["law_firm"].memory.keep.after(run_id, 1, LocalState())

    store.save_checkpoint = forget  # type: ignore[method-assign,assignment]
    run_id = run_on(LocalGrid(sites), federation, initial, store)
    reasons = [r["reason"] for r in store.rows(replies, run_id) if r["kind"] == "train" and r["round"] == 3]
    assert any("control variates of round 2" in str(reason) for reason in reasons)


def test_normalised_updates_move_less_unequally(store: Store, make: Make) -> None:
    """A whole run with unequal steps ends elsewhere than plain averaging, by the steps that institutions say."""
    tables: dict[str, Any] = {
        "rounds": {"count": 1, "method": "fedavg", "max_share": 1.0},
        "training": {"batch_tokens": 64},
    }
    ends = []
    for normalize in (False, True):
        federation, sites, initial = make(**(tables | {"rounds": tables["rounds"] | {"normalize_steps": normalize}}))
        grid = Watched(sites)
        run_id = run_on(grid, federation, initial, store)
        ends.append(store.load_checkpoint(run_id, 1).model)
    steps = {name: reply.steps for name, reply in grid.up}
    assert steps["hospital"] != steps["law_firm"]
    updates = {name: codec.decode(reply.update, "float32") for name, reply in grid.up}
    weights = {"hospital": 0.5 + 0.25, "law_firm": 0.25}
    effective = sum(weights[name] * steps[name] for name in steps)
    for name in (name for name in initial if ".lora_" in name):
        mean = sum(weights[of] * updates[of][name] / steps[of] for of in steps)
        np.testing.assert_allclose(ends[1][name] - initial[name], effective * mean, atol=1e-6)
        assert not np.allclose(ends[1][name], ends[0][name], atol=1e-7)


def test_the_engine_runs_what_the_file_says(store: Store, make: Make) -> None:
    federation, sites, initial = make(**ADAM)
    assert store.run(run_federation(sites, federation, initial, store, lambda _: None))["status"] == "completed"
