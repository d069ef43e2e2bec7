"""What was answered, by which release, and what was read of it since."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipelines.core import calendar
from pipelines.core.grid import Series
from pipelines.core.windows import Spec
from pipelines.models import objectives

Array = np.ndarray[Any, Any]
HASHED = 256
"""Rows of the grid that are hashed at once."""


class Words(NamedTuple):
    """A column of few different words: which of `words` each row has, int [P]."""

    codes: Array
    words: list[str]


class Rows(NamedTuple):
    """Logged answers by one release."""

    role: Words
    sensor: Words
    kind: Words
    time: Array
    """When the step begins, UTC datetime64[us] [P]."""
    step: Array
    """1 for the first asked."""
    issued: Array
    """By the clock of who answered, UTC datetime64[us] [P]."""
    answer: dict[str, Array]
    """The other columns, float64 or bool [P]; `class` as the number of the class."""


@dataclass(frozen=True)
class Truth:
    """What was read of the channels `columns` (ascending) in steps that have ended by row `end` of the grid.

    late: how old readings may be when they are answered by. None: the city's clock is not that of its servers, as a
    simulated one's is not, and nothing is said about clocks.
    """

    series: Series
    columns: Array
    end: int
    late: np.timedelta64 | None = None

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        found = self.series.channels.take(self.columns)
        return list(zip(found["sensor"].to_pylist(), found["kind"].to_pylist(), strict=True))

    @cached_property
    def units(self) -> dict[tuple[str, str], str]:
        return dict(zip(self.names, self.series.channels["unit"].take(self.columns).to_pylist(), strict=True))

    @cached_property
    def _where(self) -> dict[tuple[str, str], int]:
        return {name: i for i, name in enumerate(self.names)}

    def place(self, sensor: Words, kind: Words, label: str | None = None) -> Array:
        """Which of the columns tells the truth about each row, int [P]; −1: none. label: the kind that does."""
        return placed(sensor, kind, {(s, k): self._where.get((s, label or k), -1) for s, k in pairs(sensor, kind)})

    def sha256(self, spans: Iterable[tuple[str, str]]) -> str:
        """Of all that was read from one moment to another, of each of the spans, and of its units. A channel that is
        silent adds nothing: a sensor that comes later changes no earlier day."""
        sha = hashlib.sha256()
        for a, b in spans:
            lo, hi = (int((np.datetime64(t) - self.series.start) // self.series.step) for t in (a, b))
            for i in range(lo, hi, HASHED):
                values = self.series.read(i, min(i + HASHED, hi), self.columns)
                there = np.flatnonzero(np.isfinite(values).any(0))
                sha.update(repr((a, i - lo, [(*self.names[j], self.units[self.names[j]]) for j in there])).encode())
                sha.update(np.ascontiguousarray(values[:, there]).tobytes())
        return sha.hexdigest()

    def spans(self, rows: Array) -> list[tuple[str, str]]:
        """Rows of the grid, ascending, as moments from and until."""
        parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
        ends = [(part[0], part[-1] + 1) for part in parts]
        start, step = self.series.start, self.series.step
        return [(str(start + a * step), str(start + b * step)) for a, b in ends]


@dataclass(frozen=True)
class Release:
    """What scoring needs to know of a bundle. `label`: the kind that says what was an anomaly."""

    config: dict[str, Any]
    tables: dict[str, Array]
    label: str | None = None

    @cached_property
    def objective(self) -> Any:
        return objectives.of_bundle(self.config)

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(self.config["spec"])

    @property
    def alarms(self) -> bool:
        return "alarm" in self.objective.CALIBRATION

    @property
    def classes(self) -> list[str]:
        """Their names; none of another kind of question."""
        return self.config["names"] if "decision" in self.objective.CALIBRATION else []

    @cached_property
    def _channel(self) -> dict[tuple[str, str], int]:
        return {(c["sensor"], c["kind"]): i for i, c in enumerate(self.targets)}

    @property
    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.config["channels"][: self.config["targets"]]
        return found

    @cached_property
    def district(self) -> dict[tuple[str, str], str]:
        """Of each target that is in one."""
        return {(c["sensor"], c["kind"]): c["district"] for c in self.targets if c.get("district")}

    def other_units(self, truth: Truth) -> dict[tuple[str, str], tuple[str, str]]:
        """The release's own unit and that of what was read, of targets where these are not the same."""
        units = {(c["sensor"], c["kind"]): (c.get("unit"), truth.units.get((c["sensor"], c["kind"])))
                 for c in self.targets}  # fmt: skip
        return {name: (a, b) for name, (a, b) in units.items() if a and b and a != b}

    def channel(self, rows: Rows) -> Array:
        """Which of the release's targets each row is of, int [P]; −1: one that joined when it was asked."""
        return placed(rows.sensor, rows.kind, {p: self._channel.get(p, -1) for p in pairs(rows.sensor, rows.kind)})

    def usual(self, times: Array, channel: Array) -> Array:
        """The profile at each moment [P]; NaN where the release does not know the channel."""
        seconds = times.astype("datetime64[s]").astype(np.int64)
        low, each = (seconds.min() if len(seconds) else 0), self.spec.step_s
        each = 1 if ((seconds - low) % each).any() else each  # off the grid they are told apart all the same
        found, at = numbered((seconds - low) // each)
        moments = (found * each + low).astype("datetime64[s]")
        slots = calendar.slot_of_week(moments, self.spec.timezone, self.spec.holidays, self.spec.step_s)
        return np.where(channel < 0, np.nan, self.tables["profile"][slots[at], channel])

    def truth(self, values: Array, channel: Array) -> Array:
        """What was asked [P], from readings [P]."""
        reference = np.where(channel < 0, np.nan, self.tables["reference"][channel])
        found: Array = self.objective.truth(values, {**self.config["aux"], "reference": reference})
        return found

    def away(self, difference: Array, channel: Array) -> Array:
        """In the channel's standard deviations [P]; NaN where the release does not know it."""
        spread = self.tables["std"][channel]
        return np.where(channel < 0, np.nan, np.abs(difference) / np.where(spread > 0, spread, 1))


def numbered(codes: Array) -> tuple[Array, Array]:
    """Which there are of int64 [P], ascending, and which of these each is; without sorting where they lie close."""
    low = codes.min(initial=np.iinfo(np.int64).max)
    if not len(codes) or (span := int(codes.max() - low) + 1) > 8 * len(codes):
        found, number = np.unique(codes, return_inverse=True)
        return found, number
    there = np.bincount(codes - low, minlength=span) > 0
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[codes - low]


def pairs(sensor: Words, kind: Words) -> list[tuple[str, str]]:
    """Every sensor with every kind, in the order `placed` counts them."""
    return [(s, k) for s in sensor.words for k in kind.words]


def placed(sensor: Words, kind: Words, number: Mapping[tuple[str, str], int]) -> Array:
    """The number of each row's channel, int [P]."""
    table = np.array([number[pair] for pair in pairs(sensor, kind)], np.int64)
    found: Array = table[sensor.codes.astype(np.int64) * len(kind.words) + kind.codes]
    return found
