"""What goes wrong between a sensor and the archive, and the truth about it.

Every fault has random streams of its own, by the day it begins. A record carries at most one fault: the first that
asks for it, in the order of FAULTS. Labels are never spoiled, and what is truly absent or truly constant is no fault.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.core import units
from pipelines.core.params import Kind, Source
from pipelines.sources.simulated.ground import Array, evenly, rng

FAULTS = ("", "missing", "clock_skew", "unit_mixup", "stuck", "out_of_range", "spike", "duplicate", "noise", "scaled")
MISSING, SKEW, MIXUP, STUCK, RANGE, SPIKE, DUPLICATE, NOISE, SCALED = range(1, 10)
HERE, ABSENT, NAN, NULL = range(4)
"""How a missing record is delivered: not at all, as NaN or as null."""
LOOK_BACK = 4
"""Days an episode can last at most."""
FREEZE = 6 * 3600.0
"""Seconds unchanged that a kind without `stuck_after` of its own is taken to notice."""
REFERENCE = range(20_000, 20_014)
"""The fourteen days (2024-10-04 …) over which a channel's usual deviation is taken."""


@dataclass(frozen=True)
class Spoiled:
    """A day's records [steps, kinds, n] after the faults; `again_value` [m] is sent again for `again` (indices)."""

    value: Array
    code: Array
    """Index into FAULTS; 0: sound."""
    size: Array
    shift: Array
    """Seconds the clock is off."""
    form: Array
    """HERE, ABSENT, NAN or NULL."""
    again: tuple[Array, ...]
    again_value: Array


@dataclass(frozen=True)
class Episode:
    """Steps [lo, hi) of the day in question; `first` may lie on an earlier day and then is negative."""

    first: int
    lo: int
    hi: int
    r: np.random.Generator


class Spoiler:
    """Spoils the days of one feed. `clean(day)` gives what was truly measured, [steps, kinds, n]."""

    def __init__(self, source: Source, seed: int, feed: str, sensors: int, clean: Callable[[int], Array]) -> None:
        assert source.read.connector == "simulator"
        self.faults, self.seed, self.feed, self.clean = source.read.faults, seed, feed, clean
        self.names, self.kinds = list(source.kinds), list(source.kinds.values())
        self.step_s = int(source.step.total_seconds())
        self.steps, self.n = 86400 // self.step_s, sensors
        self.stuck_after = [self._stuck_after(kind) for kind in self.kinds]
        self.open = [k for k, kind in enumerate(self.kinds) if not kind.label]
        self.records = self.steps * len(self.open) * self.n
        """Records a day that faults may touch; shares are of these."""

    @staticmethod
    def _stuck_after(kind: Kind) -> float | None:
        """Seconds; None where constant values are normal. The contract has no say: what it asks changes no sensor."""
        if kind.label or kind.stuck_after == "never":
            return None
        return kind.stuck_after.total_seconds() if isinstance(kind.stuck_after, dt.timedelta) else FREEZE

    @cached_property
    def sigma(self) -> Array:
        """Usual deviation of each channel [kinds, n]: the standard deviation of its true values around its own mean
        at that time of day, over the working days in REFERENCE. It measures spikes, whatever the window."""
        days = np.stack([self.clean(d) for d in REFERENCE if (d + 3) % 7 < 5])
        with np.errstate(invalid="ignore"):
            around = days - np.nanmean(days, axis=0)
            return np.maximum(np.nan_to_num(np.nanstd(around, axis=(0, 1))), 1e-3)

    def day(self, day: int) -> Spoiled:
        value = self.clean(day).copy()
        shape = value.shape
        state = Spoiled(
            value, np.zeros(shape, np.int8), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int8), (), np.zeros(0)
        )
        for spoil in (self._missing, self._skew, self._mixup, self._stuck, self._out_of_range, self._spike):
            spoil(day, state)
        return self._duplicate(day, state)

    def _episodes(self, name: str, day: int, rate: float, seconds: tuple[float, float]) -> Iterator[Episode]:
        """Episodes that touch `day` when `rate` of them begin a day, each lasting some time within `seconds`."""
        for began in range(day - LOOK_BACK, day + 1):
            for index in range(evenly(self.seed, f"{self.feed} {name}", began, rate)):
                r = rng(self.seed, f"{self.feed} {name}", began, index)
                first = int(r.integers(self.steps)) + (began - day) * self.steps
                length = max(1, round(r.uniform(*seconds) / self.step_s))
                lo, hi = max(first, 0), min(first + length, self.steps)
                if lo < hi:
                    yield Episode(first, lo, hi, r)

    def _rate(self, share: float, seconds: tuple[float, float], channels: int) -> float:
        """Episodes a day that make up `share` of all records when each spoils `channels` channels."""
        mean = max(1.0, sum(seconds) / 2 / self.step_s)
        return share * self.records / (mean * max(channels, 1))

    def _free(self, state: Spoiled) -> Array:
        free = (state.code == 0) & np.isfinite(state.value)
        free[:, [k for k in range(len(self.kinds)) if k not in self.open]] = False
        return free

    def _points(self, name: str, day: int, state: Spoiled, share: float, kinds: list[int]) -> tuple[Array, ...]:
        """Single sound records of `kinds`, drawn so that they make up `share` of all records."""
        chance = np.zeros(len(self.kinds))
        chance[kinds] = share * len(self.open) / max(len(kinds), 1)
        draw = rng(self.seed, f"{self.feed} {name}", day).random(state.value.shape)
        return np.nonzero((draw < chance[:, None]) & self._free(state))

    def _missing(self, day: int, state: Spoiled) -> None:
        """A third single records, a third bursts of one sensor, a third outages of one sensor."""
        share = self.faults.missing / 3
        for name, seconds in (("burst", (1800.0, 21600.0)), ("outage", (10 * 3600.0, 30 * 3600.0))):
            for e in self._episodes(name, day, self._rate(share, seconds, len(self.open)), seconds):
                site, form = int(e.r.integers(self.n)), (ABSENT, ABSENT, NAN, NULL)[e.r.integers(4)]
                part = np.zeros(state.code.shape, bool)
                part[e.lo : e.hi, :, site] = True
                part &= self._free(state)
                state.code[part], state.form[part] = MISSING, form
        at = self._points("gap", day, state, share, self.open)
        state.code[at] = MISSING
        state.form[at] = rng(self.seed, f"{self.feed} form", day).choice([ABSENT, ABSENT, NAN, NULL], len(at[0]))

    def _skew(self, day: int, state: Spoiled) -> None:
        seconds = (6 * 3600.0, 48 * 3600.0)
        rate = self._rate(self.faults.clock_skew, seconds, len(self.open))
        for e in self._episodes("skew", day, rate, seconds):
            site, sign = int(e.r.integers(self.n)), e.r.choice([-1, 1])
            part = np.zeros(state.code.shape, bool)
            part[e.lo : e.hi, :, site] = True
            part &= self._free(state)
            off = sign * round(e.r.uniform(0.15, 0.45) * self.step_s)
            state.code[part], state.shift[part], state.size[part] = SKEW, off, off

    def _mixup(self, day: int, state: Spoiled) -> None:
        seconds = (6 * 3600.0, 48 * 3600.0)
        able = [(k, unit) for k in self.open for unit in self.kinds[k].mixups]
        rate = self._rate(self.faults.unit_mixup, seconds, 1) if able else 0.0
        for e in self._episodes("mixup", day, rate, seconds):
            site, (k, unit) = int(e.r.integers(self.n)), able[e.r.integers(len(able))]
            part = slice(e.lo, e.hi), k, site
            free = self._free(state)[part]
            wrong = np.round(units.convert(state.value[part], self.names[k], self.kinds[k].unit, unit), 3)
            state.value[part] = np.where(free, wrong, state.value[part])
            state.code[part] = np.where(free, MIXUP, state.code[part])

    def _stuck(self, day: int, state: Spoiled) -> None:
        """A channel repeats the value it had when it froze, for 4/3 to 6 times its `stuck_after`."""
        able = [k for k in self.open if self.stuck_after[k]]
        for k in able:
            after = self.stuck_after[k] or 0.0
            longest = (LOOK_BACK - 1) * 86400.0
            seconds = (min(after * 4 / 3, longest), min(after * 6, longest))
            rate = self._rate(self.faults.stuck * self.n * self.steps / self.records, seconds, 1)
            for e in self._episodes(f"stuck {self.names[k]}", day, rate * len(self.open) / len(able), seconds):
                site = int(e.r.integers(self.n))
                began, step = divmod(e.first, self.steps)
                held = self.clean(day + began)[step, k, site]
                if not np.isfinite(held) or held in self.kinds[k].constant_ok:
                    continue  # frozen at what may last for ever, it would be no fault that anyone could see
                part = slice(max(e.lo, e.first + 1), e.hi), k, site
                free = self._free(state)[part]
                age = (np.arange(part[0].start, part[0].stop) - e.first) * self.step_s
                state.value[part] = np.where(free, held, state.value[part])
                state.code[part] = np.where(free, STUCK, state.code[part])
                state.size[part] = np.where(free, age, state.size[part])

    def _out_of_range(self, day: int, state: Spoiled) -> None:
        at = self._points("range", day, state, self.faults.out_of_range, self.open)
        r = rng(self.seed, f"{self.feed} wild", day)
        low = np.array([kind.range[0] for kind in self.kinds])[at[1]]
        high = np.array([kind.range[1] for kind in self.kinds])[at[1]]
        by, how = r.uniform(0.02, 1.0, len(low)) * (high - low), r.integers(3, size=len(low))
        wild = np.where(how == 0, high + by, np.where(how == 1, low - by, np.minimum(-999.0, low - 1)))
        state.value[at] = np.where(how < 2, np.round(wild, 2), wild)
        state.code[at] = RANGE

    def _spike(self, day: int, state: Spoiled) -> None:
        """Off by 3 to 10 sigma, up or down, inside the physical range."""
        able = [k for k in self.open if self.kinds[k].spikes]
        if not self.faults.spike or not able:
            return
        at = self._points("spike", day, state, self.faults.spike, able)
        r = rng(self.seed, f"{self.feed} jolt", day)
        sigma = self.sigma[at[1], at[2]]
        low = np.array([kind.range[0] for kind in self.kinds])[at[1]]
        high = np.array([kind.range[1] for kind in self.kinds])[at[1]]
        want, sign = r.uniform(3, 10, len(low)), r.choice([-1, 1], len(low))
        up, down = (high - state.value[at]) / sigma, (state.value[at] - low) / sigma
        sign = np.where(np.where(sign > 0, up, down) < 3, -sign, sign)
        want = np.minimum(want, np.where(sign > 0, up, down) * 0.99)
        ok = want >= 3
        at = tuple(index[ok] for index in at)
        state.value[at] = np.round(state.value[at] + (sign * want * sigma)[ok], 2)
        state.size[at] = (sign * want)[ok]
        state.code[at] = SPIKE

    def _duplicate(self, day: int, state: Spoiled) -> Spoiled:
        """Half are the same again, half come with a slightly different value (a tenth to half a sigma)."""
        if not self.faults.duplicate:
            return state
        at = self._points("again", day, state, self.faults.duplicate, self.open)
        r = rng(self.seed, f"{self.feed} echo", day)
        off = r.choice([-1, 1], len(at[0])) * np.maximum(
            r.uniform(0.1, 0.5, len(at[0])) * self.sigma[at[1], at[2]], 0.01
        )
        off = np.where(r.random(len(at[0])) < 0.5, 0.0, off)
        low = np.array([kind.range[0] for kind in self.kinds])[at[1]]
        high = np.array([kind.range[1] for kind in self.kinds])[at[1]]
        moved = np.where((state.value[at] + off < low) | (state.value[at] + off > high), -off, off)
        again = np.where(off == 0, state.value[at], np.round(state.value[at] + moved, 2))
        return Spoiled(state.value, state.code, state.size, state.shift, state.form, at, again)
