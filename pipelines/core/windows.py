"""From raw readings to what a model is given: the one preparation that training, evaluation and serving share."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import calendar

if TYPE_CHECKING:
    from pipelines.core.grid import Series

Array = np.ndarray[Any, Any]
LEAD = 6
"""Features of how far from now a patch lies."""


LEAN, STEEPEST = 0.1, 5.0
"""How far a straightened week leans on the range it had, and how many times that it may have at most."""
PATCHES = {"5min": 12, "15min": 8, "1h": 6, "1d": 7}
"""Steps a patch by cadence class: an hour of 5-minute data, 2 h of quarters, 6 h of hours, a week of days."""


def patch_for(step_s: int) -> tuple[str, int]:
    """Cadence class and steps a patch of data that come every `step_s` seconds."""
    slower = [c for c, longest in (("5min", 300), ("15min", 1800), ("1h", 10800)) if step_s <= longest]
    cadence = slower[0] if slower else "1d"
    return cadence, PATCHES[cadence]


@dataclass(frozen=True)
class Spec:
    """The shape of a window. `context` and `future` are whole patches; the first `horizon` future steps are asked.

    `after`: of a window whose asked steps lie inside it, how many steps it goes on after them, in whole patches.
    """

    step_s: int
    context: int
    horizon: int
    timezone: str
    holidays: tuple[str, ...] = ()
    after: int = 0

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
    def of(
        cls,
        step_s: int,
        context: int,
        horizon: int,
        timezone: str,
        holidays: tuple[str, ...] = (),
        both_sides: bool = False,
    ) -> "Spec":
        """A spec whose context is rounded up to whole patches; `both_sides`: with the asked steps in its middle."""
        patch = patch_for(step_s)[1]
        whole = -(-context // patch)
        rest = whole - -(-horizon // patch) if both_sides else 0
        return cls(step_s, whole * patch, horizon, timezone, holidays, max(0, rest // 2) * patch)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "holidays": list(self.holidays)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Spec":
        return cls(**{**data, "holidays": tuple(data["holidays"])})


def known_steps(spec: Spec, reconstruct: bool) -> int:
    """How many of the window's first steps are given for certain: all, or those before the asked ones inside it."""
    return spec.context - spec.future - spec.after if reconstruct else spec.context


@dataclass(frozen=True)
class Week:
    """What the training split adds up to by slot of the local week: float64 [slots, N], and the channels' means [N].

    A slot seen few times leans on the same time of other days: the mean of its n readings is averaged with the
    time-of-day mean at weight n : 1. Without any reading at that time of day it is the channel's mean.
    """

    total: Array
    count: Array
    mean: Array

    @classmethod
    def of(cls, series: "Series", spec: Spec, rows: tuple[int, int] | None = None) -> "Week":
        """Add up, some rows at a time: those of the training split, or others."""
        shape = (604800 // spec.step_s, len(series.channels))
        total, count = np.zeros(shape), np.zeros(shape)
        lo, hi = rows or series.splits["train"]
        for a in range(lo, hi, series.block):
            b = min(a + series.block, hi)
            values = series.read(a, b).astype(np.float64)
            where = calendar.slot_of_week(series.times(a, b), spec.timezone, spec.holidays, spec.step_s)
            seen = np.isfinite(values)
            np.add.at(total, where, np.where(seen, values, 0))
            np.add.at(count, where, seen)
        return cls(total, count, series.scalers[0].astype(np.float64))

    def take(self, columns: Array | list[int]) -> "Week":
        """Some channels."""
        return Week(self.total[:, columns], self.count[:, columns], self.mean[columns])

    @cached_property
    def _daily(self) -> tuple[Array, Array]:
        n = len(self.mean)
        return self.total.reshape(7, -1, n).sum(0), self.count.reshape(7, -1, n).sum(0)

    @cached_property
    def profile(self) -> Array:
        """float32 [slots, N]."""
        slots, columns = np.arange(len(self.total)), np.arange(len(self.mean))
        nothing = np.zeros((len(slots), len(columns)))
        return self._at(slots, columns, nothing, nothing)

    def without(self, times: Array, own: Array, spec: Spec, columns: Array | None = None) -> Array:
        """The profile at `times` [B, T], had the training readings `own` [B, T, N] (NaN = none) not been made.

        What is trained must not meet a profile that holds the very readings asked for: it would trust it too much.
        `columns`: `own` is of these channels.
        """
        columns = np.arange(len(self.mean)) if columns is None else columns
        slots = calendar.slot_of_week(times.reshape(-1), spec.timezone, spec.holidays, spec.step_s)
        flat = own.reshape(len(slots), -1).astype(np.float64)
        seen = np.isfinite(flat)
        return self._at(slots, columns, np.where(seen, flat, 0), seen.astype(np.float64)).reshape(own.shape)

    def _at(self, slots: Array, columns: Array, own: Array, less: Array) -> Array:
        day_total, day_count = (_pick(part, slots % len(part), columns) for part in self._daily)
        day_count -= less
        daily = np.where(day_count > 0, (day_total - own) / np.maximum(day_count, 1), self.mean[columns])
        total, count = _pick(self.total, slots, columns), _pick(self.count, slots, columns)
        return ((total - own + daily) / (count - less + 1)).astype(np.float32)


def _pick(table: Array, rows: Array, columns: Array) -> Array:
    """A new [len(rows), len(columns)] of [R, N], whole rows first where most columns are asked for."""
    if 4 * len(columns) < table.shape[1]:
        return table[rows[:, None], columns]
    found = table.take(rows, axis=0)
    return found if len(columns) == table.shape[1] else found.take(columns, axis=1)


def straightened(profile: Array, new: Week) -> Array:
    """The usual week [slots, N] of a city that has changed, from that of before and what was read since, float32.

    A few days tell nothing of a weekend that was not among them. So each channel's week keeps its shape, and takes the
    level and the range that fit best what was read: a + b · profile by least squares, b leaning on 1 by a tenth. A
    channel without readings keeps its own.
    """
    old, count = profile.astype(np.float64), new.count.sum(0)
    before, now = ((part.sum(0) / np.maximum(count, 1)) for part in (old * new.count, new.total))
    square = ((old - before) ** 2 * new.count).sum(0)
    product = ((old - before) * (new.total - now * new.count)).sum(0)
    tells = square > 1e-6 * np.maximum(count, 1)
    slope = np.where(tells, (product + LEAN * square) / np.where(tells, (1 + LEAN) * square, 1), 1)
    return (now + np.clip(slope, 0, STEEPEST) * (old - before)).astype(np.float32)


def profile_at(profile: Array, times: Array, spec: Spec) -> Array:
    """The profile [slots, N] at `times` [...], as [..., N]."""
    slots = calendar.slot_of_week(times.reshape(-1), spec.timezone, spec.holidays, spec.step_s)
    return profile[slots].reshape(*times.shape, profile.shape[1])


def fill(values: Array, profile: Array, known: int | None = None, after: int = 0) -> tuple[Array, Array]:
    """Fill gaps of [B, L, N] with the profile [B, L, N] shifted by the last known deviation from it.

    Returns (filled, observed), float32; observed is 1 where a value was given. A channel without any value follows
    its profile. `known`, `after`: what lies between that many first and last steps is asked for, and speaks for no gap
    but its own.
    """
    observed = np.isfinite(values)
    if observed.all():
        return values.astype(np.float32), observed.astype(np.float32)
    deviation = np.where(observed, values - profile, 0).astype(np.float32)
    b, length, n = values.shape
    source = _speaker(observed, known, after) * n + np.arange(n) + (np.arange(b) * length * n)[:, None, None]
    filled = profile + deviation.reshape(-1).take(source)
    np.copyto(filled, values, where=observed, casting="same_kind")
    return filled.astype(np.float32, copy=False), observed.astype(np.float32)


def _speaker(observed: Array, known: int | None, after: int) -> Array:
    """Of which step each of [B, L, N] follows the deviation, see `fill`: the last observed, at first the first one."""
    length = observed.shape[1]
    speaks = observed.copy()
    speaks[:, length if known is None else known : length - after] = False
    step = np.arange(length, dtype=np.int32)[None, :, None]
    last = np.maximum.accumulate(np.where(observed, step, np.int32(-1)), axis=1)
    if after:
        later = np.maximum.accumulate(np.where(speaks, step, np.int32(-1)), axis=1)
        last[:, length - after :] = later[:, length - after :]
    # Before the first value: the first one's deviation, which is 0 where none is.
    return np.where(last < 0, np.argmax(speaks, axis=1)[:, None, :], last)


def beside(values: Array, usual: Array, std: Array, peers: Array, weights: Array) -> Array:
    """What the peers of each channel do: their mean deviation from the profile, in the channel's unit, [B, L, N].

    values, usual: readings (NaN = missing, which says nothing) and profile [B, L, N]; std [N]; peers and their weights
    [N, K], see `models.peers`.
    """
    heard = np.flatnonzero(weights.any(axis=0))
    if not len(heard):
        return np.zeros(values.shape, np.float32)
    away = np.nan_to_num((values - usual) / std)
    out = np.zeros_like(away)
    for k in heard:
        out += away[..., peers[:, k]] * weights[:, k]
    return (out * std).astype(np.float32)


def beside_steps(spec: Spec, reconstruct: bool) -> int:
    """Of how many of the latest known steps a model is told what its channels' peers did."""
    return 0 if reconstruct else spec.patch


@lru_cache(maxsize=1000)
def lead_features(spec: Spec) -> Array:
    """How far each patch lies from now, in three scales, float32 [patches, LEAD]; not to be written to."""
    patches = (spec.context + spec.future) // spec.patch
    hours = (np.arange(patches) - spec.context // spec.patch + 0.5) * spec.patch * spec.step_s / 3600
    angles = hours[:, None] / np.array([3.0, 24.0, 168.0])
    return np.concatenate([np.sin(angles), np.tanh(angles)], axis=1).astype(np.float32)


def window_times(starts: Array, spec: Spec) -> Array:
    """When each step of windows begins, context and future, datetime64[s] [B, T]."""
    steps = np.arange(spec.context + spec.future) * np.timedelta64(spec.step_s, "s")
    return starts.astype("datetime64[s]")[:, None] + steps[None, :]


def prepare(values: Array, starts: Array, usual: Array, spec: Spec, known: int | None = None) -> dict[str, Array]:
    """What a model is given for a batch of windows.

    values: raw readings [B, context, N], NaN = missing, or [B, context + future, N] where some are known ahead;
    starts: UTC datetime64 [B] of the first row; usual: the profile [slots, N], or what it says of each step,
    [B, context + future, N]; known: see `fill`. Returns float32 `values` and `observed` like
    `values`, `profile` [B, context + future, N] and `calendar` [B, patches, calendar.FEATURES + LEAD].
    """
    times, centres = window_times(starts, spec), slice(spec.patch // 2, None, spec.patch)
    if usual.ndim == 2:
        local = calendar.local_seconds(times.reshape(-1), spec.timezone).reshape(times.shape)
        usual = usual[calendar.slot_of(local, spec.holidays, spec.step_s)]
        local = local[:, centres]
    else:
        local = calendar.local_seconds(times[:, centres].reshape(-1), spec.timezone).reshape(len(times), -1)
    filled, observed = fill(values, usual[:, : values.shape[1]], known, spec.after)
    moments = np.empty((*local.shape, calendar.FEATURES + LEAD), np.float32)
    moments[..., : calendar.FEATURES] = calendar.features_of(local, spec.holidays)
    moments[..., calendar.FEATURES :] = lead_features(spec)
    usual = usual.astype(np.float32, copy=False)
    return {"values": filled, "observed": observed, "profile": usual, "calendar": moments}


def locations(latitude: Array, longitude: Array, centre: tuple[float, float]) -> Array:
    """Fourier features of where sensors stand, float32 [N, 12]; an unknown place is all zeros."""
    north = (latitude - centre[0]) * 111.2
    east = (longitude - centre[1]) * 111.2 * np.cos(np.radians(centre[0]))
    place = np.stack([north, east], axis=-1)[:, :, None] / np.array([2.0, 8.0, 32.0])  # km
    waves = np.concatenate([np.sin(place), np.cos(place)], axis=-1).reshape(len(north), -1)
    return np.where(np.isfinite(waves).all(1, keepdims=True), waves, 0).astype(np.float32)
