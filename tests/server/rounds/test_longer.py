"""A run that goes on under an agreement that only adds to its own: one institution more, or more rounds."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.rounds import loop as rounds
from server.store import Store, events, replies, scores
from shared.adapter import get_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.changes import only_adds
from shared.model.multitask import build_model
from simulations.engine import LocalGrid

Made = tuple[Federation, Federation, dict[str, Site], Arrays]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture
def make(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., Made]:
    """An agreement, a longer one, the sites of both by name under the first, and the initial state."""

    def build(**rounds: Any) -> Made:
        names = ("hospital", "law_firm", "clinic")
        federation = tiny_federation(names[:2], rounds=rounds)
        longer = tiny_federation(names, rounds=rounds | {"count": federation.rounds.count + 1})
        assert only_adds(federation, longer)
        sites = {}
        for name in names:
            data = Data(
                train=write_records(tmp_path / name / "clauses.train.jsonl", "clauses", slice(0, None, 2)),
                validation=write_records(tmp_path / name / "clauses.val.jsonl", "clauses", slice(1, None, 4)),
                test=write_records(tmp_path / name / "clauses.test.jsonl", "clauses", slice(1, None, 2)),
            )
            # Each with a model of its own, as deployed: a newcomer scores the initial state while others are further.
            site = build_site(Institution(name=name, data={"clauses": data}), longer, build_model(longer))
            sites[name] = dataclasses.replace(site, federation=federation) if name != "clinic" else site
        return federation, longer, sites, get_state(sites["clinic"].model)

    return build


class Approving(LocalGrid):
    """Institutions that go over to a longer agreement when they have approved it."""

    def approve(self, longer: Federation) -> None:
        self._sites = {node: dataclasses.replace(site, federation=longer) for node, site in self._sites.items()}


def run(
    store: Store, grid: Approving, federation: Federation, initial: Arrays, run_id: str, approved: Callable[..., Any]
) -> None:
    rounds.run(
        grid,
        federation=federation,
        store=store,
        run_id=run_id,
        initial_state=initial,
        announce=lambda _: None,
        poll_seconds=0.0,
        longer=approved,
    )


def trained(store: Store, run_id: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in store.rows(replies, run_id):
        if row["kind"] == "train" and row["status"] == "ok":
            found.setdefault(row["institution"], []).append(row["round"])
    return found


@pytest.mark.parametrize("method", ["fedavg", "fedex"])
def test_an_institution_joins_from_the_next_round(store: Store, make: Callable[..., Made], method: str) -> None:
    federation, longer, sites, initial = make(late=True, method=method)
    grid, run_id = Approving(sites), store.create_run(federation)

    def approved(current: Federation) -> Federation | None:
        if current.digest == longer.digest or store.last_round(run_id) != 1:
            return None
        grid.approve(longer)
        return longer

    run(store, grid, federation, initial, run_id, approved)
    assert store.run(run_id)["status"] == "completed"
    assert store.run(run_id)["digest"] == longer.digest
    assert store.agreement(run_id) == longer
    assert trained(store, run_id) == {"hospital": [1, 2, 3], "law_firm": [1, 2, 3], "clinic": [2, 3]}
    said = [row["text"] for row in store.rows(events, run_id)]
    assert any(text.endswith("...: rounds 2 -> 3; institution 'clinic' joins") for text in said)
    scored = {row["round"] for row in store.rows(scores, run_id) if row["institution"] == "clinic"}
    assert {0, 2, 3} <= scored, "it scores the initial state too, to compare with"


def test_without_late_nobody_is_asked_for_another_agreement(store: Store, make: Callable[..., Made]) -> None:
    federation, _, sites, initial = make()
    run_id = store.create_run(federation)

    def never(current: Federation) -> Federation | None:
        raise AssertionError("asked")

    run(store, Approving(sites), federation, initial, run_id, never)
    assert trained(store, run_id) == {"hospital": [1, 2], "law_firm": [1, 2]}


def test_a_completed_run_goes_on_under_more_rounds(store: Store, make: Callable[..., Made]) -> None:
    federation, longer, sites, initial = make()
    grid, run_id = Approving(sites), store.create_run(federation)
    run(store, grid, federation, initial, run_id, lambda current: None)
    before = store.load_checkpoint(run_id, 2).model
    store.change_agreement(run_id, longer)
    assert store.move_run(run_id, "queued", of=("completed",))
    grid.approve(longer)
    run(store, grid, longer, initial, run_id, lambda current: None)
    assert trained(store, run_id) == {"hospital": [1, 2, 3], "law_firm": [1, 2, 3], "clinic": [3]}
    assert all((store.load_checkpoint(run_id, 2).model[name] == before[name]).all() for name in before)
    kinds = [(row["round"], row["institution"], row["status"]) for row in store.rows(replies, run_id)]
    assert all(status == "ok" for *_, status in kinds), "the released round is scored once more"
