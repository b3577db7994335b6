"""One of five institutions is poisoned, in whole runs: with a filter the others' model is as good as without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.runs.status import outliers
from server.store import Store, events, findings, scores
from shared import codec, protocol
from shared.adapter import get_state
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.engine import LocalGrid, run_on

FIVE = [f"i{n}" for n in range(5)]
POISONED = "i4"
POINTS = 0.02
ROUNDS = 6
"""A bounded step of the poisoned one still takes something of the others' away: after four it shows."""


class PoisonedGrid(LocalGrid):
    """One institution sends what it has learnt with the opposite sign, ten times over."""

    def __init__(self, sites: dict[str, Site], factor: float) -> None:
        super().__init__(sites)
        self.factor = factor

    def _deliver(self, message: Message) -> Message:
        reply = super()._deliver(message)
        poisoned = self._names[message.metadata.dst_node_id] == POISONED
        if message.metadata.message_type != "train" or not poisoned or reply.has_error():
            return reply
        good = protocol.decode(reply.content, protocol.TrainReply)
        arrays = {name: self.factor * array for name, array in codec.decode(good.update, "float32").items()}
        changed = vars(good) | {"update": codec.encode(arrays, "float32")}
        return Message(protocol.encode(protocol.TrainReply(**changed)), reply_to=message)


@pytest.fixture
def score(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., tuple[float, dict[str, list[Any]]]]:
    """Runs a federation with one poisoned institution; the others' mean test score, and what was recorded."""

    def run(factor: float, method: str, robust: dict[str, Any] | None) -> tuple[float, dict[str, list[Any]]]:
        federation = tiny_federation(
            FIVE,
            rounds={"count": ROUNDS, "quorum": 5, "weighting": "equal", "method": method},
            training={"epochs_per_round": 3, "learning_rate": 1e-2, "schedule": "constant"},
            **({"robust": robust} if robust else {}),
        )
        model, sites = build_model(federation), {}
        for name in FIVE:
            train = write_records(tmp_path / name / "train.jsonl", "clauses", slice(int(name[1]) % 2, None, 2))
            test = write_records(tmp_path / name / "test.jsonl", "clauses", slice(1, None, 2))
            validation = write_records(tmp_path / name / "validation.jsonl", "clauses", slice(1, None, 4))
            data = {"clauses": Data(train=train, validation=validation, test=test)}
            sites[name] = build_site(Institution(name=name, data=data), federation, model)
        with Store.open("sqlite://", checkpoints=tmp_path / "checkpoints") as store:
            run_id = run_on(PoisonedGrid(sites, factor), federation, get_state(model), store)
            kept = {table.name: store.rows(table, run_id) for table in (events, findings, scores)}
        tested = [
            r["value"] for r in kept["scores"] if r["split"] == "test" and r["round"] and r["institution"] != POISONED
        ]
        return float(np.mean(tested)), kept

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "filters"),
    [
        ("fedex", ["norm-bound", "geometric-median", "krum", "multi-krum", "fltrust"]),
        ("rolora", ["median", "trimmed-mean", "multi-krum"]),
    ],
)
def test_one_of_five_poisoned(score: Callable[..., Any], method: str, filters: list[str]) -> None:
    clean, _ = score(1.0, method, None)
    spoilt, _ = score(-10.0, method, None)
    assert spoilt < clean - 10 * POINTS
    for name in filters:
        robust = {"filter": name} | ({"root": "i0"} if name == "fltrust" else {})
        with_filter, kept = score(-10.0, method, robust)
        assert with_filter >= clean - POINTS, name
        flagged = [row for row in kept["findings"] if row["institution"] == POISONED and row["verdict"] != "kept"]
        assert {row["round"] for row in flagged} == set(range(1, ROUNDS + 1)), name
        assert {row["part"] for row in flagged} == {"adapter", "head/clauses"}, name
        told = [row["text"] for row in kept["events"] if row["text"].startswith(f"Filter {name}, round 2: ")]
        assert POISONED in told[0]
        shown = {(row["institution"], row["part"]): row for row in outliers(kept["findings"])}
        assert shown[POISONED, "adapter"]["held_back"] == ROUNDS
        assert shown[POISONED, "adapter"]["round"] == ROUNDS
        assert shown[POISONED, "adapter"]["reason"]
