"""Federations that adapt the last layer alone: with whatever else is agreed, what is remembered changes no result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.predict import open_bundle
from client.preflight import Kept
from client.privacy.ledger import Ledger
from client.site import Site
from client.train.scoring import score
from server.release.making import release
from server.store import Store, replies, scores
from shared.adapter import ADAPTER, get_state
from shared.federation import Federation
from shared.model import frozen
from shared.model.multitask import build_model
from simulations.engine import LocalGrid, run_on
from simulations.nodekeys import node_key

HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("clauses", "entities")}
AGREED: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "rolora": {"rounds": {"method": "rolora"}},
    "fedex": {"rounds": {"method": "fedex"}},
    "fedsvd": {"rounds": {"method": "fedsvd"}},
    "fed-sb": {"rounds": {"method": "fed-sb"}},
    "fedsa": {"rounds": {"method": "fedsa"}},
    "adalora": {"adapter": {"type": "adalora", "warmup_rounds": 1, "final_rounds": 1}},
    "secure": {"secure_aggregation": {"threshold": 3}, "rounds": {"quorum": 3}},
    "robust": {"robust": {"filter": "median"}, "rounds": {"weighting": "equal", "quorum": 3, "method": "rolora"}},
    "heads at home": {"personal": {"keep": ["heads"], "fine_tune_epochs": 1}},
    "gradnorm": {"training": {"combine": "gradnorm"}},
}
OFTEN = ("fedavg", "fedex", "adalora", "secure")
"""The others are `slow`."""
Start = Callable[..., tuple[Federation, dict[str, Site]]]


@pytest.fixture
def start(
    tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]], tmp_path: Path
) -> Start:
    def build(**tables: Any) -> tuple[Federation, dict[str, Site]]:
        tables["adapter"] = {"layers": "top-1"} | tables.get("adapter", {})
        tables["training"] = {"learning_rate": 1e-2, "epochs_per_round": 2} | tables.get("training", {})
        federation, sites = tiny_federation(HELD, **tables), {}
        model = build_model(federation)
        for name, tasks in HELD.items():
            ledger = Ledger.open(tmp_path / f"{name}.sqlite") if federation.privacy else None
            institution = Institution(name=name, data=split_data(name, tasks))
            kept = Kept(ledger=ledger, node_key=node_key(name) if federation.secure_aggregation else None)
            sites[name] = build_site(institution, federation, model, kept)
        return federation, sites

    return build


def run(store: Store, started: tuple[Federation, dict[str, Site]]) -> str:
    federation, sites = started
    initial = get_state(next(iter(sites.values())).model)
    run_id = run_on(LocalGrid(sites), federation, initial, store)
    assert all(row["status"] == "ok" for row in store.rows(replies, run_id))
    return run_id


def layers_of(store: Store, run_id: str, round: int) -> dict[str, np.ndarray]:
    return {n: a for n, a in store.load_checkpoint(run_id, round).model.items() if n.startswith(ADAPTER)}


@pytest.mark.parametrize(
    "agreed", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in AGREED]
)
def test_a_run_ends_as_one_that_remembers_nothing(
    store: Store, start: Start, agreed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembering = run(store, start(**AGREED[agreed]))
    monkeypatch.setattr(frozen, "_memory", lambda: 0)
    forgetting = run(store, start(**AGREED[agreed]))
    last, other = (store.load_checkpoint(run_id, 2).model for run_id in (remembering, forgetting))
    assert last.keys() == other.keys()
    for name in last:
        np.testing.assert_allclose(last[name], other[name], atol=2e-5, err_msg=name)
    before, after = layers_of(store, remembering, 0), layers_of(store, remembering, 2)
    assert after
    assert all(".layer.1." in name for name in after)
    assert any(np.abs(after[name] - before[name]).max() > 1e-3 for name in after)


def test_a_private_run(store: Store, start: Start) -> None:
    private = {
        "privacy": {"epsilon": 8.0, "sampling_rate": 0.5},
        "training": {"weight_decay": 0.0},
        "rounds": {"weighting": "equal", "method": "fedsvd"},
    }
    run_id = run(store, start(**private))
    assert all(".layer.1." in name for name in layers_of(store, run_id, 2))


@pytest.mark.parametrize("agreed", ["fedavg", "fedex", "fed-sb"])
def test_what_is_released_scores_what_was_reported(store: Store, start: Start, agreed: str, tmp_path: Path) -> None:
    started = start(**AGREED[agreed])
    run_id = run(store, started)
    best = store.best_round(run_id)
    reported = {
        (row["institution"], row["task"], row["metric"]): row["value"]
        for row in store.rows(scores, run_id)
        if row["round"] == best and row["split"] == "test"
    }
    predictor = open_bundle(release(store, run_id, tmp_path / "bundle"))
    found = {
        (name, task, metric): value
        for name, site in started[1].items()
        for task in site.data
        for metric, value in score(predictor.model, task, site.data[task], "test", "float32").items()
    }
    assert found == pytest.approx(reported, abs=1e-6)
