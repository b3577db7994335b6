"""Institutions in several processes: the same results to the bit, and nothing left running however a run ends."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from collegium.__main__ import main
from server.store import Store, scores
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import ProcessError
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.state import pack_state
from simulations.engine import LocalGrid, run_on
from simulations.engine.workers import WorkerGrid, default_workers, open_grid, share_out, warm

HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}
Start = Callable[..., tuple[Federation, dict[str, Site], Arrays]]


@pytest.fixture
def start(tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]) -> Start:
    def build(**tables: Any) -> tuple[Federation, dict[str, Site], Arrays]:
        federation = tiny_federation(HELD, **tables)
        model = build_model(federation)
        sites = {
            name: build_site(Institution(name=name, data=split_data(name, tasks)), federation, model)
            for name, tasks in HELD.items()
        }
        return federation, sites, get_state(model)

    return build


def outcome(folder: Path, grid: LocalGrid, federation: Federation, initial: Arrays) -> tuple[Arrays, list[Any]]:
    with Store.open(f"sqlite:///{folder / 'c.db'}", checkpoints=folder / "checkpoints") as store:
        run_id = run_on(grid, federation, initial, store)
        last = store.last_round(run_id)
        assert last == federation.rounds.count
        rows = [
            (row["round"], row["split"], row["institution"], row["metric"], row["value"])
            for row in store.rows(scores, run_id)
        ]
        return pack_state(store.load_checkpoint(run_id, last)), rows


@pytest.mark.parametrize(
    "tables",
    [
        {"rounds": {"weighting": "equal"}, "training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0}},
        {"rounds": {"method": "fedex"}, "wire": {"up": "top-k", "top_k": 0.2}},  # the frozen weights move
        {"rounds": {"method": "fedsa"}},  # B stays at home
    ],
    ids=["scaffold", "fedex", "fedsa"],
)
def test_results_are_those_of_one_process_to_the_bit(start: Start, tmp_path: Path, tables: dict[str, Any]) -> None:
    found = []
    for workers in (1, 2):
        federation, sites, initial = start(**tables)
        folder = tmp_path / str(workers)
        folder.mkdir()
        warm(sites.values())
        with open_grid(sites, workers) as grid:
            assert isinstance(grid, WorkerGrid) == (workers > 1)
            found.append(outcome(folder, grid, federation, initial))
    (one, scores_of_one), (two, scores_of_two) = found
    assert scores_of_one == scores_of_two
    assert one.keys() == two.keys()
    assert any(np.any(array != 0) for array in one.values())
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_a_killed_worker_ends_the_run_in_one_sentence_and_nothing_is_left(start: Start, tmp_path: Path) -> None:
    federation, sites, initial = start()
    with (
        Store.open(f"sqlite:///{tmp_path / 'c.db'}", checkpoints=tmp_path / "checkpoints") as store,
        open_grid(sites, 3) as grid,
    ):
        assert isinstance(grid, WorkerGrid)
        doomed = grid.workers[1].process.pid
        assert doomed is not None

        def kill(line: str) -> None:
            if line.startswith("Round 1 "):
                os.kill(doomed, signal.SIGKILL)

        said = r"worker 2 of 3 .* its 1 institutions .* killed by SIGKILL; .*--workers"
        with pytest.raises(ProcessError, match=said):
            run_on(grid, federation, initial, store, kill)
    assert not any(worker.process.is_alive() for worker in grid.workers)


def test_a_fault_of_one_institution_is_its_own_alone(start: Start, tmp_path: Path) -> None:
    federation, sites, initial = start(rounds={"quorum": 1, "count": 1})
    object.__setattr__(sites["bank"], "memory", None)  # its work raises
    with open_grid(sites, 2) as grid, Store.open(f"sqlite:///{tmp_path / 'c.db'}", checkpoints=tmp_path) as store:
        said: list[str] = []
        run_on(grid, federation, initial, store, said.append)
    assert any(line.startswith("bank refused") for line in said)
    assert "The run has completed" in said


def test_shares_cost_alike_and_keep_their_order() -> None:
    costs = {1: 1.0, 2: 9.0, 3: 5.0, 4: 4.0, 5: 1.0}
    assert share_out(costs, 2) == [[1, 2], [3, 4, 5]]
    assert share_out({1: 1.0}, 4) == [[1]]
    assert 1 <= default_workers(2) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_command(
    tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]], tmp_path: Path, number: int
) -> None:
    federation = tiny_federation(HELD, rounds={"count": 500}).model_dump(mode="json", exclude_none=True)
    held = {
        name: {
            task: {key: str(value) for key, value in source if key in ("train", "validation", "test") and value}
            for task, source in split_data(name, tasks).items()
        }
        for name, tasks in HELD.items()
    }
    file = tmp_path / "experiment.toml"
    file.write_text(tomli_w.dumps({"baselines": [], "federation": federation, "institutions": held}))
    said, says = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=simulate, args=(file, says))
    process.start()
    os.close(says)
    with os.fdopen(said) as lines:
        assert any("Round 1 " in line for line in lines)
        pid = process.pid
        assert pid
        assert len(group(pid)) == 3
        if number == signal.SIGINT:
            os.killpg(pid, number)  # as a terminal does
        else:
            os.kill(pid, number)
        process.join(20)
    assert process.exitcode
    deadline = time.monotonic() + 20
    while (left := group(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert left == []


def simulate(file: Path, says: int) -> None:
    """The command, as it is typed at a terminal, in a process of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
    os.dup2(says, 2)
    os.close(says)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["collegium", "simulate", str(file), "--workers", "2"]
    main()


def group(number: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, group = entry.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(group) == number and state != "Z":
            found.append(int(entry.parent.name))
    return found
