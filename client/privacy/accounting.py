"""What DP-SGD costs: epsilon of any sequence of subsampled Gaussian mechanisms, and the noise for a target.

The unit that is added or removed is whatever is Poisson-sampled and clipped: the owner, or the record where there is no
owner column. The reported figure is the upper bound of the numerical composition of privacy loss random variables (PRV;
Gopi, Lee and Wutschitz 2021, arXiv 2106.02848) as opacus computes it. Renyi DP (Mironov, Talwar and Zhang 2019, arXiv
1908.10530; conversion of Balle et al. 2020, arXiv 1905.09982) is looser, and checks it. Both are pure functions of the
mechanisms: nothing here counts steps by itself. Where nothing is subsampled, composition is exact (`gaussian`).
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from client.privacy import gaussian
from shared.errors import ConfigError

Orders = tuple[float, ...]
_ORDERS: Orders = (
    *(1 + x / 10 for x in range(1, 20)),
    *(x / 4 for x in range(12, 44)),
    *(*range(11, 64), 80, 96, 128, 192, 256, 384, 512, 768, 1024),
)
"""Renyi orders tried: a finer raster changes epsilon by less than 0.5 %; the large ones are for small epsilons."""
_FEW_ORDERS: Orders = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
"""An upper bound as well, within a tenth of the time."""
_RELATIVE_ERROR = 0.002
"""How much PRV's bound on its own discretisation error may add to epsilon."""
_LEAST_ERROR = 5e-4
"""The same, in absolute terms, for the smallest epsilons."""
_GRID_POINTS = 1_000_000
"""At most about this many points of PRV's grid: memory and time against tightness; the result stays an upper bound."""
_NOISE_PRECISION = 5e-4
"""The noise found for a target is at most this fraction above the least that meets it."""
_MOST_NOISE = 1e5


@dataclass(frozen=True, order=True)
class Mechanism:
    """The subsampled Gaussian mechanism, some steps of it; neighbours differ by one added or removed unit."""

    noise_multiplier: float
    """Standard deviation of the noise on the sum, divided by the clipping bound; 0 is no privacy."""
    sampling_rate: float
    """Probability of each unit to be in a step's batch, independently of all others (Poisson sampling)."""
    steps: int

    def __post_init__(self) -> None:
        if not (0 <= self.noise_multiplier < math.inf and 0 < self.sampling_rate <= 1 and self.steps >= 0):
            raise ValueError(f"expected noise >= 0, a sampling rate in (0, 1] and steps >= 0, not {self}")


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of all mechanisms together, in whatever order they ran: an upper bound, 0.0 for none, inf without noise.

    Exact where every sampling rate is 1. Else PRV's bound, at most 0.2 % above its own estimate unless there are very
    many steps; where its grid does not hold the mechanisms, and where it is the smaller one, the bound of Renyi DP.
    """
    _check_delta(delta)
    merged = _merge(mechanisms)
    if all(each.sampling_rate == 1 for each in merged):
        return gaussian.epsilon_of(_mu(merged), delta)
    return _prv(merged, delta)


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The same by Renyi DP: an upper bound as well, typically 5 to 25 % above, within a few milliseconds."""
    _check_delta(delta)
    return _rdp(_merge(mechanisms), delta)


@lru_cache(maxsize=256)
def noise_multiplier_for(target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier whose `epsilon` over all steps is at most the target, to 0.05 % and on the safe side.

    Raises:
        ConfigError: No noise within reason meets the target.
    """
    if sampling_rate == 1:
        return math.sqrt(steps) / gaussian.mu_for(target_epsilon, delta)

    def meets(measure: Callable[[Sequence[Mechanism], float], float], noise: float) -> bool:
        return measure([Mechanism(noise, sampling_rate, steps)], delta) <= target_epsilon

    def above(mechanisms: Sequence[Mechanism], delta: float) -> float:
        return _rdp(_merge(mechanisms), delta, _FEW_ORDERS)

    high = 0.125
    while not meets(above, high):
        high *= 2
        if high > _MOST_NOISE:
            raise ConfigError(
                f"Expected a target epsilon that noise can meet at delta {delta:g}, but {target_epsilon:g} is too "
                f"small; raise epsilon."
            )
    from scipy.optimize import brentq

    low = high / 2
    # Renyi DP of few orders is cheap and looser, so its answer brackets the one sought from above, which lies a few
    # percent below.
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if meets(above, middle) else (middle, high)
    low = 0.9 * high
    while meets(epsilon, low):
        low, high = 0.9 * low, low

    def excess(log_noise: float) -> float:
        return math.log(epsilon([Mechanism(math.exp(log_noise), sampling_rate, steps)], delta) / target_epsilon)

    noise = math.exp(brentq(excess, math.log(low), math.log(high), xtol=_NOISE_PRECISION / 2))
    while not meets(epsilon, noise):
        noise *= 1 + _NOISE_PRECISION / 2
    return noise


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta between 0 and 1, not {delta}")


def _merge(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """One mechanism per noise and rate, sorted: composition does not know order, and equal questions are cached."""
    steps = Counter[tuple[float, float]]()
    for mechanism in mechanisms:
        steps[mechanism.noise_multiplier, mechanism.sampling_rate] += mechanism.steps
    return tuple(sorted(Mechanism(*key, count) for key, count in steps.items() if count))


def _mu(mechanisms: Sequence[Mechanism]) -> float:
    """Of all together, none of them subsampled; see `gaussian`."""
    if any(each.noise_multiplier == 0 for each in mechanisms):
        return math.inf
    return math.sqrt(sum(each.steps / each.noise_multiplier**2 for each in mechanisms))


@lru_cache(maxsize=4096)
def _prv(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    bound = _rdp(mechanisms, delta)
    if not mechanisms or not math.isfinite(bound):
        return bound
    # Gopi et al.: the grid's reach by remark 5.6, its mesh by theorem 5.5.
    delta_error = delta / 1000
    steps = [mechanism.steps for mechanism in mechanisms]
    longest = max(_rdp((replace(each, steps=1),), delta_error / (8 * sum(steps))) for each in mechanisms)
    reach = max(_rdp(mechanisms, delta_error / 4), longest) + 3
    spread = math.sqrt(sum(steps) * math.log(12 / delta_error) / 2)
    error = max(_RELATIVE_ERROR * bound, _LEAST_ERROR, 2 * reach * spread / _GRID_POINTS)
    if error >= bound:
        return bound
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    try:
        with np.errstate(divide="ignore", over="ignore", invalid="raise"):
            grid = Domain.create_aligned(-reach, reach, error / spread)
            losses = [PoissonSubsampledGaussianPRV(each.sampling_rate, each.noise_multiplier) for each in mechanisms]
            discrete = [
                discretize(TruncatedPrivacyRandomVariable(each, grid.t_min, grid.t_max), grid) for each in losses
            ]
            composed = compose_heterogeneous(discrete, steps)
            _, _, found = composed.compute_epsilon(delta, delta_error, error)
    except (RuntimeError, ValueError, FloatingPointError):  # the grid does not hold these mechanisms
        return bound
    return min(float(found), bound) if math.isfinite(found) else bound


@lru_cache(maxsize=4096)
def _rdp(mechanisms: tuple[Mechanism, ...], delta: float, orders: Orders = _ORDERS) -> float:
    if not mechanisms:
        return 0.0
    if any(mechanism.noise_multiplier == 0 for mechanism in mechanisms):
        return math.inf
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum(each.steps * _rdp_of_step(each.noise_multiplier, each.sampling_rate, orders) for each in mechanisms)
    with warnings.catch_warnings():
        # Where the best order is the first or last, the bound is loose, not wrong.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        found, _ = get_privacy_spent(orders=orders, rdp=total, delta=delta)
    return max(0.0, float(found)) if math.isfinite(found) else math.inf


@lru_cache(maxsize=1024)
def _rdp_of_step(noise_multiplier: float, sampling_rate: float, orders: Orders) -> NDArray[np.float64]:
    from opacus.accountants.analysis.rdp import compute_rdp

    found = compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders)
    return np.asarray(found, dtype=np.float64)
