"""Institutions that train at once: what each does is what it does alone, whoever else is in the group."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from client.train.gradients import Losses, Pass, alone
from collegium.__main__ import app
from server.store import Store, scores
from shared.adapter import get_state, tensors
from shared.codec import Arrays
from shared.errors import QuorumError
from shared.federation import Federation
from shared.model.lora import frozen, lora_layers
from shared.model.multitask import build_model
from shared.state import pack_state
from simulations.engine import LocalGrid, group, run_on
from simulations.engine.group import Draws, GroupGrid, go_together

HELD = {
    "hospital": ("clauses", "entities", "notes_qa"),
    "clinic": ("entities",),
    "law_firm": ("clauses",),
    "bank": ("entities", "clauses"),
}
LIMITS = {"hospital": None, "clinic": 2, "law_firm": None, "bank": 5}
"""Uneven numbers of records, and so of steps."""
Start = Callable[..., tuple[Federation, dict[str, Site], Arrays]]
Run = tuple[list[Arrays], list[Any], list[str]]
"""The state after every round, all scores, and what was said."""


@pytest.fixture
def start(tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]) -> Start:
    def build(**tables: Any) -> tuple[Federation, dict[str, Site], Arrays]:
        training = {"batch_tokens": 100, "epochs_per_round": 2} | tables.pop("training", {})
        federation = tiny_federation(HELD, training=training, **tables)
        model = build_model(federation)
        sites = {}
        for name, tasks in HELD.items():
            data = split_data(name, tasks)
            data = {task: source.model_copy(update={"limit": LIMITS[name]}) for task, source in data.items()}
            sites[name] = build_site(Institution(name=name, data=data), federation, model)
        return federation, sites, get_state(model)

    return build


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many institutions were in each pass."""
    found: list[int] = []
    pass_together = group.pass_together

    def counted(passes: Sequence[Pass], draws: Sequence[Draws]) -> list[Losses]:
        found.append(len(passes))
        return pass_together(passes, draws)

    monkeypatch.setattr(group, "pass_together", counted)
    return found


def outcome(folder: Path, grid: LocalGrid, federation: Federation, initial: Arrays) -> Run:
    folder.mkdir()
    said: list[str] = []
    with Store.open(f"sqlite:///{folder / 'c.db'}", checkpoints=folder / "checkpoints") as store:
        run_id = run_on(grid, federation, initial, store, said.append)
        last = store.last_round(run_id)
        assert last == federation.rounds.count
        states = [pack_state(store.load_checkpoint(run_id, number)) for number in range(last + 1)]
        rows = [
            (row["round"], row["split"], row["institution"], row["task"], row["metric"], row["value"])
            for row in store.rows(scores, run_id)
        ]
        return states, rows, said


def compare(one: Run, other: Run) -> None:
    (states, rows, _), (others, other_rows, _) = one, other
    assert [row[:-1] for row in rows] == [row[:-1] for row in other_rows]
    assert [row[-1] for row in rows] == pytest.approx([row[-1] for row in other_rows], abs=1e-4)
    assert any(np.abs(states[-1][name] - states[0][name]).max() > 1e-3 for name in states[0])
    for state, again in zip(states, others, strict=True):
        assert state.keys() == again.keys()
        for name, array in products(state).items():
            np.testing.assert_allclose(array, products(again)[name], atol=1e-4, rtol=0, err_msg=name)


def products(state: Arrays) -> Arrays:
    """The state, but of steps of the frozen weights the products: their factors are one choice of many."""
    steps = {name.removesuffix(".A") for name in state if name.startswith("base/") and name.endswith(".A")}
    moved = {layer: state[f"{layer}.B"] @ state[f"{layer}.A"] for layer in steps}
    return {name: array for name, array in state.items() if not name.startswith("base/")} | moved


@pytest.mark.parametrize(
    "tables",
    [
        {"training": {"head_dropout": 0.3, "proximal_mu": 0.1}},
        {"rounds": {"method": "fedex"}, "training": {"combine": "uncertainty"}},  # the frozen weights move
        pytest.param({"rounds": {"method": "rolora"}, "training": {"combine": "dwa"}}, marks=pytest.mark.slow),
        pytest.param({"rounds": {"method": "fed-sb"}}, marks=pytest.mark.slow),
        pytest.param(
            {"rounds": {"weighting": "equal"}, "training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0}},
            marks=pytest.mark.slow,
        ),
        {"rounds": {"method": "fedsa"}, "adapter": {"layers": "top-1", "target_modules": "query,value"}},
    ],
    ids=["dropout", "fedex", "rolora", "fed-sb", "scaffold", "fedsa"],
)
def test_results_are_those_of_one_after_the_other(
    start: Start, tmp_path: Path, sizes: list[int], tables: dict[str, Any]
) -> None:
    federation, sites, initial = start(**tables)
    alone = outcome(tmp_path / "alone", LocalGrid(sites), federation, initial)
    assert sizes == []
    federation, sites, initial = start(**tables)
    at_once = outcome(tmp_path / "at-once", GroupGrid(sites, 3), federation, initial)
    compare(alone, at_once)
    assert set(sizes) == {1, 2, 3}  # whoever has fewer steps leaves; the fourth institution is alone


def test_in_bfloat16_a_pass_is_as_near_as_rounding_is(start: Start) -> None:
    _, sites, _ = start(training={"precision": "bfloat16", "head_dropout": 0.0})
    model, training = sites["hospital"].model, sites["hospital"].federation.training
    twins = [model.twin() for _ in sites]
    for number, twin in enumerate(twins):
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in tensors(twin).values():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    passes = [
        Pass(twin, twin.collate(site.examples("train")), {"clauses": 0.5}, training)
        for twin, site in zip(twins, sites.values(), strict=True)
    ]
    group.pass_together(passes, [Draws(model.device) for _ in passes])
    together = gradients(twins)
    for rows in passes:
        rows.model.zero_grad()
        alone(rows)
    for name, gradient in gradients(twins).items():
        assert float((together[name] - gradient).norm() / gradient.norm()) < 0.03, name


def test_nothing_is_read_back_from_the_device(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's `meta` device, which has shapes and no values: whatever asks for one raises."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # `meta` knows no such thing
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    _, sites, _ = start()
    model = sites["hospital"].model.to("meta")
    passes = [
        Pass(twin := model.twin(), twin.collate(site.examples("train")), {}, site.federation.training)
        for site in sites.values()
    ]
    found = group.pass_together(passes, [Draws(model.device) for _ in passes])
    assert [set(losses) for losses in found] == [set(held) for held in HELD.values()]
    assert {values.device.type for losses in found for values in losses.values()} == {"meta"}


def gradients(models: Sequence[torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"{number} {name}": parameter.grad.clone()
        for number, model in enumerate(models)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_a_twin_is_its_own_but_for_the_frozen_weights(start: Start) -> None:
    _, sites, initial = start()
    model = sites["bank"].model
    twin = model.twin()
    assert get_state(twin).keys() == initial.keys()
    own = {parameter.data_ptr() for parameter in tensors(model).values()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in tensors(twin).values())
    others = [parameter for parameter in model.parameters() if parameter.data_ptr() not in own]
    assert {id(parameter) for parameter in others} < {id(parameter) for parameter in twin.parameters()}
    name, layer = next(iter(lora_layers(model.encoder).items()))
    before = frozen(layer).weight.detach().clone()
    step = np.ones((len(before), 1), np.float32), np.ones((1, before.shape[1]), np.float32)

    def move_and_fail() -> None:
        with twin.base.unless_refused():
            twin.base.move({name: step}, since="", version="run:1")
            raise ValueError("a fault of its own")

    with model.base.unless_refused(), pytest.raises(ValueError, match="of its own"):
        move_and_fail()
    assert model.base.version == "run:1"  # the others go on with it
    torch.testing.assert_close(frozen(layer).weight, before + 1)


@pytest.mark.parametrize(
    "tables",
    [
        {"training": {"combine": "pcgrad"}},
        {"training": {"combine": "gradnorm"}},
        {"training": {"adversarial_epsilon": 0.5}},
        {"adapter": {"dropout": 0.1}},
        {"rounds": {"method": "heads"}},
    ],
    ids=["pcgrad", "gradnorm", "adversarial", "dropout", "heads"],
)
def test_what_needs_more_than_a_pass_goes_one_after_the_other(
    start: Start, tmp_path: Path, sizes: list[int], tables: dict[str, Any]
) -> None:
    federation, sites, initial = start(**{"rounds": {"count": 1}, **tables})
    assert not any(map(go_together, sites.values()))
    outcome(tmp_path / "group", GroupGrid(sites, 4), federation, initial)
    assert sizes == []


def test_a_fault_of_one_institution_is_its_own_alone(start: Start, tmp_path: Path) -> None:
    runs: list[Run] = []
    for kind in (LocalGrid, lambda sites: GroupGrid(sites, 4)):
        federation, sites, initial = start(rounds={"quorum": 1, "count": 1})
        object.__setattr__(sites["clinic"], "memory", None)  # its work raises
        runs.append(outcome(tmp_path / str(len(runs)), kind(sites), federation, initial))
        assert any("clinic" in line for line in runs[-1][2])
    compare(*runs)


def test_a_pass_that_fails_is_told_to_everybody_in_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> list[Losses]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(group, "pass_together", fail)
    federation, sites, initial = start(rounds={"quorum": 1, "count": 1})
    with (
        Store.open(f"sqlite:///{tmp_path / 'c.db'}", checkpoints=tmp_path / "c") as store,
        pytest.raises(QuorumError),
    ):
        run_on(GroupGrid(sites, 4), federation, initial, store)


@pytest.mark.parametrize("options", [["--workers", "2"], ["--search", "task-weights"], ["--backend", "ray"]])
def test_a_group_is_of_one_process(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["simulate", "experiment.toml", "--group", "4", *options])
    assert done.exit_code == 1
    assert "Expected --group without --workers, --search and --backend ray" in str(done.exception)
