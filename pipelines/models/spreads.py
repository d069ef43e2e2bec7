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
WIDTHS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
"""Degrees of freedom, and factors of the spread, among which the likeliest pair is taken."""
MEMORY = 0.3
"""The level of what is common follows each day by so much."""


def null(away: Array, group: Array, kinds: int) -> dict[str, Array]:
    """From days' distances from their centre [D, S, N]: `sd` [S, N]; `df`, `growth` a day, `carry` [S, G]."""
    sd, told = np.full(away.shape[1:], np.nan), np.zeros((3, away.shape[1], kinds))
    for g in range(kinds):
        mine = np.flatnonzero(group == g)
        for s in range(away.shape[1]):
            sd[s, mine], *told[:, s, g] = _moderated(away[:, s, mine])
    return {"sd": sd, **dict(zip(("df", "growth", "carry"), told, strict=True))}


def together(logs: Array, days: int, carry: Array) -> Array:
    """One p of the p-values of some days running, whose `logs` add up to this: Fisher's method, and where days `carry`
    over to the next (their correlation), that of Brown, 1975, and Kost and McDermott, 2002."""
    from scipy import special

    both = sum((days - lag) * (3.263 * carry**lag + 0.71 * carry ** (2 * lag) + 0.027 * carry ** (3 * lag))
               for lag in range(1, days))  # fmt: skip
    variance, mean = 4 * days + 2 * both, 2 * days
    found: Array = special.chdtrc(2 * mean**2 / variance, -2 * logs * 2 * mean / variance)
    return found


def p_values(away: Array, df: Array) -> Array:
    """Two-sided, of distances in spreads. NaN stays."""
    from scipy import special

    found: Array = 2 * special.stdtr(df, -np.abs(away))
    return found


def _moderated(away: Array) -> tuple[Array, float, float, float]:
    """Of one statistic and kind [D, n]: spreads of a new day [n], heaviness of tails, growth of the variance a day, and
    how a day goes with the next."""
    count = np.isfinite(away).sum(0)
    some = count >= 3
    if not some.any():
        return np.full(away.shape[1], np.nan), TAILS[0], 0.0, 0.0
    free = np.maximum(count - 1, 1)
    own = np.nansum(away**2, axis=0) / free + 1e-6
    prior, days = _prior(own[some], free[some])
    variance = np.where(some, (days * prior + free * own) / (days + free), prior)
    x = _left_out(away[:, some], prior, days)
    _, df, width = max((_likelihood(x, df, width), df, width) for df in TAILS for width in WIDTHS)
    sd = np.sqrt(variance * (1 + 1 / np.maximum(count, 1)))
    return sd * width, df, _growth(away / np.sqrt(variance)), _carry(away / sd)


def _left_out(away: Array, prior: float, days: float) -> Array:
    """Every day's distance from what the other days of its channel say, in spreads that they say, [P].

    A day that has a say in its own spread would never seem far off.
    """
    n = np.maximum(np.isfinite(away).sum(0), 3)
    others = np.maximum(np.nansum(away**2, axis=0) - n / (n - 1) * away**2, 0)
    variance = (days * prior + others) / (days + n - 2) + 1e-6
    found: Array = away * n / (n - 1) / np.sqrt(variance * (1 + 1 / (n - 1)))
    return found[np.isfinite(found)]


def _likelihood(x: Array, df: float, width: float) -> float:
    """The log of that of [P] under a t-distribution of this width."""
    from scipy import special

    whole = special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - np.log(df * np.pi) / 2 - np.log(width)
    return float(len(x) * whole - (df + 1) / 2 * np.log1p((x / width) ** 2 / df).sum())


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


def _carry(z: Array) -> float:
    """The correlation of days [D, n] in spreads with the next ones, 0 or more."""
    z = np.clip(z, -4, 4)
    both, each = z[1:] * z[:-1], z**2
    pairs, count = np.isfinite(both).sum(), np.isfinite(each).sum()
    if pairs < 3:
        return 0.0
    return float(np.clip(np.nansum(both) / pairs / max(np.nansum(each) / count, 1e-9), 0, 0.9))


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
