"""The initial state: made in a process of its own, the same as here, once for an agreement; what is wrong is told."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from server.initial import initial_state, main, make_initial_state
from server.store import Store
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import ConfigError, ProcessError
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.state import State

Make = Callable[..., Federation]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints")


@pytest.mark.slow
def test_another_process_makes_what_this_one_would(tiny_federation: Make) -> None:
    federation = tiny_federation(rounds={"method": "fed-sb"})
    made, own = make_initial_state(federation), get_state(build_model(federation))
    assert made.keys() == own.keys()
    assert all(np.array_equal(made[name], own[name]) for name in own)


def test_it_is_made_once_for_a_model(tiny_federation: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = list[Federation](), list[str]()
    made = {"head/t/bias": np.ones(3, np.float32)}

    def make(agreed: Federation) -> Arrays:
        asked.append(agreed)
        return made

    monkeypatch.setattr("server.initial.make_initial_state", make)
    one, other = tiny_federation(), tiny_federation(seed=99)
    first, second, third = store.create_run(one), store.create_run(one), store.create_run(other)
    initial_state(store, second, one, said.append)
    assert asked == [one], "the first run has not begun"
    store.save_checkpoint(first, 0, State({"head/t/bias": np.zeros(3, np.float32)}))
    longer = tiny_federation(("hospital",), rounds={"count": 9})
    for agreed in (one, longer):
        assert initial_state(store, second, agreed, said.append)["head/t/bias"].tolist() == [0, 0, 0]
        assert said[-1] == f"The initial state is that of run {first}, which had the same model"
    assert initial_state(store, third, other, said.append) is made
    assert said[-1] == f"Making the initial state with {other.backbone.name}"
    others = [
        other,
        tiny_federation(adapter={"rank": 2}),
        tiny_federation(rounds={"method": "fed-sb"}),
        tiny_federation(personal={"keep": ["heads"]}),
        one.model_copy(update={"tasks": dict(list(one.tasks.items())[:1])}),
        one.model_copy(update={"backbone": one.backbone.model_copy(update={"sha256": "0" * 64})}),
    ]
    for agreed in others[1:]:
        assert initial_state(store, third, agreed, said.append) is made
    assert asked == [one, *others]
    for file in (store._folder / first).iterdir():
        file.unlink()
    assert initial_state(store, second, one, said.append) is made, "its file is gone"


def test_what_is_wrong_with_the_agreement_is_told(tiny_federation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        main(Path(arguments[-1]))
        return subprocess.CompletedProcess(arguments, 0, stderr="")

    monkeypatch.setattr("server.initial.subprocess.run", in_this_process)
    right = tiny_federation()
    wrong = right.model_copy(update={"backbone": right.backbone.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ConfigError, match="with fingerprint 000000000000"):
        make_initial_state(wrong)


def test_a_process_that_is_killed_is_told(tiny_federation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, -9, stderr="so far\n")

    monkeypatch.setattr("server.initial.subprocess.run", killed)
    with pytest.raises(ProcessError, match="ended with -9: so far; where that is -9, give"):
        make_initial_state(tiny_federation())
