"""The state moved by the mean that a sum of updates comes to."""

from collections.abc import Collection, Mapping

import numpy as np

from server.aggregation import Diagnostics, Result, fedavg
from server.secagg.round import SecureRound
from shared.adapter import task_of
from shared.errors import QuorumError, joined
from shared.secagg import fixedpoint


def average(
    secure: SecureRound, state: Mapping[str, np.ndarray], clear: np.ndarray, survivors: Collection[str]
) -> Result:
    """The state moved by the sums, each divided by the sum of the weights that came with it.

    Args:
        secure: The round.
        state: What it began with.
        clear: The sums, as integers.
        survivors: Whose updates are in them.

    Raises:
        QuorumError: The weights do not add up to what those institutions weigh, or updates to more than they may be.
    """
    agreed, new, weights = secure.agreed, dict(state), {name: secure.weights[name] for name in survivors}
    sums, weighed = fixedpoint.decode_all(
        clear,
        shapes=secure.shapes,
        weights=next(iter(secure.weights.values())),
        fraction_bits=agreed.fraction_bits,
    )
    slack = len(weights) * 2.0**-agreed.fraction_bits
    for name, total in sums.items():
        whole = weighed[name]
        expected = np.sum([own[name] for own in weights.values()], axis=0)
        most = whole * agreed.clip + slack * (1 + agreed.clip)
        if (np.abs(whole - expected) > slack).any() or (np.abs(total) > most).any():
            raise QuorumError(
                f"Expected a sum of updates within secure_aggregation.clip in round {secure.number}, but that of "
                f"{name} is beyond: somebody's masked update is false. Round {secure.number - 1} is kept; resume the "
                "run, without one institution after the other if it happens again."
            )
        if expected.any():
            moved = total / np.where(expected > 0, np.maximum(whole, slack), 1.0)
            new[name] = (state[name] + np.where(expected > 0, moved, 0.0)).astype(np.float32)
    diagnostics = Diagnostics(
        examples={name: secure.directory[name].examples for name in survivors},
        norms={},
        weights=_adapter_weights(secure, survivors),
        norm=fedavg.step_norm(new, state),
    )
    return Result(new, {}, diagnostics)


def say_what_does_not_move(secure: SecureRound) -> None:
    """Announce heads that too few train to be hidden in a sum: in the first round, and when others are absent."""
    announced = secure.run.announced
    unmoved = {
        task
        for array in secure.shapes
        if (task := task_of(array)) and not any(own[array].any() for own in secure.weights.values())
    }
    for task in sorted(unmoved):
        holders = sorted(name for name in secure.weights if task in secure.directory[name].examples)
        others = [name for name, holdings in announced.items() if task in holdings.records and name not in holders]
        if holders and (secure.number == 1 or others):
            secure.run.say(
                f"Round {secure.number}: the head of {task} is not updated: only {joined(holders)} trains it, "
                "and the sum would be its own update (rounds.max_share = 1 allows that)"
            )


def _adapter_weights(secure: SecureRound, survivors: Collection[str]) -> dict[str, float]:
    """What each institution weighs in the adapter; equal where no adapter is added up."""
    array = next((name for name in secure.shapes if task_of(name) is None), None)
    own = {name: float(secure.weights[name][array].max()) if array else 1.0 for name in survivors}
    return {name: weight / sum(own.values()) for name, weight in own.items()}
