"""Which of the channels that are not as they were are broken: sensors, where not the city has changed.

A sensor that fails breaks its relation to all it went with, and in few ways: it says nothing, or what validate does not
believe, or always the same, or noise; or it is off by one and the same factor or amount at every hour. What a city does
differently it does by the hour, with more at one place and less at another: of channels that are off by a factor the
broken ones are those that all share it, kinds of one sensor alike.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
SILENT = 0.5
"""Of a day's steps missing, beyond what is usual."""
REFUSED = 0.3
"""Of its records in quarantine."""
FLAT = 1 / 6
"""Of a day at one value, which is none that may last."""
LOUDER = 0.4
"""Log of how much rougher noise makes a channel, at least."""
OFF = 0.12
"""A factor differs from 1 at least so much."""
ALIKE = 0.06
"""Factors that differ less are one; amounts, in their channels' spreads, if they differ less than five times this."""
MOST = 0.7
"""Of the channels that have moved must share it to be one failure."""
QUARTERS = 4
"""Of a day, in each of which a factor must be the same."""


class Found(NamedTuple):
    """One day. values, expected: [T, N]; spread [N]; away: distances of `reference.STATISTICS` by name, [N] each."""

    values: Array
    expected: Array
    spread: Array
    away: dict[str, Array]
    missing: Array
    """Share of steps without a reading beyond what is usual, [N]."""
    refused: Array
    """Share of records in quarantine [N]."""
    rests: Mapping[int, tuple[float, ...]]
    sensors: list[str]


def plain(found: Found) -> dict[int, str]:
    """Channels that are broken whatever others do, and why."""
    out = {}
    for i in range(len(found.sensors)):
        if found.refused[i] >= REFUSED:
            out[i] = f"{found.refused[i]:.0%} of its records in quarantine"
        elif found.missing[i] >= SILENT:
            out[i] = f"{found.missing[i]:.0%} of its readings missing"
    return out


def among(found: Found, moved: list[int]) -> dict[int, str]:
    """Which of the channels that have moved are broken, and why."""
    out: dict[int, str] = {}
    for i in moved:
        if stopped := _flat(found.values[:, i], found.rests.get(i, ())):
            out[i] = f"{stopped:.0%} of the day at one value"
        elif _noisy(found, i):
            out[i] = "noise"
    left = [i for i in moved if i not in out]
    out |= _one_factor(found, left)
    return out


def _flat(values: Array, rests: tuple[float, ...]) -> float:
    """Which share of the day it stood at one value that is none of `rests`; 0 below FLAT."""
    seen = values[np.isfinite(values)]
    if len(seen) < 4:
        return 0.0
    changes = np.flatnonzero(np.diff(seen) != 0) + 1
    starts, ends = np.concatenate([[0], changes]), np.concatenate([changes, [len(seen)]])
    runs = [b - a for a, b in zip(starts, ends, strict=True) if not np.isin(seen[a], rests)]
    share = max(runs, default=0) / len(values)
    return share if share >= FLAT else 0.0


def _noisy(found: Found, i: int) -> bool:
    """Rougher from step to step by at least as much as it is wider: what really happens lasts some steps."""
    rough, scale = (found.away[name][i] for name in ("rough", "scale"))
    return bool(rough >= LOUDER and rough >= 0.8 * scale)


def _one_factor(found: Found, moved: list[int]) -> dict[int, str]:
    """Channels that are off by the same factor, or of one kind by the same amount, if few others have moved."""
    factors = {i: f for i in moved if (f := _factor(found, i)) is not None}
    group = _closest(factors, ALIKE)
    if len({found.sensors[i] for i in group}) >= 2 and len(group) >= MOST * len(moved):
        middle = float(np.median([factors[i] for i in group]))
        return dict.fromkeys(group, f"times {middle:.2f} at every hour")
    return {}


def _factor(found: Found, i: int) -> float | None:
    """By which a channel is off in each quarter of the day; None where there is no such factor, or it is near0 or 1."""
    value, expected = found.values[:, i], found.expected[:, i]
    there = np.isfinite(value) & np.isfinite(expected)
    if there.sum() < 2 * QUARTERS:
        return None
    whole = _ratio(value[there], expected[there])
    if abs(whole - 1) < OFF or whole < 0.1:
        return None
    for part in np.array_split(np.flatnonzero(there), QUARTERS):
        size = float(np.abs(expected[part]).mean())
        room = 0.2 * abs(whole - 1) + 0.6 * found.spread[i] / max(size, 1e-9)
        if abs(_ratio(value[part], expected[part]) - whole) > room:
            return None
    return whole


def _ratio(value: Array, expected: Array) -> float:
    return float(value @ expected / max(float(expected @ expected), 1e-12))


def _closest(numbers: dict[int, float], width: float) -> list[int]:
    """The most that lie within `width` of each other."""
    order = sorted(numbers, key=lambda i: numbers[i])
    best: list[int] = []
    for a in range(len(order)):
        group = [i for i in order[a:] if numbers[i] - numbers[order[a]] <= width]
        best = max(best, group, key=len)
    return best
