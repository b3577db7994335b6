"""Server optimizers: the mean update as a gradient (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

With D the mean step of a round's updates, element by element:

    fedavgm      m = beta_1 m + D                  x += learning_rate m    (Hsu et al. 2019, arXiv 1909.06335)
    all others   m = beta_1 m + (1 - beta_1) D     x += learning_rate m / (sqrt(v) + tau), where
    fedadagrad   v += D^2
    fedadam      v = beta_2 v + (1 - beta_2) D^2
    fedyogi      v -= (1 - beta_2) D^2 sign(v - D^2)

m begins at 0 and v at tau^2; there is no bias correction, as in the paper. What nobody could move in a round - the head
of a task without a holder, the rows of labels that nobody annotated, a factor that the method did not train - stays
bitwise as it is and so do its moments: momentum moves an array only in rounds in which somebody trained it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from shared.codec import Arrays
from shared.federation import ServerOptimizer
from shared.state import Moments

SecondMoment = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(v, D^2, beta_2) to the new v."""


def _adagrad(v: np.ndarray, square: np.ndarray, _: float) -> np.ndarray:
    return np.asarray(v + square)


def _adam(v: np.ndarray, square: np.ndarray, beta: float) -> np.ndarray:
    return beta * v + (1 - beta) * square


def _yogi(v: np.ndarray, square: np.ndarray, beta: float) -> np.ndarray:
    return np.asarray(v - (1 - beta) * square * np.sign(v - square))


SECOND_MOMENTS: Mapping[str, SecondMoment] = {"fedadagrad": _adagrad, "fedadam": _adam, "fedyogi": _yogi}


def init(agreed: ServerOptimizer, state: Mapping[str, np.ndarray]) -> Moments:
    """The moments before the first round, float32.

    Args:
        agreed: Which optimizer.
        state: The global state; adapter and heads.
    """
    if agreed.type == "none":
        return Moments()
    squares = {name: np.full_like(array, agreed.tau**2) for name, array in state.items()}
    return Moments(
        {name: np.zeros_like(array) for name, array in state.items()}, squares if agreed.type in SECOND_MOMENTS else {}
    )


def apply(
    agreed: ServerOptimizer,
    moments: Moments,
    state: Mapping[str, np.ndarray],
    new: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
) -> tuple[Arrays, Moments]:
    """Take the step that the optimizer makes of the mean step `new - state`.

    Args:
        agreed: Which optimizer.
        moments: As `init` or the last round's `apply` returned them.
        state: The state before the round, float32.
        new: What averaging made of it.
        moved: By array that somebody may have moved, which of its rows: booleans that broadcast to the array.

    Returns:
        The new state and the new moments, float32; what `moved` leaves out is the very same values.
    """
    after = {name: state.get(name, array) for name, array in new.items()}
    first, second = dict(moments.first), dict(moments.second)
    for name, rows in moved.items():
        mean = new[name].astype(np.float64) - state[name]
        before = first[name].astype(np.float64)
        m = agreed.momentum * before + (1.0 if agreed.type == "fedavgm" else 1 - agreed.momentum) * mean
        step = m
        if agreed.type in SECOND_MOMENTS:
            v = SECOND_MOMENTS[agreed.type](second[name].astype(np.float64), mean**2, agreed.beta_2)
            step = m / (np.sqrt(v) + agreed.tau)
            second[name] = np.where(rows, v.astype(np.float32), second[name])
        first[name] = np.where(rows, m.astype(np.float32), first[name])
        after[name] = np.where(rows, (state[name] + agreed.rate * step).astype(np.float32), state[name])
    return after, Moments(first, second)
