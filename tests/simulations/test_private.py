"""A private federation end to end: the ledger, the figures, the budget, and the frozen factor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.policy import Policy
from client.preflight import Kept
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for
from client.privacy.ledger import Ledger
from client.site import Site
from server.store import Store, events, replies, spending
from shared.adapter import get_state
from shared.errors import QuorumError
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.engine import run_federation

TASKS = {"hospital": ("entities", "notes_qa"), "law_firm": ("clauses",)}
PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 3.0, "sampling_rate": 0.5},
    "training": {"weight_decay": 0.0},
    "rounds": {"weighting": "equal", "quorum": 2},
}


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[], Store]:
    return lambda: Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints")


@pytest.fixture
def start(
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
    open_store: Callable[[], Store],
) -> Callable[..., tuple[str, dict[str, Site]]]:
    """Runs a private federation of two sites, each with its ledger, and gives the run and the sites."""

    def run(method: str = "ffa", **policy: Any) -> tuple[str, dict[str, Site]]:
        federation = tiny_federation(**PRIVATE | {"rounds": PRIVATE["rounds"] | {"method": method}})
        sites = {}
        for name, tasks in TASKS.items():
            data = {task: Data(train=write_records(tmp_path / f"{task}.jsonl", task)) for task in tasks}
            institution = Institution(name=name, data=data, policy=Policy(**policy))
            ledger = Ledger.open(tmp_path / f"{name}.sqlite")
            sites[name] = build_site(institution, federation, build_model(federation), Kept(ledger=ledger))
        initial = get_state(next(iter(sites.values())).model)
        with open_store() as store:
            return run_federation(sites, federation, initial, store, lambda line: None), sites

    return run


def test_what_is_spent_is_what_was_planned_and_is_told(
    start: Callable[..., Any], open_store: Callable[[], Store]
) -> None:
    run, sites = start()
    steps, rounds = 2, 2
    noise = noise_multiplier_for(3.0, 1e-5, 0.5, rounds * steps)
    with open_store() as store:
        rows = store.rows(spending, run)
        assert [(row["round"], row["institution"]) for row in rows] == [(n, name) for n in (1, 2) for name in TASKS]
        for row in rows:
            fresh = epsilon([Mechanism(noise, 0.5, steps * row["round"])], 1e-5)
            assert row["epsilon"] == pytest.approx(fresh, rel=1e-3)
        assert 2.9 < rows[-1]["epsilon"] <= 3.0
        for name, site in sites.items():
            assert site.account
            assert store.last_ledgers().get(name) == str(site.account.head)


def test_a_second_run_needs_a_larger_budget(start: Callable[..., Any], open_store: Callable[[], Store]) -> None:
    start()
    with pytest.raises(QuorumError):
        start()
    with open_store() as store:
        refused = [row for row in store.rows(replies) if row["status"] == "refused"]
    assert {row["institution"] for row in refused} == set(TASKS)
    assert all("policy.max_epsilon" in row["reason"] for row in refused)
    _, sites = start(max_epsilon=6.0)
    for site in sites.values():
        assert site.account
        assert 3.0 < site.account.epsilon() <= 6.0


def test_a_ledger_older_than_the_coordinator_remembers_is_refused(
    start: Callable[..., Any], open_store: Callable[[], Store], tmp_path: Path
) -> None:
    start(max_epsilon=9.0)
    copy = (tmp_path / "hospital.sqlite").read_bytes()
    start(max_epsilon=9.0)
    (tmp_path / "hospital.sqlite").write_bytes(copy)
    with pytest.raises(QuorumError):
        start(max_epsilon=9.0)
    with open_store() as store:
        (refused,) = [row for row in store.rows(replies) if row["status"] == "refused"]
    assert refused["institution"] == "hospital"
    assert "older copy" in refused["reason"]


@pytest.mark.parametrize("method", ["ffa", "fedsvd"])
def test_a_is_frozen_or_turned_and_b_and_heads_are_trained(
    start: Callable[..., Any], open_store: Callable[[], Store], method: str
) -> None:
    run, _ = start(method)
    with open_store() as store:
        before, after = (store.load_checkpoint(run, number).model for number in (0, 2))
    for name, array in after.items():
        if ".lora_A." in name:
            np.testing.assert_allclose(array @ array.T, np.eye(len(array)), atol=1e-5)
            assert np.array_equal(array, before[name]) == (method == "ffa")
        else:
            assert not np.array_equal(array, before[name])


def test_both_factors_are_possible_and_warned_of(start: Callable[..., Any], open_store: Callable[[], Store]) -> None:
    run, _ = start("fedavg")
    with open_store() as store:
        said = [row["text"] for row in store.rows(events, run)]
        before, after = (store.load_checkpoint(run, number).model for number in (0, 2))
    assert any("both factors" in line for line in said)
    assert all(not np.array_equal(array, before[name]) for name, array in after.items())
