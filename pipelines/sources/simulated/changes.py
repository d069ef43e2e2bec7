"""What is different in the city from some moment on: a road closed for good, a cabinet whose sensors break together.

Before that moment nothing is: the city as it was and the city as it is now are told one after the other, each with the
faults that it would have had all along.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate

import numpy as np

from pipelines.core.params import Source
from pipelines.core.reads import Broken
from pipelines.sources.simulated.faults import ABSENT, HERE, MISSING, NOISE, SCALED, STUCK, Spoiled, Spoiler
from pipelines.sources.simulated.ground import Array, Department, rng

FACTOR, SIGMAS = 0.6, 4.0
"""Of what is `scaled`; of `noise`, its standard deviation in those that are usual for the channel."""
CODES = {"stuck": STUCK, "silent": MISSING, "noise": NOISE, "scaled": SCALED}


class History:
    """A feed's days. `changed` makes its department once the roads at these sensors are closed; `measured` tells what a
    department's sensors truly show on a day in the contract's kinds, units and step, [steps, kinds, n]."""

    def __init__(
        self,
        source: Source,
        seed: int,
        sensors: tuple[str, ...],
        changed: Callable[[frozenset[str]], Department],
        measured: Callable[[Source, Department, int], Array],
    ) -> None:
        assert source.read.connector == "simulator"
        read = source.read
        self.seed, self.feed, self.sensors, self.kinds = seed, read.feed, sensors, list(source.kinds)
        self.ranges = [kind.range for kind in source.kinds.values()]
        self.rest = [kind.constant_ok for kind in source.kinds.values()]
        self.labels = [kind.label for kind in source.kinds.values()]
        self.broken = [change for change in read.changes if change.kind == "broken"]
        roads = sorted((change for change in read.changes if change.kind == "closed_road"), key=lambda c: c.at)
        closed = accumulate((frozenset(change.sensors) for change in roads), frozenset.union, initial=frozenset[str]())
        self.since = [-np.inf, *(change.at.timestamp() for change in roads)]
        self.departments, self.measured, self.source = [changed(names) for names in closed], measured, source
        self.step_s = int(source.step.total_seconds())
        self.steps = 86400 // self.step_s
        self.clean = lru_cache(maxsize=8)(self._clean)
        self.spoilers = [
            Spoiler(source, seed, read.feed, len(sensors), partial(self._until, era)) for era in range(len(self.since))
        ]
        self.records = self.spoilers[0].records

    def _row(self, day: int, moment: float | dt.datetime) -> int:
        """The first step of `day` that begins at `moment` (Unix seconds) or later, 0 … steps."""
        seconds = moment.timestamp() if isinstance(moment, dt.datetime) else moment
        return int(np.clip(np.ceil((seconds - day * 86400) / self.step_s), 0, self.steps))

    def _eras(self, day: int, last: int) -> dict[int, int]:
        """Which eras up to `last` the day sees, and the first of its steps in each."""
        rows = [self._row(day, since) for since in self.since[: last + 1]]
        ends = [*rows[1:], self.steps]
        return {era: row for era, (row, end) in enumerate(zip(rows, ends, strict=True)) if row < end}

    def _until(self, last: int, day: int) -> Array:
        """What would truly be measured on `day` had nothing changed after era `last`."""
        parts = self._eras(day, last)
        return np.concatenate(
            [
                self.measured(self.source, self.departments[era], day)[row:end]
                for (era, row), end in zip(parts.items(), [*list(parts.values())[1:], self.steps], strict=True)
            ]
        )

    def _clean(self, day: int) -> Array:
        return self._until(len(self.since) - 1, day)

    def spoiled(self, day: int) -> Spoiled:
        """The day as it reaches the archive."""
        parts = self._eras(day, len(self.since) - 1)
        days = {era: self.spoilers[era].day(day) for era in parts}
        state = days[min(parts)]
        for era, row in list(parts.items())[1:]:
            state = _spliced(state, days[era], row)
        for i, change in enumerate(self.broken):
            state = self._broke(day, state, change, i)
        return state

    def _broke(self, day: int, state: Spoiled, change: Broken, index: int) -> Spoiled:
        """All that the faults of every day do to these sensors is lost in what has befallen them."""
        lo, hi = self._row(day, change.at), self._row(day, change.until) if change.until else self.steps
        if lo >= hi:
            return state
        clean, code = self.clean(day), CODES[change.fault]
        sites = [self.sensors.index(name) for name in change.sensors]
        part = np.zeros(clean.shape, bool)
        part[lo:hi, :, sites] = np.isfinite(clean[lo:hi][:, :, sites])
        part[:, self.labels] = False
        value: Array = clean
        size: Array = np.zeros(clean.shape)
        low, high = np.array(self.ranges).T[:, :, None]
        if change.fault == "stuck":
            value = np.broadcast_to(self._held(change.at), clean.shape)
            ages = day * 86400 + np.arange(self.steps) * self.step_s - change.at.timestamp()
            size += ages[:, None, None]
        elif change.fault == "noise":
            size += rng(self.seed, f"{self.feed} broken", index, day).normal(0, SIGMAS, clean.shape)
            value = np.clip(clean + size * self.spoilers[-1].sigma, low, high).round(2)
        elif change.fault == "scaled":
            value, size = np.clip(clean * FACTOR, low, high).round(2), np.full(clean.shape, FACTOR)
        mine = part[state.again] if state.again else np.zeros(0, bool)
        return Spoiled(
            np.where(part, value, state.value),
            np.where(part, code, state.code).astype(np.int8),
            np.where(part, size, state.size),
            np.where(part, 0.0, state.shift),
            np.where(part, ABSENT if change.fault == "silent" else HERE, state.form).astype(np.int8),
            tuple(at[~mine] for at in state.again),
            state.again_value[~mine],
        )

    @lru_cache(maxsize=8)  # noqa: B019 - lives as long as its feed
    def _held(self, at: dt.datetime) -> Array:
        """What each channel showed last before `at` [kinds, n], but for what may last for ever: nobody could see that
        as a fault. NaN where two days had no such value."""
        day = int(at.timestamp() // 86400)
        past = np.concatenate([self.clean(day - 2), self.clean(day - 1), self.clean(day)[: self._row(day, at)]])
        held: Array = np.full(past.shape[1:], np.nan)
        for values in past:
            fit = np.isfinite(values) & ~np.stack([np.isin(v, ok) for v, ok in zip(values, self.rest, strict=True)])
            held = np.where(fit, values, held)
        return held


def _spliced(one: Spoiled, other: Spoiled, row: int) -> Spoiled:
    """`one` until step `row` and `other` from then on."""
    before: Array = one.again[0] < row if one.again else np.zeros(0, bool)
    after: Array = other.again[0] >= row if other.again else np.zeros(0, bool)
    whole = {
        name: np.concatenate([getattr(one, name)[:row], getattr(other, name)[row:]])
        for name in ("value", "code", "size", "shift", "form")
    }
    again = tuple(np.concatenate([a[before], b[after]]) for a, b in zip(one.again, other.again, strict=True))
    return dataclasses.replace(
        one, **whole, again=again, again_value=np.concatenate([one.again_value[before], other.again_value[after]])
    )
