"""Flower's Simulation Runtime: any actor may answer for any institution, and results are those of one process."""

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from client.institution import Data
from server.store import Store
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import ConfigError, ProcessError
from shared.federation import Federation
from shared.flower.simulation import PARTITION_ID_KEY, LinkStateFactory
from shared.model.multitask import build_model
from shared.state import pack_state
from simulations.engine import LocalGrid, cluster, run_on
from simulations.engine.actor import Actor, InstitutionApp
from simulations.engine.cluster import check_cluster, open_cluster
from simulations.experiment import Experiment, open_sites

HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities",)}
Write = Callable[..., Experiment]
REMEMBERED: dict[str, dict[str, Any]] = {
    "scaffold": {
        "rounds": {"weighting": "equal"},
        "training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0},
    },
    "fedex": {"rounds": {"method": "fedex", "count": 3}, "wire": {"up": "top-k", "top_k": 0.2}},  # weights move
    "fedsa": {"rounds": {"method": "fedsa"}},  # B stays at home
    "balance": {"training": {"combine": "dwa"}, "rounds": {"count": 3}},
}


@pytest.fixture
def write(tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]) -> Write:
    def build(**tables: Any) -> Experiment:
        institutions = {name: split_data(name, tasks) for name, tasks in HELD.items()}
        return Experiment(federation=tiny_federation(HELD, **tables), institutions=institutions, baselines=())

    return build


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: object())


def outcome(folder: Path, grid: Any, experiment: Experiment, initial: Arrays) -> Arrays:
    folder.mkdir()
    with Store.open(f"sqlite:///{folder / 'c.db'}", checkpoints=folder / "checkpoints") as store:
        run_id = run_on(grid, experiment.federation, initial, store)
        last = store.last_round(run_id)
        assert last == experiment.federation.rounds.count
        return pack_state(store.load_checkpoint(run_id, last))


def assert_same(experiment: Experiment, folder: Path) -> None:
    """The last state is that of one process, to the bit."""
    model = build_model(experiment.federation)
    initial = get_state(model)
    one = outcome(folder / "one", LocalGrid(open_sites(experiment, model)), experiment, initial)
    with open_cluster(experiment, folder, workers=2) as grid:
        other = outcome(folder / "other", grid, experiment, initial)
    assert one.keys() == other.keys()
    assert any(np.any(array != 0) for array in one.values())
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def in_turns(answer: Callable[[Message, Context], Message]) -> Callable[..., None]:
    """A runtime in the place of Flower's, by its arguments; contexts and messages go through pickle, as with Ray."""

    def serve(
        *,
        f_stop: threading.Event,
        run: Any,
        state_factory: LinkStateFactory,
        existing_nodes_mapping: Mapping[int, int],
        **_: object,
    ) -> None:
        state = state_factory.state()
        contexts = {
            node: Context(run.run_id, node, {PARTITION_ID_KEY: place}, RecordDict(), {})
            for node, place in existing_nodes_mapping.items()
        }
        while not f_stop.is_set():
            for node in reversed(existing_nodes_mapping):  # replies come in another order
                for message in state.get_message_ins(node_id=node, limit=1):
                    context = pickle.loads(pickle.dumps(contexts[node]))
                    reply = pickle.loads(pickle.dumps(answer(pickle.loads(pickle.dumps(message)), context)))
                    contexts[node] = context
                    reply.metadata.__dict__["_message_id"] = f"reply-{message.metadata.message_id}"
                    assert state.store_message_res(reply)
            time.sleep(0.001)

    return serve


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("tables", REMEMBERED.values(), ids=REMEMBERED)
def test_memory_travels_with_the_institution(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any]
) -> None:
    experiment = write(**tables)
    read = Experiment.model_validate_json(experiment.model_dump_json())
    assert read.federation.digest == experiment.federation.digest
    first, late = Actor(read), Actor(read)
    actors = itertools.chain([first] * 12, itertools.cycle([late, first]))  # who is late has missed moves of weights
    monkeypatch.setattr(cluster, "start_vce", in_turns(lambda message, context: next(actors).answer(message, context)))
    assert_same(experiment, tmp_path)


@pytest.mark.usefixtures("installed")
def test_an_actor_that_ends_ends_the_run_in_one_sentence(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(message: Message, _context: Context) -> Message:
        return Message(Error(0, "the actor died"), reply_to=message)

    monkeypatch.setattr(cluster, "start_vce", in_turns(lost))
    experiment = write()
    initial = get_state(build_model(experiment.federation))
    with (
        open_cluster(experiment, tmp_path) as grid,
        pytest.raises(ProcessError, match=r"actors to answer .* one ended: the actor died"),
    ):
        outcome(tmp_path / "run", grid, experiment, initial)


@pytest.mark.usefixtures("installed")
def test_a_runtime_that_ends_ends_the_run_in_one_sentence(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("no processor is free")

    monkeypatch.setattr(cluster, "start_vce", broken)
    experiment = write()
    initial = get_state(build_model(experiment.federation))
    with (
        open_cluster(experiment, tmp_path) as grid,
        pytest.raises(ProcessError, match=r"Simulation Runtime .*no processor is free"),
    ):
        outcome(tmp_path / "run", grid, experiment, initial)


def test_what_cannot_work_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'collegium\[ray\]'"):
        check_cluster(write())
    monkeypatch.setattr(cluster, "find_spec", lambda name: object())
    experiment = write()
    federation = experiment.federation.model_copy(update={"secure_aggregation": object()})
    with pytest.raises(ConfigError, match=r"without \[secure_aggregation\] for --backend ray"):
        check_cluster(experiment.model_copy(update={"federation": federation}))


def test_an_app_travels_as_the_name_of_a_file(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(InstitutionApp(tmp_path / "experiment.json"))).file == tmp_path / "experiment.json"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'collegium[ray]'")
def test_ray_gives_the_results_of_one_process(write: Write, tmp_path: Path) -> None:
    assert torch.get_num_threads() == 1
    assert_same(write(**{**REMEMBERED["fedex"], "rounds": {"method": "fedex", "count": 2}}), tmp_path)
