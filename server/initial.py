"""The model before the first round, made by a process of its own: making it takes torch, which the coordinator lacks.

    python -m server.initial FOLDER

reads FOLDER/federation.toml, writes FOLDER/initial.safetensors, or FOLDER/error with the reason why not, and ends.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import load_file

from server.home import HOME_VARIABLE
from server.store import Store, runs
from shared.adapter import get_state, task_of
from shared.codec import Arrays, as_safetensors
from shared.errors import CollegiumError, ConfigError, ProcessError, StoreError, joined, listed
from shared.federation import Federation, federation_toml, load_federation
from shared.federation.changes import describe_changes
from shared.model.lowrank import add_up
from shared.process.flower import python_environment
from shared.process.memory import loading
from shared.state import State

AGREEMENT, STATE, ERROR = "federation.toml", "initial.safetensors", "error"

Announce = Callable[[str], None]


def initial_state(store: Store, run: str, federation: Federation, announce: Announce) -> Arrays:
    """What a run begins with: as an earlier run with the same model began, else made anew.

    An agreement of more rounds or other institutions has the same model (`what_it_begins_with`).

    Raises:
        ConfigError: The backbone is missing or not the agreed one, or the agreement does not fit it.
        ProcessError: The process that makes it was killed, for example for want of memory.
    """
    for row in reversed(store.rows(runs)):
        earlier = str(row["run"])
        if earlier == run or row["parent"] is not None or store.last_round(earlier) is None:
            continue
        with suppress(StoreError, ConfigError):  # its file is gone or damaged, or another release agreed on it
            if what_it_begins_with(store.agreement(earlier)) == what_it_begins_with(federation):
                state = store.load_checkpoint(earlier, 0).model
                announce(f"The initial state is that of run {earlier}, which had the same model")
                return state
    announce(f"Making the initial state with {federation.backbone.name}")
    return make_initial_state(federation)


def what_it_begins_with(federation: Federation) -> tuple[object, ...]:
    """All of an agreement that the shared model before the first round depends on."""
    drawn = federation.seed, federation.backbone.sha256, federation.adapter, federation.tasks
    return *drawn, federation.method_name, federation.personal


def inherited_state(store: Store, run: str, federation: Federation, announce: Announce) -> State:
    """What a run begins with that goes on from an earlier run's state.

    Tasks that are the same in both agreements keep their heads, others begin with fresh ones. What the earlier run has
    added to the frozen weights is the first step of this one. What a server optimizer remembers begins anew.

    Raises:
        ConfigError: As `check_inheritance` and `initial_state`.
        StoreError: The state is gone or damaged.
    """
    row = store.run(run)
    parent, round = str(row["parent"]), int(row["parent_round"])
    before = store.agreement(parent)
    check_inheritance(before, federation, parent)
    fresh, old = initial_state(store, run, federation, announce), store.load_checkpoint(parent, round).model
    same = {task for task, spec in federation.tasks.items() if before.tasks.get(task) == spec}
    model = {
        name: old[name] if name in old and ((task := task_of(name)) is None or task in same) else array
        for name, array in fresh.items()
    }
    if wrong := [name for name, array in model.items() if array.shape != fresh[name].shape]:
        raise ConfigError(f"Expected the adapter of run {parent}, but {listed(wrong)} differ; start a new run.")
    folded = range(round + 1) if before.method.folds else ()
    return State(model, steps=add_up([store.load_checkpoint(parent, number).steps for number in folded]))


def check_inheritance(before: Federation, federation: Federation, parent: str) -> None:
    """Raise ConfigError unless a run under one agreement can go on from the state of a run under another."""
    wrong = [line for line in describe_changes(before, federation) if line.startswith(("adapter.", "backbone.sha256"))]
    if wrong:
        raise ConfigError(
            f"Expected the adapter and the backbone of run {parent}, from whose state to go on, but the agreement "
            f"differs: {joined(wrong, '; ')}; agree on the same, or start a new run."
        )
    if before.method.folds and not federation.method.folds:
        raise ConfigError(
            f'Expected a method that moves the frozen weights, as "{before.method_name}" of run {parent} has done, not '
            f'"{federation.method_name}"; agree on another one, or start a new run.'
        )
    for agreed in (before, federation):
        if agreed.method.keeps or agreed.adapter.prunes:
            what = "parts of the model stay at home" if agreed.method.keeps else "components are pruned round by round"
            raise ConfigError(f"Expected a state that is whole, but {what}; resume run {parent}, or start a new one.")


def make_initial_state(federation: Federation) -> Arrays:
    """Have a child process make the state; raises as `initial_state`."""
    with tempfile.TemporaryDirectory(prefix="collegium-initial-") as name:
        folder = Path(name)
        (folder / AGREEMENT).write_text(federation_toml(federation), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "server.initial", name],
            env={**os.environ, **python_environment()},
            cwd=os.environ.get(HOME_VARIABLE),  # from which a relative name of a backbone starts, as in its file
            stdout=subprocess.DEVNULL,  # this process's own is a pipe of Flower's
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if (folder / ERROR).exists():
            raise ConfigError((folder / ERROR).read_text(encoding="utf-8"))
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ProcessError(
                f"Expected the initial state, but the process that makes it ended with {ended.returncode}: {last}; "
                "where that is -9, give the machine 1 GB of memory."
            )
        return load_file(folder / STATE)


def main(folder: Path) -> None:
    """Make the initial state of the agreement in a folder."""
    try:
        with loading():
            from shared.model.multitask import build_model

            state = get_state(build_model(load_federation(folder / AGREEMENT)))
    except CollegiumError as error:
        (folder / ERROR).write_text(str(error), encoding="utf-8")
        return
    (folder / STATE).write_bytes(as_safetensors(state))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
