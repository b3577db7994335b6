"""The Gaussian mechanism without subsampling, exactly: its epsilon however often it ran, and the noise for a target.

Mechanisms with noise multipliers s_i are together one whose mu is sqrt(sum 1 / s_i^2): Gaussian differential privacy
composes so without loss (Dong, Roth and Su 2019, arXiv 1905.02383, corollary 3.3). What (epsilon, delta) a mu gives is
theorem 8 of Balle and Wang 2018 (arXiv 1805.06530).
"""

import math

_TOLERANCE = 1e-10
"""Of epsilon, absolute, and of mu, relative; both are returned on the safe side of it."""


def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon of a mechanism whose sensitivity is `mu` standard deviations of its noise; inf for an infinite mu."""
    if mu == 0 or math.isinf(mu) or _log_delta(0.0, mu) <= math.log(delta):
        return mu if math.isinf(mu) else 0.0
    from scipy.optimize import brentq

    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1  # zero-concentrated privacy's, which is looser
    found = brentq(lambda epsilon: _log_delta(epsilon, mu) - math.log(delta), 0.0, most, xtol=_TOLERANCE)
    return float(found) + 2 * _TOLERANCE


def mu_for(epsilon: float, delta: float) -> float:
    """The largest mu whose epsilon is at most this one."""
    from scipy.optimize import brentq

    least, most = 1e-12, 1.0
    while epsilon_of(most, delta) < epsilon:
        most *= 2
    found = brentq(lambda mu: epsilon_of(mu, delta) - epsilon, least, most, xtol=1e-15, rtol=_TOLERANCE)
    while epsilon_of(found, delta) > epsilon:
        found *= 1 - _TOLERANCE
    return float(found)


def _log_delta(epsilon: float, mu: float) -> float:
    """The logarithm of Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)."""
    from scipy.special import log_ndtr

    first, second = (float(log_ndtr(sign * mu / 2 - epsilon / mu)) for sign in (1, -1))
    gap = epsilon + second - first
    return first + math.log(-math.expm1(gap)) if gap < 0 else -math.inf
