"""Local time as features, derived when read and never stored."""

import datetime as dt
import zoneinfo
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FEATURES = 8
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@lru_cache(maxsize=200_000)
def _offset(zone: str, quarter: int) -> int:
    """Seconds east of UTC during the quarter of an hour `quarter` since 1970; zones do not change within one."""
    moment = _EPOCH + dt.timedelta(minutes=15 * quarter)
    offset = moment.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def local_seconds(times: Array, zone: str) -> Array:
    """UTC datetime64 [T] as seconds of local wall-clock time since 1970, int64 [T]."""
    seconds = times.astype("datetime64[s]").astype(np.int64)
    days, of_day = np.unique(seconds // 86400, return_inverse=True)
    begins = np.array([_offset(zone, int(d) * 96) for d in days], np.int64)
    ends = np.array([_offset(zone, int(d) * 96 + 96) for d in days], np.int64)
    offsets = begins[of_day] if len(days) else np.zeros(0, np.int64)
    shifting = np.flatnonzero((begins != ends)[of_day]) if len(days) else of_day
    offsets[shifting] = [_offset(zone, int(q)) for q in seconds[shifting] // 900]
    return seconds + offsets


def features(times: Array, zone: str, holidays: tuple[str, ...] = ()) -> Array:
    """Time of day (two harmonics), day of week, weekend and holiday as float32 [T, FEATURES]."""
    local = local_seconds(times, zone)
    day = 2 * np.pi * (local % 86400) / 86400
    weekday = (local // 86400 + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    week = 2 * np.pi * ((local + 3 * 86400) % 604800) / 604800
    off = np.isin(local // 86400, [int(np.datetime64(h, "D").astype(np.int64)) for h in holidays])
    columns = [
        np.sin(day),
        np.cos(day),
        np.sin(2 * day),
        np.cos(2 * day),
        np.sin(week),
        np.cos(week),
        weekday >= 5,
        off,
    ]
    return np.stack(columns, axis=-1).astype(np.float32)


def slot_of_week(times: Array, zone: str, holidays: tuple[str, ...], step_s: int) -> Array:
    """Which slot of the local week each moment lies in, int64 [T]; a holiday counts as a Sunday."""
    local = local_seconds(times, zone)
    weekday = (local // 86400 + 3) % 7
    off = np.isin(local // 86400, [int(np.datetime64(h, "D").astype(np.int64)) for h in holidays])
    weekday = np.where(off, 6, weekday)
    return (weekday * 86400 + local % 86400) // step_s
