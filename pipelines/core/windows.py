"""From raw readings to what a model is given: the one preparation that training, evaluation and serving share."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core import calendar
from pipelines.core.grid import Series

Array = np.ndarray[Any, Any]
LEAD = 6
"""Features of how far from now a patch lies."""


def patch_for(step_s: int) -> tuple[str, int]:
    """Cadence class and steps a patch: an hour of 5-minute data, 2 h of quarters, 6 h of hours, a week of days."""
    if step_s <= 300:
        return "5min", 12
    if step_s <= 1800:
        return "15min", 8
    return ("1h", 6) if step_s <= 10800 else ("1d", 7)


@dataclass(frozen=True)
class Spec:
    """The shape of a window. `context` and `future` are whole patches; the first `horizon` future steps are asked."""

    step_s: int
    context: int
    horizon: int
    timezone: str
    holidays: tuple[str, ...] = ()

    @property
    def cadence(self) -> str:
        return patch_for(self.step_s)[0]

    @property
    def patch(self) -> int:
        return patch_for(self.step_s)[1]

    @property
    def future(self) -> int:
        return -(-self.horizon // self.patch) * self.patch

    @classmethod
    def of(cls, step_s: int, context: int, horizon: int, timezone: str, holidays: tuple[str, ...] = ()) -> "Spec":
        """A spec whose context is rounded up to whole patches."""
        patch = patch_for(step_s)[1]
        return cls(step_s, -(-context // patch) * patch, horizon, timezone, holidays)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "holidays": list(self.holidays)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Spec":
        return cls(**{**data, "holidays": tuple(data["holidays"])})


def known_steps(spec: Spec, reconstruct: bool) -> int:
    """How many of the window's first steps are given for certain: all, or all but the asked ones at its end."""
    return spec.context - spec.future if reconstruct else spec.context


def week_profile(series: Series, spec: Spec, block: int = 8192) -> Array:
    """Mean of each channel by slot of the local week over the training split, float32 [slots, N].

    A slot seen few times leans on the same time of other days: the weekly mean of n readings is averaged with the
    time-of-day mean at weight n : 1. Without any reading at that time of day it is the channel's mean.
    """
    slots, day = 604800 // spec.step_s, 86400 // spec.step_s
    n = len(series.channels)
    total, count = np.zeros((slots, n)), np.zeros((slots, n))
    lo, hi = series.splits["train"]
    for a in range(lo, hi, block):
        b = min(a + block, hi)
        values = series.read(a, b).astype(np.float64)
        where = calendar.slot_of_week(series.times(a, b), spec.timezone, spec.holidays, spec.step_s)
        seen = np.isfinite(values)
        np.add.at(total, where, np.where(seen, values, 0))
        np.add.at(count, where, seen)
    by_day_total, by_day_count = total.reshape(7, day, n).sum(0), count.reshape(7, day, n).sum(0)
    mean = series.scalers[0].astype(np.float64)
    daily = np.where(by_day_count > 0, by_day_total / np.maximum(by_day_count, 1), mean)
    weekly = (total + np.tile(daily, (7, 1))) / (count + 1)
    return weekly.astype(np.float32)


def profile_at(profile: Array, times: Array, spec: Spec) -> Array:
    """The profile [slots, N] at `times` [...], as [..., N]."""
    slots = calendar.slot_of_week(times.reshape(-1), spec.timezone, spec.holidays, spec.step_s)
    return profile[slots].reshape(*times.shape, profile.shape[1])


def fill(values: Array, profile: Array, known: int | None = None) -> tuple[Array, Array]:
    """Fill gaps of [B, L, N] with the profile [B, L, N] shifted by the last known deviation from it.

    Returns (filled, observed), float32; observed is 1 where a value was given. A channel without any value follows
    its profile. `known`: only that many first steps may speak for a gap at the start, for the later ones are asked.
    """
    observed = np.isfinite(values)
    deviation = np.where(observed, values - profile, 0).astype(np.float32)
    index = np.where(observed, np.arange(values.shape[1])[None, :, None], -1)
    last = np.maximum.accumulate(index, axis=1)
    # Before the first value: the first one's deviation, which is 0 where none is.
    first = np.argmax(observed[:, :known], axis=1)[:, None, :]
    carried = np.take_along_axis(deviation, np.where(last < 0, first, last), axis=1)
    filled = np.where(observed, values, profile + carried).astype(np.float32)
    return filled, observed.astype(np.float32)


def lead_features(spec: Spec) -> Array:
    """How far each patch lies from now, in three scales, float32 [patches, LEAD]."""
    patches = (spec.context + spec.future) // spec.patch
    hours = (np.arange(patches) - spec.context // spec.patch + 0.5) * spec.patch * spec.step_s / 3600
    angles = hours[:, None] / np.array([3.0, 24.0, 168.0])
    return np.concatenate([np.sin(angles), np.tanh(angles)], axis=1).astype(np.float32)


def prepare(values: Array, starts: Array, profile: Array, spec: Spec, known: int | None = None) -> dict[str, Array]:
    """What a model is given for a batch of windows.

    values: raw readings [B, context, N], NaN = missing; starts: UTC datetime64 [B] of the first row;
    profile: [slots, N]; known: see `fill`. Returns float32 `values` and `observed` [B, context, N], `profile`
    [B, context + future, N] and `calendar` [B, patches, calendar.FEATURES + LEAD].
    """
    steps = np.arange(spec.context + spec.future) * np.timedelta64(spec.step_s, "s")
    times = starts.astype("datetime64[s]")[:, None] + steps[None, :]
    usual = profile_at(profile, times, spec)
    filled, observed = fill(values, usual[:, : spec.context], known)
    centres = times[:, spec.patch // 2 :: spec.patch]
    moments = calendar.features(centres.reshape(-1), spec.timezone, spec.holidays).reshape(*centres.shape, -1)
    lead = np.broadcast_to(lead_features(spec), (*centres.shape, LEAD))
    return {
        "values": filled,
        "observed": observed,
        "profile": usual.astype(np.float32),
        "calendar": np.concatenate([moments, lead], axis=-1).astype(np.float32),
    }


def locations(latitude: Array, longitude: Array, centre: tuple[float, float]) -> Array:
    """Fourier features of where sensors stand, float32 [N, 12]; an unknown place is all zeros."""
    north = (latitude - centre[0]) * 111.2
    east = (longitude - centre[1]) * 111.2 * np.cos(np.radians(centre[0]))
    place = np.stack([north, east], axis=-1)[:, :, None] / np.array([2.0, 8.0, 32.0])  # km
    waves = np.concatenate([np.sin(place), np.cos(place)], axis=-1).reshape(len(north), -1)
    return np.where(np.isfinite(waves).all(1, keepdims=True), waves, 0).astype(np.float32)
