"""Real sites under secure aggregation: the same state as without, whoever is lost at whatever step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from client.institution import Data
from server.store import Store, replies
from shared import protocol
from shared.adapter import get_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.flower.constants import ErrorCode
from shared.model.multitask import build_model
from shared.protocol import (
    ConfirmRequest,
    MaskRequest,
    OpenRequest,
    SharesRequest,
    TrainRequest,
    UnmaskRequest,
)
from simulations.engine import LocalGrid, run_on
from simulations.experiment import Experiment, open_sites

BOTH = ("clauses", "entities")
HELD = {"bank": ("clauses",), "clinic": BOTH, "hospital": BOTH, "law_firm": BOTH}


class LosingGrid(LocalGrid):
    """Loses one institution when it should answer a kind of request in round 1."""

    def __init__(self, sites: Any, kind: type[Any] | None) -> None:
        super().__init__(sites)
        self.kind = kind
        self.replies: list[Any] = []

    def _deliver(self, message: Message) -> Message:
        request: Any = protocol.decode(message.content, *protocol.MESSAGE_TYPES)
        if self.kind and isinstance(request, self.kind) and self._names[message.metadata.dst_node_id] == "hospital":
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        reply = super()._deliver(message)
        self.replies.append(protocol.decode(reply.content, *protocol.REPLIES))
        return reply


@pytest.fixture
def run(
    tmp_path: Path, store: Store, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., tuple[str, LosingGrid]]:
    institutions = {
        name: {
            task: Data(
                train=write_records(tmp_path / name / f"{task}.jsonl", task, slice(index, None, 4)),
                validation=write_records(tmp_path / name / f"{task}.val.jsonl", task, slice(index, 6)),
                annotates=("Drug",) if (name, task) == ("hospital", "entities") else None,
            )
            for task in tasks
        }
        for index, (name, tasks) in enumerate(HELD.items())
    }

    def run(secure: bool, lost: type[Any] | None = None, **table: Any) -> tuple[str, LosingGrid]:
        federation = tiny_federation(
            HELD,
            rounds={"count": 1, "quorum": 3} | table,
            training={"epochs_per_round": 3, "warmup": 0.0},
            secure_aggregation={"threshold": 3} if secure else None,
        )
        model = build_model(federation)
        initial: Arrays = get_state(model)
        grid = LosingGrid(open_sites(Experiment(federation=federation, institutions=institutions), model), lost)
        return run_on(grid, federation, initial, store), grid

    return run


def distance(store: Store, one: str, other: str, number: int) -> float:
    first, second = store.load_checkpoint(one, number).model, store.load_checkpoint(other, number).model
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def test_a_secure_run_ends_as_a_plain_one(store: Store, run: Callable[..., Any]) -> None:
    (plain, _), (secure, grid) = run(False, count=2), run(True, count=2)
    moved = store.load_checkpoint(plain, 1).model["head/clauses/linear.weight"]
    assert np.abs(moved - store.load_checkpoint(plain, 0).model["head/clauses/linear.weight"]).max() > 1e-3
    assert distance(store, plain, secure, 1) < 2**-20
    assert distance(store, plain, secure, 2) < 1e-3  # the second round trains from states that differ by that much
    assert store.best_round(secure) is not None
    assert not any(isinstance(reply, protocol.TrainReply) for reply in grid.replies)


STEPS = [TrainRequest, SharesRequest, OpenRequest, MaskRequest, ConfirmRequest, UnmaskRequest]


@pytest.mark.parametrize("lost", STEPS)
def test_one_lost_at_any_step(store: Store, run: Callable[..., Any], lost: type[Any]) -> None:
    counted = lost in (ConfirmRequest, UnmaskRequest)
    secure, _ = run(True, lost, weighting="examples")
    plain, _ = run(False, None if counted else TrainRequest, weighting="examples")
    assert distance(store, plain, secure, 1) < 2**-20
    status = {row["institution"]: row["status"] for row in store.rows(replies, secure) if row["kind"] == "train"}
    assert status == dict.fromkeys(HELD, "ok") | {"hospital": "ok" if counted else "missing"}


@pytest.mark.parametrize("method", ["ffa", "heads"])
def test_the_simpler_methods_work_as_well(store: Store, run: Callable[..., Any], method: str) -> None:
    (plain, _), (secure, _) = run(False, method=method), run(True, method=method)
    assert distance(store, plain, secure, 1) < 2**-20
    before, after = store.load_checkpoint(secure, 0).model, store.load_checkpoint(secure, 1).model
    assert np.abs(after["head/clauses/linear.weight"] - before["head/clauses/linear.weight"]).max() > 1e-3
