"""Local time as features, derived when read and never stored."""

import datetime as dt
import zoneinfo
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FEATURES = 8
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SPAN = 100
"""Of so many days it is first asked whether the clock changes in them at all: mostly it does not."""


@lru_cache(maxsize=200_000)
def _offset(zone: str, quarter: int) -> int:
    """Seconds east of UTC during the quarter of an hour `quarter` since 1970; zones do not change within one."""
    moment = _EPOCH + dt.timedelta(minutes=15 * quarter)
    offset = moment.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


@lru_cache(maxsize=10_000)
def _steady(zone: str, first: int, last: int) -> int | None:
    """The offset that holds from the day `first` since 1970 to the end of `last`, None where it changes between."""
    offset = _offset(zone, first * 96)
    return offset if all(_offset(zone, day * 96) == offset for day in range(first + 1, last + 2)) else None


@lru_cache(maxsize=1000)
def _days(holidays: tuple[str, ...]) -> Array:
    """Holidays as days since 1970, ascending."""
    return np.sort(np.array(holidays, "datetime64[D]").astype(np.int64))


def local_seconds(times: Array, zone: str) -> Array:
    """UTC datetime64 [T] as seconds of local wall-clock time since 1970, int64 [T]."""
    seconds = times.astype("datetime64[s]").astype(np.int64)
    if not len(seconds):
        return seconds
    first, last = int(seconds.min()) // 86400, int(seconds.max()) // 86400
    steady = _steady(zone, first, last) if last - first < SPAN else None
    return seconds + (_offsets(seconds, zone) if steady is None else steady)


def _offsets(seconds: Array, zone: str) -> Array:
    """Seconds east of UTC at each of `seconds` since 1970, by day where the day has one offset, else by quarter."""
    days, of_day = np.unique(seconds // 86400, return_inverse=True)
    begins = np.array([_offset(zone, int(d) * 96) for d in days], np.int64)
    ends = np.array([_offset(zone, int(d) * 96 + 96) for d in days], np.int64)
    offsets: Array = begins[of_day]
    shifting = np.flatnonzero((begins != ends)[of_day])
    offsets[shifting] = [_offset(zone, int(q)) for q in seconds[shifting] // 900]
    return offsets


def features(times: Array, zone: str, holidays: tuple[str, ...] = ()) -> Array:
    """Time of day (two harmonics), day of week, weekend and holiday as float32 [T, FEATURES]."""
    return features_of(local_seconds(times, zone), holidays)


def features_of(local: Array, holidays: tuple[str, ...] = ()) -> Array:
    """`features` of `local_seconds`, int64 [...], as [..., FEATURES]."""
    day = 2 * np.pi * (local % 86400) / 86400
    week = 2 * np.pi * ((local + 3 * 86400) % 604800) / 604800
    out = np.empty((*local.shape, FEATURES), np.float32)
    for i, angle in enumerate((day, 2 * day, week)):
        out[..., 2 * i], out[..., 2 * i + 1] = np.sin(angle), np.cos(angle)
    weekday, off = _weekday(local, holidays)
    out[..., 6], out[..., 7] = weekday >= 5, off
    return out


def slot_of_week(times: Array, zone: str, holidays: tuple[str, ...], step_s: int) -> Array:
    """Which slot of the local week each moment lies in, int64 [T]; a holiday counts as a Sunday."""
    return slot_of(local_seconds(times, zone), holidays, step_s)


def slot_of(local: Array, holidays: tuple[str, ...], step_s: int) -> Array:
    """`slot_of_week` of `local_seconds`, int64 [...]."""
    weekday, off = _weekday(local, holidays)
    weekday[off] = 6
    found: Array = (weekday * 86400 + local % 86400) // step_s
    return found


def _weekday(local: Array, holidays: tuple[str, ...]) -> tuple[Array, Array]:
    """The day of the week, 0 for Monday, and whether it is a holiday; each like `local`."""
    day = local // 86400
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    off = np.zeros(day.shape, bool)
    if holidays:
        known = _days(holidays)
        off = known[np.minimum(np.searchsorted(known, day), len(known) - 1)] == day
    return weekday, off
