"""How far a day may lie from what days were like: the null of every statistic, learnt from few days of many channels.

Spreads are moderated by those of the kind (Smyth, 2004): a channel of three weeks alone knows its own badly. Tails are
as heavy as all channels of a kind together show, by a t-distribution. And a spread grows with the days since, as the
differences between days do that lie farther apart: what wanders is given room to.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TAILS = (2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 30.0)
WIDTHS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Degrees of freedom, and factors of the spread, among which the likeliest pair is taken."""
MEMORY = 0.3
"""The level of what is common follows each day by so much."""


def null(away: Array, group: Array, kinds: int) -> dict[str, Array]:
    """From days' distances from their centre [D, S, N]: `sd` [S, N]; `df` and `growth` a day [S, G]."""
    size = away.shape[1]
    sd, df, growth = np.full(away.shape[1:], np.nan), np.full((size, kinds), TAILS[0]), np.zeros((size, kinds))
    for g in range(kinds):
        mine = np.flatnonzero(group == g)
        for s in range(size):
            sd[s, mine], df[s, g], growth[s, g] = _moderated(away[:, s, mine])
    return {"sd": sd, "df": df, "growth": growth}


def p_values(away: Array, df: Array) -> Array:
    """Two-sided, of distances in spreads. NaN stays."""
    from scipy import stats

    found: Array = 2 * stats.t.sf(np.abs(away), df)
    return found


def _moderated(away: Array) -> tuple[Array, float, float]:
    """Of one statistic and kind [D, n]: spreads of a new day [n], heaviness of tails, growth of the variance a day."""
    from scipy import stats

    count = np.isfinite(away).sum(0)
    some = count >= 3
    if not some.any():
        return np.full(away.shape[1], np.nan), TAILS[0], 0.0
    free = np.maximum(count - 1, 1)
    own = np.nansum(away**2, axis=0) / free + 1e-6
    prior, days = _prior(own[some], free[some])
    variance = np.where(some, (days * prior + free * own) / (days + free), prior)
    sd = np.sqrt(variance * (1 + 1 / np.maximum(count, 1)))
    x = (away / sd)[np.isfinite(away)]
    _, df, width = max((stats.t.logpdf(x / k, df).sum() - len(x) * np.log(k), df, k) for df in TAILS for k in WIDTHS)
    return sd * width, df, _growth(away / np.sqrt(variance))


def _prior(variance: Array, free: Array) -> tuple[float, float]:
    """The variance that those of a kind are scattered around, and how many days of data it is worth."""
    from scipy import optimize, special

    if len(variance) < 3:
        return float(np.exp(np.log(variance).mean())), 2.0
    e = np.log(variance) - special.digamma(free / 2) + np.log(free / 2)
    left = e.var(ddof=1) - special.polygamma(1, free / 2).mean()
    if left <= special.polygamma(1, 500.0):
        return float(np.exp(e.mean())), 1000.0
    half = optimize.brentq(lambda d: special.polygamma(1, d) - left, 0.1, 500) if left < 100 else 0.1
    return float(np.exp(e.mean() + special.digamma(half) - np.log(half))), 2 * half


def _growth(z: Array) -> float:
    """By how much of itself the variance of days [D, n] in spreads grows with each day between; never less than 0.

    The slope of the variogram over lags of up to half the days there are.
    """
    z, lags = np.clip(z, -4, 4), np.arange(1, len(z) // 2 + 1)
    squares = [(z[h:] - z[:-h]) ** 2 for h in lags]
    half = np.array([np.nansum(x) / max(2 * np.isfinite(x).sum(), 1) for x in squares])
    if len(lags) < 3:
        return 0.0
    slope, start = np.polyfit(lags, half, 1)
    return float(max(0.0, slope) / max(start, 0.25))


def steps(common: Array) -> dict[str, Array]:
    """From levels of what is common [D, G]: what they were at last (`held`), by how much a day differs from those
    before it (`step`), and how many days say so (`stepped`)."""
    held, off = np.full(common.shape[1], np.nan), np.full(common.shape, np.nan)
    for d, level in enumerate(common):
        off[d] = level - held
        held = followed(held, level)
    count = np.isfinite(off).sum(0)
    step = np.sqrt(np.nansum(off**2, axis=0) / np.maximum(count, 1)) + 1e-3
    return {"held": held, "step": step, "stepped": count.astype(np.int32)}


def followed(held: Array, level: Array) -> Array:
    """`held` [G] after a day at `level` [G]; a silent day changes nothing."""
    after: Array = np.where(np.isfinite(held), held + MEMORY * (level - held), level)
    return np.where(np.isfinite(level), after, held)


def quantiles(values: Array, levels: Sequence[float] | Array) -> Array:
    """Of each column of [T, N] without its gaps, by linear interpolation, [Q, N]; NaN of an empty one.

    As `np.nanquantile`, which takes a hundred times as long.
    """
    ordered, count = np.sort(values, axis=0), np.isfinite(values).sum(0)
    at = np.asarray(levels)[:, None] * np.maximum(count - 1, 0)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    a, b = (np.take_along_axis(ordered, i, axis=0) for i in (low, high))
    found: Array = a + (at - low) * (b - a)
    return found
