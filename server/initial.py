"""What a run begins with: the initial state of its agreement, or the state that an earlier run has come to."""

from server.store import Store
from shared.adapter import task_of
from shared.errors import ConfigError, joined, listed
from shared.federation import Federation
from shared.federation.changes import describe_changes
from shared.model.initial import initial_state
from shared.model.lowrank import add_up
from shared.state import State


def state_to_begin_with(store: Store, run: str, federation: Federation, backbone: str | None = None) -> State:
    """The model before a run's first round.

    Args:
        store: Where the run is, and the one that it goes on from.
        run: Its id.
        federation: Its agreement.
        backbone: Where this machine keeps the backbone, if not where the federation file says.

    Raises:
        BackboneError, ConfigError: As `shared.model.initial.initial_state` and `check_inheritance`.
        StoreError: The earlier run's state is gone or damaged.
    """
    row = store.run(run)
    if row["parent"] is None:
        return State(initial_state(federation, backbone=backbone))
    parent, round = str(row["parent"]), int(row["parent_round"])
    return _inherited(store, federation, parent, round, backbone)


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


def _inherited(store: Store, federation: Federation, parent: str, round: int, backbone: str | None) -> State:
    """What a run begins with that goes on from an earlier run's state after a round.

    Tasks that are the same in both agreements keep their heads, others begin with fresh ones. What the earlier run has
    added to the frozen weights is the first step of this one. What a server optimizer remembers begins anew.
    """
    before = store.agreement(parent)
    check_inheritance(before, federation, parent)
    fresh, old = initial_state(federation, backbone=backbone), store.load_checkpoint(parent, round).model
    same = {task for task, spec in federation.tasks.items() if before.tasks.get(task) == spec}
    model = {
        name: old[name] if name in old and ((task := task_of(name)) is None or task in same) else array
        for name, array in fresh.items()
    }
    if wrong := [name for name, array in model.items() if array.shape != fresh[name].shape]:
        raise ConfigError(f"Expected the adapter of run {parent}, but {listed(wrong)} differ; start a new run.")
    folded = range(round + 1) if before.method.folds else ()
    return State(model, steps=add_up([store.load_checkpoint(parent, number).steps for number in folded]))
