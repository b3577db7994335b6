"""Private scores in a whole federation: the best round, early stopping, what it costs, and what is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.policy import Policy
from client.preflight import Kept
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for
from client.privacy.ledger import Ledger
from server.rounds.comparing import Compared
from server.runs.status import last_evaluations, last_spending
from server.store import Store, evaluations, replies, rounds, scores, spending
from shared.adapter import get_state
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.engine import run_federation

HELD = {"hospital": ("entities", "notes_qa"), "law_firm": ("clauses", "pairs")}
PAIRS = [{"text_a": f"She pays {n} euros.", "text_b": "She pays.", "score": n / 20} for n in range(16)]
PRIVATE: dict[str, Any] = {
    "tasks": {"pairs": {"type": "sentence-similarity"}},
    "privacy": {"epsilon": 8.0, "sampling_rate": 0.5, "evaluation_epsilon": 4.0},
    "training": {"weight_decay": 0.0},
    "rounds": {"weighting": "equal", "quorum": 2, "method": "ffa", "count": 4},
}
Run = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    split_data: Callable[..., dict[str, Data]],
    store: Store,
) -> Run:
    """Runs a federation of two sites, each with its ledger, and gives the run."""

    def run(policy: Policy | None = None, **rounds: Any) -> str:
        federation = tiny_federation(**PRIVATE | {"rounds": PRIVATE["rounds"] | rounds})
        sites = {}
        for name, tasks in HELD.items():
            institution = Institution(name=name, data=data_of(name, tasks), policy=policy or Policy(max_epsilon=20.0))
            ledger = Ledger.open(tmp_path / f"{name}.sqlite")
            sites[name] = build_site(institution, federation, build_model(federation), Kept(ledger=ledger))
        return run_federation(sites, federation, get_state(sites["hospital"].model), store, lambda line: None)

    def data_of(name: str, tasks: tuple[str, ...]) -> dict[str, Data]:
        data = split_data(name, [task for task in tasks if task != "pairs"])
        if "pairs" in tasks:
            for split, part in (("train", slice(0, 8)), ("validation", slice(8, 12)), ("test", slice(12, 16))):
                (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS[part]))
            files: Any = {split: tmp_path / f"{split}.jsonl" for split in ("train", "validation", "test")}
            data["pairs"] = Data(**files)
        return data

    return run


def test_the_best_round_is_chosen_by_private_scores(run: Run, store: Store) -> None:
    done = run()
    scored = {row["round"]: row["score"] for row in store.rows(rounds, done)}
    assert store.best_round(done) == max(scored, key=lambda number: (scored[number], -number))
    assert None not in scored.values()
    told = store.rows(scores, done)
    assert {row["task"] for row in told} == {"clauses", "entities", "notes_qa"}, "no sum makes a correlation"
    assert {row["examples"] for row in told} == {1}
    assert "null_threshold" not in {row["metric"] for row in told}
    assert all(-1 <= row["value"] <= 1 for row in told)
    assert {row["losses"] is None or not any(row["losses"].values()) for row in store.rows(replies, done)} == {True}


def test_what_scores_cost_is_told_apart_from_what_training_costs(run: Run, store: Store) -> None:
    done = run()
    noise = noise_multiplier_for(4.0, 1e-5, 1.0, 4)
    rows = store.rows(evaluations, done)
    for row in rows:
        if row["split"] == "validation":
            assert row["epsilon"] == pytest.approx(epsilon([Mechanism(noise, 1.0, row["round"])], 1e-5), abs=1e-6)
    assert {(row["institution"], row["split"]): round(row["epsilon"], 6) for row in last_evaluations(rows)} == {
        (name, split): 4.0 for name in HELD for split in ("validation", "test")
    }
    assert all(7.9 < row["epsilon"] <= 8 for row in last_spending(store.rows(spending, done)))
    assert rows[-1]["ledger"] in store.last_ledgers().values()


def test_it_stops_early(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = {number: Compared(score, {}) for number, score in enumerate([0.9, 0.1, 0.1, 0.1], start=1)}
    monkeypatch.setattr("server.rounds.loop.compared", lambda *_: falling)
    done = run(patience=2)
    assert (store.last_round(done), store.best_round(done)) == (3, 1)


def test_a_second_run_needs_a_larger_budget(run: Run, store: Store) -> None:
    run()
    second = run()
    assert not store.rows(scores, second)
    refused = [row for row in store.rows(replies, second) if row["status"] == "refused"]
    assert {row["institution"] for row in refused} == set(HELD)
    assert all(row["kind"].startswith("evaluate") for row in refused), "training goes on"
    assert all("scores is epsilon 4" in row["reason"] for row in refused)
    assert store.best_round(second) == 4, "without scores the last round is released"
    third = run(Policy(max_epsilon=30.0, evaluation_epsilon=20.0))
    assert store.rows(scores, third)


def test_a_site_that_tells_no_scores_tells_none(run: Run, store: Store) -> None:
    done = run(Policy(max_epsilon=20.0, metrics="none"))
    assert not store.rows(scores, done)
    assert not store.rows(evaluations, done)
    assert store.best_round(done) == 4
