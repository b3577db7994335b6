"""What layers that lose components (`adapter.type = "adalora"`) cannot be combined with, and why."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.federation import Federation


def wrong_pruning(federation: "Federation") -> list[str]:
    """Everything that `adapter.type = "adalora"` cannot work with, one clause each."""
    adapter, rounds, personal, wrong = federation.adapter, federation.rounds, federation.personal, []
    if adapter.type != "adalora":
        return []
    if federation.method_name != "fedavg":
        wrong.append(
            f"rounds.method must be 'fedavg', which trains both factors of a component and leaves it in its place, not "
            f"{federation.method_name!r}"
        )
    if len(adapter.ranks) > 1:
        wrong.append("adapter.min_rank must not be given: the layers' ranks are everybody's")
    if personal and "B" in personal.keep:
        wrong.append('personal.keep must not hold "B", since both factors of a component are pruned together')
    if federation.privacy:
        wrong.append("[privacy] must not be given, since importance is computed from the gradients of the records")
    if federation.secure_aggregation:
        wrong.append("[secure_aggregation] must not be given, since every institution tells its importance by itself")
    if rounds.patience:
        wrong.append(f"rounds.patience must be 0, since ranks are pruned up to the end, not {rounds.patience}")
    if adapter.warmup_rounds + adapter.final_rounds > rounds.count:
        wrong.append(
            f"adapter.warmup_rounds and adapter.final_rounds must be at most rounds.count, {rounds.count}, together, "
            f"not {adapter.warmup_rounds} and {adapter.final_rounds}"
        )
    return [f"with adapter.type 'adalora', {clause}" for clause in wrong]
