"""A run that begins with the state of an earlier one, under another agreement."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.home import ServerHome
from server.initial import check_inheritance, state_to_begin_with
from server.opening import open_store
from server.release.making import release
from server.rounds import loop as rounds
from server.runs import steering
from server.runs.status import runs_report
from server.store import Store, scores
from shared.adapter import get_state
from shared.errors import ConfigError
from shared.federation import Federation, federation_toml
from shared.model.multitask import build_model
from shared.state import State
from simulations.engine import LocalGrid

QUESTIONS = {"type": "question-answering"}
SITES: dict[tuple[str, str], Site] = {}
"""By run and name, those that took part."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture
def trained(store: Store, tmp_path: Path, write_records: Callable[..., Path]) -> Callable[..., str]:
    """Runs a federation on one institution with clauses, from an earlier run's state if named; the run's id."""

    def records(name: str, start: int) -> dict[str, Data]:
        def write(split: str, part: slice) -> Path:
            return write_records(tmp_path / name / f"clauses.{split}.jsonl", "clauses", part)

        train, validation = write("train", slice(start, None, 2)), write("val", slice(1, None, 4))
        return {"clauses": Data(train=train, validation=validation, test=write("test", slice(1, None, 2)))}

    held = {"hospital": records("hospital", 0), "bank": records("bank", 3)}

    def run(federation: Federation, parent: tuple[str, int] | None = None) -> str:
        run_id = store.create_run(federation, parent)
        begin = state_to_begin_with(store, run_id, federation)
        sites = {
            name: build_site(Institution(name=name, data=data), federation, build_model(federation))
            for name, data in held.items()
        }
        for name, site in sites.items():
            SITES[run_id, name] = site
        rounds.run(
            LocalGrid(sites),
            federation=federation,
            store=store,
            run_id=run_id,
            initial_state=begin,
            announce=lambda _: None,
            poll_seconds=0.0,
        )
        return run_id

    return run


def scores_of(store: Store, run_id: str, round: int) -> dict[tuple[str, str], float]:
    rows = [row for row in store.rows(scores, run_id) if (row["round"], row["split"]) == (round, "test")]
    return {(row["institution"], row["metric"]): row["value"] for row in rows}


@pytest.mark.parametrize("method", ["fedavg", "fedex"])
def test_a_run_goes_on_exactly_where_the_other_was(
    store: Store,
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    trained: Callable[..., str],
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under `fedex` what was added to the frozen weights comes along too, or the scores could not be the same."""
    monkeypatch.setattr(Store, "best_round", lambda self, run: self.last_round(run))  # by then the weights have moved
    first = tiny_federation(("hospital", "bank"), rounds={"method": method, "count": 3})
    parent = trained(first)
    best = store.best_round(parent)
    assert best is not None
    tasks = {"clauses": first.model_dump(mode="json")["tasks"]["clauses"], "answers": QUESTIONS}
    values = first.model_dump(mode="json", exclude_none=True) | {"tasks": tasks, "seed": 99}
    values["training"]["epochs_per_round"] = 0
    second = Federation.model_validate(values)
    run = trained(second, (parent, best))
    before, began = store.load_checkpoint(parent, best).model, store.load_checkpoint(run, 0).model
    fresh = get_state(build_model(second))
    for name, array in began.items():
        expected = fresh if name.startswith("head/answers") else before
        assert np.array_equal(array, expected[name]), name
    assert not any(name.startswith("head/entities") for name in began), "dropped tasks' heads go"
    assert bool(store.load_checkpoint(run, 0).steps) == (method == "fedex")
    released = scores_of(store, parent, best)
    assert len(released) >= 2
    assert scores_of(store, run, 0) == pytest.approx(released, abs=1e-4)
    for name in ("hospital", "bank"):
        added, before_it = (SITES[which, name].model.base.added for which in (run, parent))
        assert added.keys() == before_it.keys()
        for layer, (b, a) in before_it.items():
            assert added[layer][0] @ added[layer][1] == pytest.approx(b @ a, abs=1e-6)
    row = next(row for row in runs_report(store) if row["run"] == run)
    assert row["parent"] == f"{parent}:{best}"
    bundle = release(store, run, tmp_path / "bundle")
    assert f'"run": "{parent}"' in (bundle / "metrics.json").read_text()


def test_labels_that_changed_begin_anew(
    store: Store, tiny_federation: Callable[..., Federation], trained: Callable[..., str]
) -> None:
    first = tiny_federation(("hospital", "bank"), rounds={"count": 1})
    parent = trained(first)
    values = first.model_dump(mode="json", exclude_none=True)
    values["tasks"]["clauses"]["labels"] = ["liability", "payment"]  # as many, but others
    other = Federation.model_validate(values)
    state = state_to_begin_with(store, store.create_run(other, (parent, 1)), other).model
    fresh, before = get_state(build_model(other)), store.load_checkpoint(parent, 1).model
    assert np.array_equal(state["head/clauses/linear.weight"], fresh["head/clauses/linear.weight"])
    assert np.array_equal(state["head/notes_qa/linear.weight"], before["head/notes_qa/linear.weight"])


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"adapter": {"rank": 8}}, r"adapter\.rank: 4 -> 8"),
        ({"adapter": {"alpha": 4.0}}, r"adapter\.alpha: 8\.0 -> 4\.0"),
        ({"personal": {"keep": ["heads"]}}, "parts of the model stay at home"),
        ({"rounds": {"method": "rolora"}}, "a method that moves the frozen weights"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_federation: Callable[..., Federation], tables: dict[str, Any], reason: str
) -> None:
    before = tiny_federation(("hospital",), rounds={"method": "fedex"})
    rounds = {"rounds": {"method": "fedex"}}
    with pytest.raises(ConfigError, match=reason):
        check_inheritance(before, tiny_federation(("hospital",), **(rounds | tables)), "r1")


def test_the_operator_names_a_run_and_a_round(
    home: ServerHome, tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_check_up", lambda folder: None)
    federation = tiny_federation()
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    with open_store(home.root) as store:
        run = store.create_run(federation)
        for number in (0, 1):
            store.save_checkpoint(run, number, State({"a": np.zeros(1, np.float32)}))
    for named in (f"{run}:2", f"{run}:x", f"{run}:-1", f"{run}:99999999999", "nothing"):
        with pytest.raises(ConfigError, match=r"Expected (a r|RUN)"):
            steering.start(home.root, named)
    queued = steering.start(home.root, f"{run}:1")
    assert queued.note == f"It begins with the state of run {run} after round 1"
    with open_store(home.root) as store:
        assert (store.run(queued.run_id)["parent"], store.run(queued.run_id)["parent_round"]) == (run, 1)
