"""The round loop, with real sites and scripted ones: a fault drops one institution, and nothing stored is lost."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.rounds import loop as rounds
from server.rounds.comparing import compared
from server.runs.status import last_cuts
from server.store import Store, cuts, events, replies, scores
from server.store import rounds as round_table
from shared import codec, protocol
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import QuorumError, StoreError
from shared.federation import Federation
from shared.flower.messages import NodeInfo
from shared.model.multitask import build_model
from shared.state import pack_state
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


def run(store: Store, grid: Grid, federation: Federation, initial: Arrays, run_id: str | None = None) -> str:
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
    last = store.load_checkpoint(run_id, 2).model
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
    "absurd count": (lambda _, a: {"examples": {"clauses": 10**12}}, "in examples"),
    "negative count": (lambda _, a: {"examples": {"clauses": -1}}, "in examples"),
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
    assert all(np.isfinite(array).all() for array in store.load_checkpoint(run_id, 1).model.values())


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
    assert rows(store, run_id, "evaluate validation", "law_firm") == [(3, "ok")]  # away is missed once a round
    found = compared(store, run_id)
    stored = {row["round"]: row["score"] for row in store.rows(round_table, run_id)}
    assert stored == {number: one.score for number, one in found.items()}
    missed = {("law_firm", "clauses"): 3}
    assert {number: dict(one.carried) for number, one in found.items()} == {1: missed, 2: missed, 3: {}}
    best = store.best_round(run_id)
    assert best == max(stored, key=lambda number: (stored[number], -number))
    said = [row["text"] for row in store.rows(events, run_id)]
    marked = f"Best round: {best} (with law_firm's clauses as in round 3, since they were away)"
    assert (f"Best round: {best}" if best == 3 else marked) in said


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
    one, other = (pack_state(store.load_checkpoint(of, 3)) for of in (whole, broken))
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


def test_an_institution_with_the_release_before_is_asked_as_that_one_asks(
    store: Store, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SPOKEN", (1, 2))
    asked: list[int | None] = []

    class Behind(FaultyGrid):
        def _deliver(self, message: Message) -> Message:
            if self._names[message.metadata.dst_node_id] != "law_firm":
                return super()._deliver(message)
            asked.append(protocol.version_of(message.content))
            if asked[-1] == 1:
                return super()._deliver(message)
            refusal = protocol.Refusal(institution="law_firm", kind="request", reason="Expected protocol version 1.")
            return Message(protocol.encode(refusal, 1), reply_to=message)

    federation, sites, initial = make()
    run_id = run(store, Behind(sites), federation, initial)
    assert asked[0] == 2
    assert set(asked[1:]) == {1}, "it has learnt that once"
    assert len(asked) > 4
    assert {row["status"] for row in store.rows(replies, run_id)} == {"ok"}
    said = [event["text"] for event in store.rows(events, run_id)]
    assert said.count("law_firm has the release before this one, and is asked as that one asks") == 1


# From here on institutions are scripted: a state of three arrays, and every update moves each value by `move`.

STATE: Arrays = {
    "adapter/a": np.zeros((2, 3), np.float32),
    "head/clauses/w": np.zeros(4, np.float32),
    "head/entities/w": np.zeros(5, np.float32),
    "head/notes_qa/w": np.zeros(6, np.float32),
}
HELD = {
    "hospital": {"clauses": {"train": 30, "validation": 3, "test": 3}, "entities": {"train": 10, "test": 2}},
    "law_firm": {"clauses": {"train": 10, "validation": 1, "test": 1}},
}


@pytest.fixture
def script(
    scripted_grid: Any, scripted_institution: Any, tiny_federation: Callable[..., Federation]
) -> Callable[..., tuple[Federation, Any]]:
    """A federation of scripted institutions, and the Grid that reaches them."""

    def build(**tables: Any) -> tuple[Federation, Any]:
        moves = {"hospital": 1.0, "law_firm": 3.0}
        return tiny_federation(**tables), scripted_grid(
            {name: scripted_institution(name, held, move=moves[name]) for name, held in HELD.items()}
        )

    return build


def changing(kind: type[Any], change: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda request, answer: change(answer) if isinstance(request, kind) else answer


def rows(store: Store, run_id: str, kind: str, institution: str) -> list[tuple[int, str]]:
    return [
        (row["round"], row["status"])
        for row in store.rows(replies, run_id)
        if row["kind"] == kind and row["institution"] == institution
    ]


def test_the_state_is_the_weighted_mean_of_the_updates(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 1, "max_share": 1.0})
    run_id = run(store, grid, federation, STATE)
    new = store.load_checkpoint(run_id, 1).model
    hospital, law_firm = (30 / 40 + 1) / 2, (10 / 40) / 2
    np.testing.assert_allclose(new["adapter/a"], hospital * 1.0 + law_firm * 3.0, atol=1e-6)
    np.testing.assert_allclose(new["head/clauses/w"], (30 * 1.0 + 10 * 3.0) / 40, atol=1e-6)
    np.testing.assert_allclose(new["head/entities/w"], 1.0, atol=1e-6)
    assert new["head/notes_qa/w"].tobytes() == STATE["head/notes_qa/w"].tobytes()
    (row,) = store.rows(round_table, run_id)
    assert row["participants"] == 2
    assert row["norm"] == pytest.approx(np.sqrt(sum(float((new[n] ** 2).sum()) for n in new)), rel=1e-6)
    told = [row for row in store.rows(replies, run_id) if row["kind"] == "train" and row["institution"] == "hospital"]
    assert told[0]["examples"] == {"clauses": 30, "entities": 10}
    assert told[0]["losses"] == {"clauses": 0.5, "entities": 0.5}
    assert told[0]["bytes_up"] == told[0]["bytes_down"] > 0


def test_the_federated_score_is_the_mean_over_tasks_of_weighted_means(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 1, "max_share": 1.0})
    grid.scripts["hospital"].score = lambda _: 0.8
    grid.scripts["law_firm"].score = lambda _: 0.4
    run_id = run(store, grid, federation, STATE)
    assert store.rows(round_table, run_id)[0]["score"] == pytest.approx((3 * 0.8 + 1 * 0.4) / 4)


def test_counts_above_their_share_are_cut_said_once_and_recorded(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 2})  # max_share is one half: two holders weigh the same
    grid.scripts["hospital"].score = lambda _: 0.8
    grid.scripts["law_firm"].score = lambda _: 0.4
    run_id = run(store, grid, federation, STATE)
    assert store.rows(round_table, run_id)[0]["score"] == pytest.approx((0.8 + 0.4) / 2)
    np.testing.assert_allclose(store.load_checkpoint(run_id, 1).model["head/clauses/w"], (1.0 + 3.0) / 2, atol=1e-6)
    told = [event["text"] for event in store.rows(events, run_id) if "rounds.max_share" in event["text"]]
    assert told == [
        "hospital's 30 train records of clauses count as 10: rounds.max_share = 0.5 limits the weight of one "
        "institution",
        "hospital's 3 validation records of clauses count as 1: rounds.max_share = 0.5 limits the weight of one "
        "institution",
    ]
    assert [{k: row[k] for k in ("round", "split", "told", "used")} for row in store.rows(cuts, run_id)] == [
        {"round": number, "split": split, "told": told, "used": used}
        for number in (1, 2)
        for split, told, used in (("train", 30, 10.0), ("validation", 3, 1.0))
    ]
    (train, validation) = last_cuts(store.rows(cuts, run_id))
    assert (train["institution"], train["told"], validation["split"]) == ("hospital", 30, "validation")


def test_institutions_get_their_own_heads_only_and_strangers_nothing(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 1, "institutions": ["hospital"]})
    run(store, grid, federation, STATE)
    assert {name for name, _ in grid.pushed} == {"hospital"}
    states = [codec.decode(request.state, "float32") for _, request in grid.pushed if hasattr(request, "state")]
    assert {name for state in states for name in state} == {"adapter/a", "head/clauses/w", "head/entities/w"}


def test_a_checkpoint_is_stored_before_the_next_request_is_sent(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 3})
    seen: list[tuple[int, int | None]] = []
    push = grid._push

    def watched(message: Message) -> str:
        request = protocol.decode(message.content, *protocol.MESSAGE_TYPES)
        last = store.last_round(str(store.run()["run"]))
        if not isinstance(request, protocol.QueryRequest):
            seen.append((request.round - isinstance(request, protocol.TrainRequest), last))
        return str(push(message))

    grid._push = watched
    run(store, grid, federation, STATE)
    assert seen
    assert all(last is not None and last >= needed for needed, last in seen)


@pytest.mark.parametrize(
    ("scores_sent", "said"),
    [
        ({"clauses": {"accuracy": 1.0}}, "Expected macro_f1"),
        ({"clauses": {"macro_f1": float("nan")}}, "in scores"),
        ({"clauses": {"macro_f1": 0.5}, "entities": {"f1": 0.5}}, "exactly"),
        ({"clauses": 0.5}, "in scores"),
    ],
)
def test_bad_scores_drop_one_institution_and_never_the_run(
    store: Store, script: Callable[..., Any], scores_sent: Any, said: str
) -> None:
    federation, grid = script(rounds={"count": 1})
    grid.scripts["law_firm"].change = changing(
        protocol.EvaluateRequest, lambda reply: dataclasses.replace(reply, scores=scores_sent)
    )
    run_id = run(store, grid, federation, STATE)
    assert store.run(run_id)["status"] == "completed"
    assert {row["institution"] for row in store.rows(scores, run_id)} == {"hospital"}
    reasons = [row["reason"] for row in store.rows(replies, run_id) if row["kind"] == "evaluate validation"]
    assert any(said in str(reason) for reason in reasons)


def test_who_pretends_to_be_another_never_trains(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 1})
    grid.scripts["law_firm"].change = changing(
        protocol.QueryRequest, lambda reply: dataclasses.replace(reply, institution="hospital")
    )
    run_id = run(store, grid, federation, STATE)
    assert grid.asked(protocol.TrainRequest) == ["hospital"]
    ((status, reason),) = train_status(store, run_id)["law_firm"]
    assert status == "dropped"
    assert "not asked to train" in str(reason)
    assert "says it is from 'hospital'" in str(reason)


def test_the_silent_are_not_waited_for_twice_a_round(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 2, "deadline_seconds": 0.2})
    silent = grid.scripts["law_firm"]
    silent.change = lambda request, answer: None if getattr(request, "round", 0) == 1 else answer
    run_id = run(store, grid, federation, STATE)
    assert rows(store, run_id, "train", "law_firm") == [(1, "missing"), (2, "ok")]
    assert rows(store, run_id, "evaluate validation", "law_firm") == [(2, "ok")]
    assert any("law_firm missing (train, round 1)" in row["text"] for row in store.rows(events, run_id))


def test_who_comes_back_with_other_data_is_asked_anew(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 3})
    law_firm = grid.scripts["law_firm"]

    def more(request: Any, answer: Any) -> Any:
        if getattr(request, "round", 0) == 2 and isinstance(request, protocol.TrainRequest):
            law_firm.records = {"clauses": {"train": 20, "validation": 2, "test": 2}}
            return dataclasses.replace(answer, examples={"clauses": 20})
        return answer

    law_firm.change = more
    run_id = run(store, grid, federation, STATE)
    assert rows(store, run_id, "train", "law_firm") == [(1, "ok"), (2, "dropped"), (3, "ok")]


def test_who_joins_late_is_scored_before_it_trains(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 2, "deadline_seconds": 0.3})
    grid.offline = {"law_firm"}
    grid.scripts["hospital"].change = changing(protocol.TrainRequest, lambda r: grid.offline.clear() or r)
    run_id = run(store, grid, federation, STATE)
    assert rows(store, run_id, "train", "law_firm") == [(1, "missing"), (2, "ok")]
    tested = {(r["institution"], r["round"]) for r in store.rows(scores, run_id) if r["split"] == "test"}
    assert {("law_firm", 0), ("hospital", 0)} <= tested
    first = next(request for name, request in grid.pushed if name == "law_firm" and hasattr(request, "state"))
    assert isinstance(first, protocol.EvaluateRequest)
    assert not codec.decode(first.state, "float32")["adapter/a"].any()


def first_scores(grid: Any) -> list[str]:
    """Who was asked to score the initial state, in order."""
    asked = [(name, r) for name, r in grid.pushed if isinstance(r, protocol.EvaluateRequest)]
    return [name for name, request in asked if (request.round, request.split) == (0, "test")]


def test_the_initial_state_is_scored_once(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 3})
    run(store, grid, federation, STATE)
    assert first_scores(grid) == ["hospital", "law_firm"]


def test_a_resumed_run_asks_for_initial_scores_that_are_lacking(
    store: Store, script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, grid = script(rounds={"count": 2})
    bad: Any = changing(protocol.EvaluateRequest, lambda r: r if r.round else dataclasses.replace(r, scores={}))
    grid.scripts["law_firm"].change = bad
    with monkeypatch.context() as patched:
        patched.setattr(rounds, "_exhausted", lambda _, number: 1 / (number - 2) > 0)  # dies before round 2
        with pytest.raises(ZeroDivisionError):
            run(store, grid, federation, STATE)
    grid.scripts["law_firm"].change = lambda _, answer: answer
    grid.pushed.clear()
    run(store, grid, federation, STATE, str(store.run()["run"]))
    assert first_scores(grid) == ["law_firm"]


def test_who_goes_away_between_any_two_looks_is_missing(store: Store, script: Callable[..., Any]) -> None:
    reasons: set[str] = set()
    for when in range(12):
        federation, grid = script(rounds={"count": 1})
        look, looks = grid.get_nodes, iter(range(10_000))

        def flickering(grid: Any = grid, look: Any = look, looks: Any = looks, when: int = when) -> Any:
            grid.offline = {"law_firm"} if next(looks) >= when > 0 else set()
            return look()

        grid.get_nodes = flickering
        run_id = run(store, grid, federation, STATE)
        assert store.run(run_id)["status"] == "completed"
        assert store.last_round(run_id) == 1
        reasons |= {str(row["reason"]) for row in store.rows(replies, run_id) if row["status"] == "missing"}
    assert reasons == {"gone offline just before it was asked", "not online when the round began"}


def test_an_institutions_words_cannot_steer_the_terminal(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 1})
    reason = "\x1b[2J\ud800\x00" + "x" * 10_000
    refusal = protocol.Refusal(institution="law_firm", kind="data", reason=reason)
    grid.scripts["law_firm"].change = changing(protocol.TrainRequest, lambda _: refusal)
    run_id = run(store, grid, federation, STATE)
    ((status, said),) = train_status(store, run_id)["law_firm"]
    assert status == "refused"
    assert said is not None
    assert said.isprintable()
    assert len(said) == 500


def test_a_round_waits_for_the_quorum_that_was_cut_off_since_the_last_one(
    store: Store, script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, grid = script(rounds={"count": 2, "quorum": 2})
    hospital = grid.scripts["hospital"]

    def cut(request: Any) -> Any:
        grid.offline = {"law_firm"}
        return request

    hospital.change = changing(protocol.EvaluateRequest, lambda r: cut(r) if r.round == 1 else r)
    waits: list[float] = []

    def mend(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 3:
            grid.offline = set()

    monkeypatch.setattr("server.rounds.joining.time", SimpleNamespace(monotonic=time.monotonic, sleep=mend))
    run_id = run(store, grid, federation, STATE)
    assert [status for _, status in rows(store, run_id, "train", "law_firm")] == ["ok", "ok"]
    assert len(waits) == 4


def test_nobody_online_is_a_clear_end(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"deadline_seconds": 0.1})
    grid.offline = {"hospital", "law_firm"}
    with pytest.raises(QuorumError, match=r"at least 1 of .* online within 0.1 s, but \['hospital', 'law_firm'\]"):
        run(store, grid, federation, STATE)
    assert grid.pushed == []


def test_the_best_round_is_the_one_scored_highest(store: Store, script: Callable[..., Any]) -> None:
    federation, grid = script(rounds={"count": 4})
    for name in HELD:
        grid.scripts[name].score = lambda request: {1: 0.3, 2: 0.9}.get(request.round, 0.5)
    run_id = run(store, grid, federation, STATE)
    assert store.best_round(run_id) == 2
    tested = [request for _, request in grid.pushed if isinstance(request, protocol.EvaluateRequest)]
    last = codec.decode(tested[-1].state, "float32")
    np.testing.assert_allclose(last["adapter/a"], store.load_checkpoint(run_id, 2).model["adapter/a"])


@pytest.mark.parametrize("cut", ["add_scores", "add_round", "save_checkpoint", "add_reply"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_cut_off_anywhere_ends_as_if_it_had_not_been(
    store: Store, script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cut: str, after: int
) -> None:
    federation, grid = script(rounds={"count": 3})
    for name in HELD:
        grid.scripts[name].score = lambda request: {1: 0.3, 2: 0.9}.get(request.round, 0.5)
    whole = run(store, grid, federation, STATE)
    original, calls = getattr(store, cut), iter(range(1000))

    def die(*arguments: Any, **named: Any) -> None:
        if next(calls) >= after:
            raise StoreError("No space left on device")
        original(*arguments, **named)

    monkeypatch.setattr(store, cut, die)
    with pytest.raises(StoreError):
        run(store, grid, federation, STATE)
    broken = str(store.run()["run"])
    monkeypatch.undo()
    run(store, grid, federation, STATE, broken)
    assert store.best_round(broken) == store.best_round(whole) == 2
    for number in range(4):
        one, other = (pack_state(store.load_checkpoint(of, number)) for of in (whole, broken))
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert _scores(store, broken) == _scores(store, whole)
    assert _validated(store, broken) == _validated(store, whole)


def _scores(store: Store, run_id: str) -> list[tuple[Any, ...]]:
    columns = ("round", "split", "institution", "task", "metric", "value", "examples")
    return sorted(tuple(row[column] for column in columns) for row in store.rows(scores, run_id))


def _validated(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(row["round"], row["score"]) for row in store.rows(round_table, run_id)]
