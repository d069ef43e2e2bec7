"""Channels of one grid on the steps of another, without looking into the future.

A value of the input's step [t, t+s) is known at t+s, and the row that begins at u may use what is known by its own end,
u+S. A coarser input holds its last known value, NaN if that was missing; a finer one is aggregated over the row by its
kind's `aggregate`. Rows before the input begins or after it ends are NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.grid import Series

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """Some channels of one grid, in that grid's order; `aggregates` has one for each."""

    series: Series
    columns: Array
    aggregates: tuple[str, ...]

    @property
    def channels(self) -> pa.Table:
        return self.series.channels.take(self.columns)


def aligned(part: Part, begin: np.datetime64, step: np.timedelta64, rows: int) -> Array:
    """The values of `part` that are known by the end of each of `rows` steps from `begin` on, float32 [rows, K]."""
    own, size, offset = (
        int(span / np.timedelta64(1, "s")) for span in (part.series.step, step, begin - part.series.start)
    )
    if own >= size:
        last = (offset + size * np.arange(1, rows + 1)) // own - 1  # the newest step that has ended
        lo = int(last[0])
        return part.series.read(lo, int(last[-1]) + 1, part.columns)[last - lo]
    lo, hi = offset // own, (offset + size * rows) // own  # steps that end after `begin`, and by the last row's end
    row = -(-((np.arange(lo, hi) + 1) * own - offset) // size) - 1
    starts = np.searchsorted(row, np.arange(rows))
    values = part.series.read(lo, hi, part.columns)
    out = np.empty((rows, len(part.columns)), np.float32)
    for how in sorted(set(part.aggregates)):
        same = np.array([a == how for a in part.aggregates])
        out[:, same] = AGGREGATES[how](values[:, same], starts)
    return out


def _mean(values: Array, starts: Array) -> Array:
    seen = np.isfinite(values)
    total = np.add.reduceat(np.where(seen, values, 0).astype(np.float64), starts, axis=0)
    count = np.add.reduceat(seen.astype(np.int64), starts, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sum(values: Array, starts: Array) -> Array:
    seen = np.isfinite(values)
    total = np.add.reduceat(np.where(seen, values, 0).astype(np.float64), starts, axis=0)
    return np.where(np.logical_or.reduceat(seen, starts, axis=0), total, np.nan)


def _last(values: Array, starts: Array) -> Array:
    """The last value that is there in each run of rows."""
    place = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    last = np.maximum.reduceat(place, starts, axis=0)
    found = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= starts[:, None], found, np.nan)


AGGREGATES: dict[str, Callable[[Array, Array], Array]] = {
    "mean": _mean,
    "sum": _sum,
    "max": lambda values, starts: np.fmax.reduceat(values, starts, axis=0),
    "min": lambda values, starts: np.fmin.reduceat(values, starts, axis=0),
    "last": _last,
}
"""How the finer steps of a row become one value: float [t, K] and the first of them for each row, to [rows, K]."""
