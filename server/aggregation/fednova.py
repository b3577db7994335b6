"""Averaging per local step (FedNova: Wang et al. 2020, arXiv 2007.07481).

Institutions take different numbers of steps, and under plain averaging whoever takes more pulls the model towards its
own optimum. Here each update is divided by its steps tau_i before it is averaged with the weights p_i, and the mean is
multiplied by the effective number of steps, sum_i p_i tau_i (their equation 9), of the array - or the row of a head -
that it is of. With momentum rho, tau_i is the sum of what the tau_i gradients count for (their section 4.1):

    (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)

Steps are what institutions say. Told too many, they would stretch the whole mean: in the effective number, though not
in the division, they are capped (`server.aggregation.shares`). For AdamW, whose steps are about equally long whatever
the gradient is, tau_i is the number of steps.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from server.aggregation import ClientUpdate, Context, Result, fedavg
from server.aggregation.shares import capped
from shared.adapter import task_of


def gain(steps: int, momentum: float) -> float:
    """What the gradients of so many steps count for together; at least one step's."""
    steps = max(1, steps)
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def apply(state: Mapping[str, np.ndarray], updates: Iterable[ClientUpdate], context: Context) -> Result:
    """Add the normalised mean of the updates to the global state; norms are those of the updates as they came.

    Args:
        state: The global state, float32 arrays by name.
        updates: Consumed one at a time; none is kept.
        context: `max_share` is the most that one institution's steps count for, of those of all.
    """
    momentum = context.momentum
    lengths: list[ClientUpdate] = []

    def divided() -> Iterator[ClientUpdate]:
        for update in updates:
            by = gain(update.steps, momentum)
            ones = {name: np.ones(_length_shape(name, array.shape)) for name, array in update.arrays.items()}
            lengths.append(replace(update, arrays=ones, control={}))
            yield replace(
                update, arrays={name: (array / by).astype(np.float32) for name, array in update.arrays.items()}
            )

    zero = {name: np.zeros_like(array) for name, array in state.items()}
    steps, _, diagnostics = fedavg.apply(zero, divided(), context)
    moved = {name: step for name, step in steps.items() if step is not zero[name]}
    gains = {update.institution: gain(update.steps, momentum) for update in lengths}
    used = capped(gains, context.max_share) if gains else {}
    lengths = [replace(one, arrays={n: a * used[one.institution] for n, a in one.arrays.items()}) for one in lengths]
    none = {name: np.zeros(_length_shape(name, step.shape), np.float32) for name, step in moved.items()}
    effective, *_ = fedavg.apply(none, lengths, context)
    new = {
        name: (array + moved[name].astype(np.float64) * effective[name]).astype(np.float32) if name in moved else array
        for name, array in state.items()
    }
    norms = {name: length * diagnostics.norms[name] for name, length in gains.items()}
    return Result(new, {}, replace(diagnostics, norms=norms, norm=fedavg.step_norm(new, state)))


def _length_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One number for an array of the adapter, one per row of a head."""
    rows = 1 if task_of(name) is None else shape[0]
    return (rows, *(1,) * (len(shape) - 1))
