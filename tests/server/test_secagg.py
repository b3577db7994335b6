"""Rounds under secure aggregation: the same averages as without, whoever is lost at whatever step, or none at all."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from client.round.secagg import Participant, SecureRounds
from server.aggregation import fedavg
from server.rounds import asking
from server.rounds import loop as rounds
from server.store import Store, events, replies
from server.store import rounds as round_table
from shared import codec, protocol
from shared.codec import Arrays
from shared.errors import CollegiumError, QuorumError
from shared.federation import Federation
from shared.flower.constants import ErrorCode
from shared.flower.messages import NodeInfo
from shared.protocol import (
    ConfirmReply,
    ConfirmRequest,
    EvaluateRequest,
    MaskReply,
    MaskRequest,
    OpenReply,
    OpenRequest,
    QueryRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from shared.tasks import build_task
from simulations.engine import LocalGrid
from simulations.nodekeys import node_key

NAMES = ("bank", "clinic", "hospital", "insurer")
STATE: Arrays = {
    "adapter/q.lora_A.weight": np.zeros((2, 3), np.float32),
    "head/clauses/linear.weight": np.zeros((2, 3), np.float32),
    "head/clauses/linear.bias": np.zeros(2, np.float32),
    "head/entities/linear.bias": np.zeros(5, np.float32),
    "head/notes_qa/linear.bias": np.ones(2, np.float32),
}
SHAPES = {name: array.shape for name, array in STATE.items()}
HELD: dict[str, dict[str, int]] = {
    "bank": {"clauses": 7},
    "clinic": {"clauses": 10, "entities": 400},
    "hospital": {"clauses": 300, "entities": 20},
    "insurer": {"clauses": 55},
}
"""No count is cut, and what one holds is added up, with `rounds.max_share` = 1, as these tests have it if not said."""
LABELS: dict[str, dict[str, dict[str, int]]] = {"bank": {"clauses": {"payment": 7}}}
ERROR = 2**-20
"""Half a step of 2^-24 per institution, over the weight that is left when one is lost after weights were told."""


@pytest.fixture(autouse=True)
def nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is lost here does not come back."""
    monkeypatch.setattr(asking, "BLIP_SECONDS", 0.0)
    monkeypatch.setattr(asking, "STATUS_SECONDS", 0.05)


class Institution:
    """A site without a model: its update is a fixed function of its name and the round."""

    def __init__(self, name: str, federation: Federation) -> None:
        self.name, self.federation, self.secure = name, federation, SecureRounds(node_key(name))
        self.outputs = {task: build_task(task, spec).outputs() for task, spec in federation.tasks.items()}

    def answer(self, request: Any, run: str | None = None) -> Any:
        try:
            return self._answer(request)
        except CollegiumError as error:
            return protocol.Refusal(institution=self.name, kind="request", reason=str(error))

    def _answer(self, request: Any) -> Any:
        held = HELD[self.name]
        if isinstance(request, QueryRequest):
            records: Any = {task: {"train": count} for task, count in held.items()}
            labels = LABELS.get(self.name, {})
            return protocol.QueryReply(institution=self.name, records=records, software="test", labels=labels)
        if isinstance(request, TrainRequest):
            rng = np.random.default_rng([request.round, NAMES.index(self.name)])
            state = codec.decode(request.state, "float32")
            update = {n: rng.normal(size=a.shape).astype(np.float32) for n, a in sorted(state.items())}
            reply = protocol.TrainReply(
                institution=self.name,
                round=request.round,
                examples=held,
                losses=dict.fromkeys(held, 0.5),
                steps=1,
                seconds=0.1,
                update=codec.encode(update, "float32"),
            )
            if self.federation.secure_aggregation is None:
                return reply
            annotated = {task: sorted(counts) for task, counts in LABELS.get(self.name, {}).items()}
            return self.secure.begin(reply, update, self.federation, run=request.run, labels=annotated)
        assert not isinstance(request, EvaluateRequest)  # nobody has records to score
        return self.secure.answer(request, Participant(self.name, self.federation, SHAPES, self.outputs))


Change = Callable[[str, Any, Any], Any]
"""Of an institution, the request and its reply: another reply, or None for no answer, now and until the next round."""


class FaultyGrid(LocalGrid):
    def __init__(self, sites: dict[str, Any], change: Change) -> None:
        super().__init__(sites)
        self.change = change
        self.gone: set[str] = set()
        self.seen: list[tuple[str, Any, Any]] = []

    def get_nodes(self) -> list[NodeInfo]:
        return [node for node in super().get_nodes() if node.name not in self.gone]

    def _deliver(self, message: Message) -> Message:
        name = self._names[message.metadata.dst_node_id]
        request: Any = protocol.decode(message.content, *protocol.MESSAGE_TYPES)
        reply: Any = protocol.decode(super()._deliver(message).content, *protocol.REPLIES)
        self.seen.append((name, request, reply))
        changed = self.change(name, request, reply)
        if changed is None:
            self.gone.add(name)
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        return Message(protocol.encode(changed), reply_to=message)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture
def go(store: Store, tiny_federation: Callable[..., Federation]) -> Callable[..., tuple[str, FaultyGrid]]:
    """Runs a federation of four; some are `away` from the first round on."""

    def run(
        *, secure: bool = True, change: Change = lambda name, request, reply: reply, count: int = 1, **tables: Any
    ) -> tuple[str, FaultyGrid]:
        agreed = {"threshold": 3} if secure else None
        table = {"count": count, "quorum": 3, "max_share": 1.0} | tables.pop("rounds", {})
        federation = tiny_federation(NAMES, rounds=table, secure_aggregation=agreed, **tables)
        grid = FaultyGrid({name: Institution(name, federation) for name in NAMES}, change)
        run_id = store.create_run(federation)

        def announce(text: str) -> None:
            if text.startswith("Round "):
                grid.gone.clear()

        rounds.run(
            grid,
            federation=federation,
            store=store,
            run_id=run_id,
            initial_state=STATE,
            announce=announce,
            poll_seconds=0.0,
        )
        return run_id, grid

    return run


def lose(institution: str, kind: type[Any], number: int = 1) -> Change:
    """An institution that is gone when it should reply to a kind of request in one round."""

    def change(name: str, request: Any, reply: Any) -> Any:
        lost = name == institution and isinstance(request, kind) and request.round == number
        return None if lost else reply

    return change


def assert_equal(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=ERROR, rtol=0, err_msg=name)


@pytest.mark.parametrize("weighting", ["tasks", "examples", "equal"])
def test_a_secure_run_ends_as_a_plain_one(store: Store, go: Callable[..., Any], weighting: str) -> None:
    rounds_table = {"weighting": weighting}
    plain, _ = go(secure=False, count=2, rounds=rounds_table)
    secure, grid = go(count=2, rounds=rounds_table)
    one, other = store.load_checkpoint(plain, 2).model, store.load_checkpoint(secure, 2).model
    assert_equal(one, other)
    assert other["head/notes_qa/linear.bias"].tobytes() == STATE["head/notes_qa/linear.bias"].tobytes()
    assert (other["head/clauses/linear.bias"] != 0).all()
    for row, same in zip(store.rows(round_table, plain), store.rows(round_table, secure), strict=True):
        assert row["participants"] == same["participants"] == 4
        assert row["norm"] == pytest.approx(same["norm"], rel=1e-5)
    trained = [
        [r[k] for k in ("round", "institution", "status", "examples", "losses")] for r in _train_rows(store, plain)
    ]
    assert trained == [
        [r[k] for k in ("round", "institution", "status", "examples", "losses")] for r in _train_rows(store, secure)
    ]
    assert not any(isinstance(reply, protocol.TrainReply) for _, _, reply in grid.seen)


def _train_rows(store: Store, run_id: str) -> list[dict[str, Any]]:
    rows = [row for row in store.rows(replies, run_id) if row["kind"] == "train"]
    return sorted(rows, key=lambda row: (row["round"], row["institution"]))


STEPS: dict[str, tuple[type[Any], bool]] = {
    "before keys": (TrainRequest, False),
    "after keys": (SharesRequest, False),
    "after shares": (OpenRequest, False),
    "after open": (MaskRequest, False),
    "after masked": (ConfirmRequest, True),
    "after confirmed": (UnmaskRequest, True),
}


@pytest.mark.parametrize("step", STEPS)
def test_one_lost_at_any_step(store: Store, go: Callable[..., Any], step: str) -> None:
    kind, counted = STEPS[step]
    table = {"weighting": "examples"}
    plain_change = lose("hospital", TrainRequest) if not counted else lose("hospital", type(None))
    plain, _ = go(secure=False, count=2, change=plain_change, rounds=table)
    secure, _ = go(count=2, change=lose("hospital", kind), rounds=table)
    for number in (1, 2):
        assert_equal(store.load_checkpoint(plain, number).model, store.load_checkpoint(secure, number).model)
    status = {(r["round"], r["institution"]): (r["status"], r["reason"]) for r in _train_rows(store, secure)}
    assert status[1, "hospital"][0] == ("ok" if counted else "missing")
    assert status[2, "hospital"] == ("ok", None)  # it takes part again
    assert all(status[1, name] == ("ok", None) for name in NAMES if name != "hospital")
    if step in ("after keys", "after shares", "after open"):
        assert status[1, "hospital"][1] in ("shares: gone", "open: gone", "mask: gone")
    later = [r for r in store.rows(replies, secure) if r["kind"] in ("confirm", "unmask") and r["round"] == 1]
    assert [r["status"] for r in later if r["institution"] == "hospital"].count("missing") == counted


@pytest.mark.parametrize("lost", ["bank", "clinic", "hospital"])
def test_lost_between_open_and_mask_the_others_keep_their_ratios(
    store: Store, go: Callable[..., Any], lost: str
) -> None:
    secure, _ = go(change=lose(lost, MaskRequest))
    left = [name for name in NAMES if name != lost]
    adapter = next(iter(STATE))
    weights = fedavg.adapter_weights(HELD, "tasks")
    updates = {}
    for name in left:
        rng = np.random.default_rng([1, NAMES.index(name)])
        updates[name] = rng.normal(size=STATE[adapter].shape).astype(np.float32)  # the adapter's name comes first
    mean = sum(weights[name] * updates[name].astype(float) for name in left) / sum(weights[name] for name in left)
    np.testing.assert_allclose(store.load_checkpoint(secure, 1).model[adapter], mean, atol=ERROR, rtol=0)
    plain, _ = go(secure=False, change=lose(lost, TrainRequest))
    one, other = store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model
    assert_equal({n: a for n, a in one.items() if n != adapter}, {n: a for n, a in other.items() if n != adapter})


@pytest.mark.parametrize("kind", [SharesRequest, OpenRequest, MaskRequest, ConfirmRequest, UnmaskRequest])
def test_below_the_threshold_the_round_is_refused_and_the_run_can_go_on(
    store: Store, go: Callable[..., Any], kind: type[Any]
) -> None:
    def change(name: str, request: Any, reply: Any) -> Any:
        lost = name in ("bank", "clinic") and isinstance(request, kind) and request.round == 2
        return None if lost else reply

    late = kind in (ConfirmRequest, UnmaskRequest)
    said = "cannot be unmasked" if late else r"at least 3 valid updates in round 2, but 2 came"
    with pytest.raises(QuorumError, match=said):
        go(count=2, change=change)
    run_id = str(store.run()["run"])
    assert store.last_round(run_id) == 1
    federation = store.agreement(run_id)
    grid = FaultyGrid({name: Institution(name, federation) for name in NAMES}, lambda name, request, reply: reply)
    rounds.run(
        grid,
        federation=federation,
        store=store,
        run_id=run_id,
        initial_state=STATE,
        announce=lambda _: None,
        poll_seconds=0.0,
    )
    plain, _ = go(secure=False, count=2)
    assert_equal(store.load_checkpoint(plain, 2).model, store.load_checkpoint(run_id, 2).model)


def altered(kind: type[Any], alter: Callable[[Any], Any], who: str = "hospital") -> Change:
    return lambda name, request, reply: alter(reply) if name == who and isinstance(reply, kind) else reply


def other_keys(reply: TrainedReply) -> TrainedReply:
    return replace(reply, masking_key=reply.sealing_key)


def negated_key(reply: TrainedReply) -> TrainedReply:
    return replace(reply, masking_key=("03" if reply.sealing_key[1] == "2" else "02") + reply.sealing_key[2:])


BAD: dict[str, tuple[type[Any], Callable[[Any], Any], str]] = {
    "twice the same key": (TrainedReply, other_keys, "one came twice"),
    "the same key negated": (TrainedReply, negated_key, "beside its negation"),
    "in other letters": (TrainedReply, lambda r: replace(r, sealing_key=r.sealing_key.upper()), "in sealing_key"),
    "not signed": (TrainedReply, lambda r: replace(r, signature=""), "that hospital has signed"),
    "another's signature": (TrainedReply, lambda r: replace(r, examples=dict.fromkeys(r.examples, 1)), "has signed"),
    "other labels": (TrainedReply, lambda r: replace(r, labels={"clauses": ["strange"]}), "annotates others"),
    "no key": (TrainedReply, lambda r: replace(r, sealing_key="beef"), "P-256"),
    "absurd count": (TrainedReply, lambda r: replace(r, examples={"clauses": 10**9, "entities": 1}), "between 1 and"),
    "plain update": (
        TrainedReply,
        lambda r: protocol.TrainReply(
            institution=r.institution, round=1, examples=r.examples, losses={}, steps=1, seconds=0.0, update=b""
        ),
        "Expected a TrainedReply",
    ),
    "shares for nobody": (SharesReply, lambda r: replace(r, shares={}), "for every peer"),
    "long shares": (SharesReply, lambda r: replace(r, shares=dict.fromkeys(r.shares, "x" * 600)), "512 characters"),
    "other name": (SharesReply, lambda r: replace(r, institution="bank"), "says it is from"),
    "garbled shares": (SharesReply, lambda r: replace(r, shares=dict.fromkeys(r.shares, "x")), "3 cannot open those"),
    "one malformed share": (SharesReply, lambda r: replace(r, shares={**r.shares, "bank": "x"}), "1 cannot open those"),
    "blames everybody": (OpenReply, lambda r: replace(r, unopened=["bank", "clinic"]), "finds too many wrong"),
    "blames nobody": (OpenReply, lambda r: replace(r, unopened=["stranger"]), "names of peers"),
    "short vector": (MaskReply, lambda r: replace(r, update=r.update[4:]), "masked update of"),
    "other round": (MaskReply, lambda r: replace(r, round=9), "answered round 9"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_drops_one_institution(store: Store, go: Callable[..., Any], fault: str) -> None:
    kind, alter, said = BAD[fault]
    secure, _ = go(change=altered(kind, alter), rounds={"weighting": "examples"})
    plain, _ = go(secure=False, change=lose("hospital", TrainRequest), rounds={"weighting": "examples"})
    assert_equal(store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model)
    (row,) = [row for row in _train_rows(store, secure) if row["institution"] == "hospital"]
    assert row["status"] == "dropped"
    assert said in row["reason"]


BAD_SHARES: dict[str, Callable[[UnmaskReply], UnmaskReply]] = {
    "not hexadecimal": lambda r: replace(r, seeds=dict.fromkeys(r.seeds, "xyz")),
    "missing": lambda r: replace(r, seeds={}),
    "false": lambda r: replace(
        r, seeds={n: s[:20] + ("0" if s[20] == "1" else "1") + s[21:] for n, s in r.seeds.items()}
    ),
    "another's": lambda r: replace(r, seeds=dict.fromkeys(r.seeds, next(iter(r.seeds.values())))),
}


@pytest.mark.parametrize("fault", BAD_SHARES)
def test_bad_shares_of_one_do_no_harm_and_of_two_give_no_sum(store: Store, go: Callable[..., Any], fault: str) -> None:
    alter = BAD_SHARES[fault]
    secure, _ = go(change=altered(UnmaskReply, alter))
    plain, _ = go(secure=False)
    assert_equal(store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model)

    def two(name: str, request: Any, reply: Any) -> Any:
        return alter(reply) if name in ("bank", "hospital") and isinstance(reply, UnmaskReply) else reply

    with pytest.raises(QuorumError, match="cannot be unmasked"):
        go(change=two)


def test_a_false_signature_of_the_survivors_does_no_harm(store: Store, go: Callable[..., Any]) -> None:
    secure, _ = go(change=altered(ConfirmReply, lambda reply: replace(reply, signature="00")))
    plain, _ = go(secure=False)
    assert_equal(store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model)
    (row,) = [row for row in store.rows(replies, secure) if row["kind"] == "confirm" and row["status"] != "ok"]
    assert (row["institution"], row["status"]) == ("hospital", "dropped")
    assert "signed by hospital's node key" in row["reason"]


def test_who_deals_shares_that_fit_nothing_is_named(store: Store, go: Callable[..., Any]) -> None:
    with pytest.raises(QuorumError, match="secrets of hospital"):
        go(change=altered(SharesReply, lambda reply: replace(reply, commitment="00")))


def test_a_false_masked_update_gives_no_state(store: Store, go: Callable[..., Any]) -> None:
    noise = np.random.default_rng(0).bytes(10_000)
    with pytest.raises(QuorumError, match="somebody's masked update is false"):
        go(change=altered(MaskReply, lambda reply: replace(reply, update=noise[: len(reply.update)])))
    assert store.last_round(str(store.run()["run"])) == 0


def test_what_was_spent_is_remembered_even_of_the_lost(store: Store, go: Callable[..., Any]) -> None:
    head = "3:" + "a" * 64

    def change(name: str, request: Any, reply: Any) -> Any:
        if isinstance(reply, TrainedReply):
            return replace(reply, epsilon=0.5, ledger=head)
        return None if name == "hospital" and isinstance(request, SharesRequest) else reply

    go(change=change)
    assert [store.last_ledgers().get(name) for name in NAMES] == [head] * 4


def test_what_one_institution_holds_does_not_move(store: Store, go: Callable[..., Any]) -> None:
    """The head of entities was revealed at the commit before: its sum was clinic's own update of it."""
    secure, _ = go(change=lose("hospital", TrainRequest), rounds={"max_share": 0.5})
    said = [event["text"] for event in store.rows(events, secure)]
    assert any("the head of entities is not updated: only clinic trains it" in text for text in said)
    after = store.load_checkpoint(secure, 1).model
    assert after["head/entities/linear.bias"].tobytes() == STATE["head/entities/linear.bias"].tobytes()
    assert (after["head/clauses/linear.bias"] != 0).all()


def test_a_sum_of_which_one_would_be_too_much_is_given_up(store: Store, go: Callable[..., Any]) -> None:
    """Hospital masks the head of entities with clinic, and is lost: clinic's update of it would be bare."""
    with pytest.raises(QuorumError, match=r"more than 0.5 .* in the (adapter|head of entities)"):
        go(change=lose("hospital", MaskRequest), rounds={"max_share": 0.5})


@pytest.mark.parametrize("weighting", ["tasks", "examples"])
def test_counts_are_cut_as_without(
    store: Store, go: Callable[..., Any], weighting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LABELS, "bank")  # rows that not all annotate are cut once more
    agreed = {"weighting": weighting, "max_share": 0.5}
    secure, _ = go(rounds=agreed)
    plain, _ = go(secure=False, rounds=agreed)
    assert_equal(store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model)


def test_nothing_that_the_coordinator_sees_is_an_update(store: Store, go: Callable[..., Any]) -> None:
    """The masked updates of all look random, and are not their vectors."""
    _, grid = go()
    masked = [np.frombuffer(reply.update, np.uint32) for _, _, reply in grid.seen if isinstance(reply, MaskReply)]
    assert len(masked) == 4
    tops = np.concatenate(masked).astype(np.float64) / 2**32
    assert 0.3 < tops.mean() < 0.7  # honest words are near 0 or near 2^32
    assert (np.abs(tops - 0.5) < 0.4).mean() > 0.6
