"""A run among institutions with policies of their own: the coordinator does without what is not shared, and says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.policy import Policy
from client.site import Site
from server.runs.status import refusals
from server.store import Store, events, replies, rounds, scores
from shared.adapter import get_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.engine import run_federation

Make = Callable[..., tuple[Federation, dict[str, Site], Arrays]]


@pytest.fixture
def make(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]) -> Make:
    """A federation, its two sites under the policies given by name, and the initial state."""

    def build(policies: dict[str, Policy], **agreed: Any) -> tuple[Federation, dict[str, Site], Arrays]:
        federation = tiny_federation(rounds={"count": 1, **agreed})
        model = build_model(federation)
        sites = {}
        for name in ("hospital", "law_firm"):
            data = {
                "clauses": Data(
                    train=write_records(tmp_path / name / "train.jsonl", "clauses", slice(0, None, 2)),
                    test=write_records(tmp_path / name / "test.jsonl", "clauses", slice(1, None, 2)),
                )
            }
            institution = Institution(name=name, data=data, policy=policies.get(name, Policy()))
            sites[name] = build_site(institution, federation, model)
        return federation, sites, get_state(model)

    return build


def test_a_run_goes_without_the_numbers_that_are_not_shared(store: Store, make: Make) -> None:
    federation, sites, initial = make({"hospital": Policy(counts="none", metrics="none")}, weighting="equal", quorum=2)
    run_id = run_federation(sites, federation, initial, store, lambda _: None)
    assert store.run(run_id)["status"] == "completed"
    (round_row,) = store.rows(rounds, run_id)
    assert round_row["participants"] == 2
    trained = {row["institution"]: row for row in store.rows(replies, run_id) if row["kind"] == "train"}
    assert trained["hospital"]["examples"] == {"clauses": 1}
    assert trained["hospital"]["losses"] == {}
    assert trained["law_firm"]["examples"] == {"clauses": 11}
    assert {row["institution"] for row in store.rows(scores, run_id)} == {"law_firm"}
    said = [row["text"] for row in store.rows(events, run_id)]
    assert "hospital takes part with clauses (count not shared)" in said
    assert not any(line.startswith("hospital has no training record") for line in said)
    assert refusals(store.rows(replies, run_id)) == []


def test_the_status_names_the_rule_that_a_run_breaks(store: Store, make: Make) -> None:
    federation, sites, initial = make({"hospital": Policy(require_dp=True)}, quorum=1)
    run_id = run_federation(sites, federation, initial, store, lambda _: None)
    assert store.run(run_id)["status"] == "completed"
    (refused,) = refusals(store.rows(replies, run_id))
    assert (refused["institution"], refused["kind"]) == ("hospital", "policy")
    assert "policy.require_dp" in refused["reason"]
    absent = [row for row in store.rows(replies, run_id) if row["kind"] == "train" and row["status"] == "refused"]
    assert "not asked to train: policy: " in absent[0]["reason"]


def test_an_update_that_is_refused_drops_that_one_institution(store: Store, make: Make) -> None:
    federation, sites, initial = make({"hospital": Policy(max_norm=1e-6)}, quorum=1)
    run_id = run_federation(sites, federation, initial, store, lambda _: None)
    trained = {row["institution"]: row["status"] for row in store.rows(replies, run_id) if row["kind"] == "train"}
    assert trained == {"hospital": "refused", "law_firm": "ok"}
    (refused,) = refusals(store.rows(replies, run_id))
    assert (refused["kind"], refused["request"], refused["round"]) == ("policy", "train", 1)
    assert "policy.max_norm" in refused["reason"]
