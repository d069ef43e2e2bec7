"""Which of the channels that are not as they were are broken: sensors, where not the city has changed.

A sensor that fails breaks its relation to all it went with, and in few ways: it says nothing, or what validate does not
believe, or always the same, or noise; or it is off by one and the same factor at every hour. What a city does
differently it does by the hour, with more at one place and less at another: of channels that are off by a factor the
broken ones are those that all share it. And a sensor breaks with all its kinds.
"""

from collections.abc import Iterable, Mapping
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
ALIKE = 0.1
"""Factors that differ less are one."""
MOST = 0.7
"""Of the channels of a kind that have moved must share it to be one failure."""
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
    kinds: list[str]


def plain(found: Found) -> dict[int, str]:
    """Channels that are broken whatever others do, and why."""
    out = {}
    for i in range(len(found.sensors)):
        if found.refused[i] >= REFUSED:
            out[i] = f"{found.refused[i]:.0%} of its records in quarantine"
        elif found.missing[i] >= SILENT:
            out[i] = f"{found.missing[i]:.0%} of its readings missing"
    return out


def among(found: Found, moved: list[int], plainly: Iterable[int] = ()) -> dict[int, str]:
    """Which of the channels that have moved are broken, and why. plainly: those that are whatever others do."""
    out: dict[int, str] = {}
    for i in moved:
        if stopped := _flat(found.values[:, i], found.rests.get(i, ())):
            out[i] = f"{stopped:.0%} of the day at one value"
        elif _noisy(found, i):
            out[i] = "noise"
    bad = {found.sensors[i] for i in (*out, *plainly)}
    out |= {i: "off, as its sensor is broken" for i in moved if i not in out and found.sensors[i] in bad}
    for kind in set(found.kinds):
        out |= _one_factor(found, [i for i in moved if i not in out and found.kinds[i] == kind], kind)
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


def _one_factor(found: Found, moved: list[int], kind: str) -> dict[int, str]:
    """Channels of a kind that are off by the same factor, if few others of it have moved."""
    others = [
        i for i, own in enumerate(found.kinds) if own == kind and i not in moved and not found.missing[i] > SILENT
    ]
    # A day that is quiet all over is no failure: what counts is the factor beside that of channels that are as usual.
    beside = [r for i in others if np.isfinite(r := _ratios(found, i)).all()]
    whole = np.median(beside, axis=0) if len(beside) >= 3 else np.ones(QUARTERS + 1)
    factors = {i: f for i in moved if (f := _factor(found, i, whole)) is not None}
    group = _closest(factors, ALIKE)
    if len({found.sensors[i] for i in group}) >= 2 and len(group) >= MOST * len(moved):
        middle = float(np.median([factors[i] for i in group]))
        return dict.fromkeys(group, f"times {middle:.2f} at every hour")
    return {}


def _factor(found: Found, i: int, whole: Array) -> float | None:
    """By which a channel is off in each quarter of the day; None where there is none, or it is near 0 or 1.

    whole: by which all are, on the day and in its quarters.
    """
    own, *quarters = _ratios(found, i) / whole
    if not np.isfinite(own) or abs(own - 1) < OFF or own < 0.1:
        return None
    for ratio, expected in zip(quarters, np.array_split(found.expected[:, i], QUARTERS), strict=True):
        size = float(np.abs(expected[np.isfinite(expected)]).mean()) if np.isfinite(expected).any() else 0.0
        if np.isfinite(ratio) and abs(ratio - own) > 0.2 * abs(own - 1) + 0.6 * found.spread[i] / max(size, 1e-9):
            return None
    return float(own)


def _ratios(found: Found, i: int) -> Array:
    """Readings to what was expected, on the whole day and in each quarter, [1 + QUARTERS]; NaN of too few."""
    value, expected = found.values[:, i], found.expected[:, i]
    every = np.arange(len(value))
    parts = [every, *np.array_split(every, QUARTERS)]
    return np.array([_ratio(value[part], expected[part]) for part in parts])


def _ratio(value: Array, expected: Array) -> float:
    there = np.isfinite(value) & np.isfinite(expected)
    if there.sum() < 2:
        return float("nan")
    value, expected = value[there], expected[there]
    return float(value @ expected / max(float(expected @ expected), 1e-12))


def _closest(numbers: dict[int, float], width: float) -> list[int]:
    """The most that lie within `width` of each other."""
    order = sorted(numbers, key=lambda i: numbers[i])
    best: list[int] = []
    for a in range(len(order)):
        group = [i for i in order[a:] if numbers[i] - numbers[order[a]] <= width]
        best = max(best, group, key=len)
    return best
