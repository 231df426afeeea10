"""Student's t distribution in a few lines, so that significance tests need no statistics package."""

from __future__ import annotations

import math

__all__ = ["two_sided_p", "two_sided_quantile"]

_TINY = 1e-300  # keeps Lentz's method off a division by zero


def two_sided_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for `freedom` >= 1 degrees of freedom.

    Equal to the regularised incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2).

    Args:
        t: the statistic; infinite gives 0.
        freedom: degrees of freedom.
    """
    if math.isinf(t):
        return 0.0
    square = t * t
    return _incomplete_beta(freedom / (freedom + square), square / (freedom + square), freedom / 2, 0.5)


def two_sided_quantile(confidence: float, freedom: int) -> float:
    """The q with P(|T| <= q) = `confidence`, by bisection of `two_sided_p`.

    Args:
        confidence: in (0, 1).
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 1 - confidence:
        high *= 2
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """I_x(a, b) with `complement` = 1 - x, given apart because it may be too small to be had from x."""
    if x <= 0 or complement <= 0:
        return 0.0 if x <= 0 else 1.0
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    # the continued fraction converges fast below the mean only; above it the symmetry I_x(a,b) = 1 - I_{1-x}(b,a) helps
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_scale) * _fraction(x, a, b) / a
    return 1 - math.exp(log_scale) * _fraction(complement, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or _TINY)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or _TINY)
            c = (1 + term / c) or _TINY
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
