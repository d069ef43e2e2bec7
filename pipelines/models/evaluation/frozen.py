"""The frozen test of a task: which forecasts are asked for, what came, and where each point of it lies."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.core import calendar
from pipelines.core.errors import UserError
from pipelines.models.data import Windows, spread_out

Array = np.ndarray[Any, Any]
DAY, HOUR = 86400, 3600
LONG_TEST = 20 * 7
"""Days from which on whole weeks are resampled."""
FEWEST_DAYS = 6
"""Blocks of whole days that a test must have for days to be resampled."""


@dataclass(frozen=True)
class Frozen:
    """Windows of the test period; truth [B, H, n] as the objective asks for it, NaN where nothing was read.

    The P points are where there is truth, in order. `possible`: how many windows there would have been.
    """

    data: Windows
    rows: Array
    values: Array
    truth: Array
    possible: int
    block_hours: int

    @classmethod
    def of(cls, data: Windows, objective: Any, aux: dict[str, Any], stride: int, most: int) -> "Frozen":
        """Forecasts `stride` steps apart, thinned evenly so that at most `most` points are asked for.

        Raises UserError when no target was read in the test period.
        """
        every = data.rows("test", stride)
        rows = spread_out(every, max(1, most // (data.spec.horizon * data.targets)))
        values = np.concatenate([data.read(rows[i : i + 256] + data.known, data.spec.horizon)[..., : data.targets]
                                 for i in range(0, len(rows), 256)])  # fmt: skip
        truth = objective.truth(values, aux)
        if not np.isfinite(truth).any():
            raise silent(data)
        overlap = len(rows) > 1 and int(np.diff(rows).min()) < data.spec.horizon
        return cls(data, rows, values, truth, len(every), block_hours(data, overlap))

    @property
    def issued(self) -> Array:
        """When each forecast is made, UTC [B]."""
        return self.data.starts(self.rows + self.data.known)

    @cached_property
    def where(self) -> tuple[Array, Array, Array]:
        """Window, step ahead and target of each point, [P] each."""
        window, step, column = np.nonzero(np.isfinite(self.truth))
        return window, step, column

    @cached_property
    def times(self) -> Array:
        """The moment each point is of, UTC [P]."""
        window, step, _ = self.where
        return self.issued[window] + step * np.timedelta64(self.data.spec.step_s, "s")

    @cached_property
    def block(self) -> Array:
        """The block of time each point's forecast was made in, [P]."""
        return blocks(self.issued, self.data, self.block_hours)[self.where[0]]

    def period(self) -> dict[str, Any]:
        """What the report says of the test."""
        return {
            **period(self.data),
            "forecasts": len(self.rows),
            "forecasts_possible": self.possible,
            "points": len(self.block),
            "block_hours": self.block_hours,
            "blocks": len(np.unique(self.block)),
        }


def block_hours(data: Windows, overlap: bool) -> int:
    """Hours resampled together: at least a day and a forecast, two forecasts where they overlap; weeks of a long test.

    What is asked at two moments of one block may depend on the same readings, across blocks it hardly can. A test of
    less than FEWEST_DAYS such blocks is cut into twelve, if a forecast is short enough: an interval drawn from two or
    three days says nothing.
    """
    lo, hi = data.series.splits["test"]
    whole = -(-(hi - lo) * data.spec.step_s // HOUR)
    span = -(-data.spec.horizon * data.spec.step_s * (2 if overlap else 1) // HOUR)
    days = max(1, -(-span // 24))
    if whole >= LONG_TEST * 24:
        return 24 * 7 * -(-days // 7)
    return 24 * days if whole >= FEWEST_DAYS * 24 * days else max(span, -(-whole // 12))


def blocks(times: Array, data: Windows, hours: int) -> Array:
    """The block of local time each moment lies in, counted from the first day."""
    hour = calendar.local_seconds(times, data.spec.timezone) // HOUR
    return (hour - hour.min() // 24 * 24) // hours


def period(data: Windows) -> dict[str, str]:
    """When the test begins and ends."""
    lo, hi = data.series.splits["test"]
    return {"from": str(data.series.times(lo, lo + 1)[0]), "until": str(data.series.times(hi, hi + 1)[0])}


def silent(data: Windows) -> UserError:
    """The error of a test without any truth."""
    return UserError(f"{data.series.folder}: no target was read in the test period; move the window's end or the dates")


def naive_error(data: Windows, block: int = 8192) -> Array:
    """Mean absolute error of 'as a day ago' over the training period (a week ago for daily data), [targets].

    NaN for a target of which that cannot be said, or that never changes: what MASE is scaled by (Hyndman and Koehler,
    2006).
    """
    season = DAY // data.spec.step_s if data.spec.step_s < DAY else 7
    lo, hi = data.series.splits["train"]
    columns = np.array(data.columns[: data.targets])
    total, count = np.zeros(data.targets), np.zeros(data.targets)
    for a in range(lo, hi - season, block):
        values = data.series.read(a, min(a + block, hi - season) + season, columns)
        change = np.abs(values[season:] - values[:-season]).astype(float)
        total += np.nansum(change, axis=0)
        count += np.isfinite(change).sum(0)
    return np.where((count > 0) & (total > 0), total / np.maximum(count, 1), np.nan)
