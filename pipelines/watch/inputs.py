"""What a champion's channels read on whole UTC days, as its joined grid would have it, and what validate thought of it.

The grids of features are read, not the joined one: an input that the champion knows may not be in the task any more.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core import calendar, windows
from pipelines.core.aligned import Part, aligned
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec

Array = np.ndarray[Any, Any]
DAY = np.timedelta64(86400, "s")
NEW = 3
"""A sensor is new that read something in the last so many days and is unknown."""


@dataclass(frozen=True)
class Inputs:
    """Of a bundle's channels. `placed`: channels of one grid, and which of the bundle's each is."""

    config: Mapping[str, Any]
    profile: Array
    target: Series
    placed: tuple[tuple[Part, Array], ...]
    quarantine: Mapping[tuple[str, str, str], float]
    """Day, sensor, kind → what share of its records validate did not let through."""
    rests: Mapping[int, tuple[float, ...]]
    """Channel → values that may last for ever."""

    @classmethod
    def of(cls, city: Params, paths: Paths, config: Mapping[str, Any], profile: Array, since: str) -> "Inputs | None":
        """None where the target's features are not there. since: the first day (ISO) to be asked for."""
        number = {(c["sensor"], c["kind"]): i for i, c in enumerate(config["channels"])}
        placed, found, rests, series = [], dict[tuple[str, str, str], float](), dict[int, tuple[float, ...]](), {}
        for source in dict.fromkeys([config["target"]["source"], *(more["source"] for more in config["inputs"])]):
            if source not in city.sources:
                continue
            try:
                series[source] = Series.open(paths.features("series", source))
            except FileNotFoundError:
                continue
            rows = series[source].channels.to_pylist()
            own = [(i, number.pop((row["sensor"], row["kind"]), -1)) for i, row in enumerate(rows)]
            columns, where = (np.array(x, np.int64) for x in zip(*((i, n) for i, n in own if n >= 0), strict=True))
            placed.append((Part(series[source], columns, tuple(rows[i]["aggregate"] for i in columns)), where))
            kinds = city.source(source).kinds
            rests |= {int(n): kinds[rows[i]["kind"]].constant_ok for i, n in own if n >= 0 and rows[i]["kind"] in kinds}
            found |= _quarantined(paths.quarantine(source) / "channels.parquet", since)
        target = series.get(config["target"]["source"])
        return None if target is None else cls(config, profile, target, tuple(placed), found, rests)

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(self.config["spec"])

    @cached_property
    def names(self) -> list[str]:
        """sensor/kind of each channel."""
        return [f"{c['sensor']}/{c['kind']}" for c in self.config["channels"]]

    def days(self, since: str, until: dt.datetime) -> list[str]:
        """The whole UTC days (ISO) from `since` on that end by `until` and with the target's grid."""
        end = min(np.datetime64(until.astimezone(dt.UTC).replace(tzinfo=None), "s"), self._end)
        return [str(day) for day in np.arange(np.datetime64(since, "D"), end.astype("datetime64[D]"))]

    @property
    def _end(self) -> np.datetime64:
        end: np.datetime64 = self.target.start + self.target.length * self.target.step
        return end

    def read(self, day: str) -> Array:
        """Readings of a day [T, N]; NaN = missing."""
        step = np.timedelta64(self.spec.step_s, "s")
        out = np.full((86400 // self.spec.step_s, len(self.names)), np.nan)
        for part, where in self.placed:
            out[:, where] = aligned(part, np.datetime64(day, "s"), step, len(out))
        return out

    def usual(self, day: str, seen: Array) -> Array:
        """What the usual week says of each step [T, N]; NaN in slots of the week [slots] that training did not see."""
        times = np.datetime64(day, "s") + np.arange(0, 86400, self.spec.step_s).astype("timedelta64[s]")
        profile = np.where(seen[:, None] > 0, self.profile, np.nan)
        return windows.profile_at(profile, times, self.spec).astype(np.float64)

    def off(self, day: str) -> bool:
        """Whether noon lies on a weekend or a holiday."""
        slot = calendar.slot_of_week(np.array([f"{day}T12"], "M8[s]"), self.spec.timezone, self.spec.holidays, 86400)
        return bool(slot[0] >= 5)

    def quarantined(self, day: str) -> Array:
        """The share of each channel's records that validate did not let through, [N]."""
        told = [self.quarantine.get((day, c["sensor"], c["kind"]), 0.0) for c in self.config["channels"]]
        return np.array(told)

    def strangers(self, until: dt.datetime) -> tuple[list[str], int]:
        """Sensors with a target's kind that the bundle does not know and that read something lately; and how many there
        are in all."""
        known = {c["sensor"] for c in self.config["channels"][: self.config["targets"]]}
        kinds = {c["kind"] for c in self.config["channels"][: self.config["targets"]]}
        names = self.target.channels.select(["sensor", "kind"]).to_pylist()
        other = np.array([i for i, n in enumerate(names) if n["kind"] in kinds and n["sensor"] not in known], np.int64)
        end = min(self.target.row(until), self.target.length)
        first = max(0, end - NEW * 86400 // self.target.step_s)
        speak = np.isfinite(self.target.read(first, max(end, first), other)).any(0)
        new = sorted({names[i]["sensor"] for i in other[speak]})
        return new, len(known) + len(new)


def _quarantined(path: Path, since: str) -> dict[tuple[str, str, str], float]:
    if not path.is_file():
        return {}
    wanted = ["day", "sensor", "kind", "raw", "validated"]
    table: pa.Table = pq.read_table(path, columns=wanted, filters=pc.field("day") >= since, partitioning=None)
    rows = zip(*(table[name].to_pylist() for name in wanted), strict=True)
    return {(day, sensor, kind): 1 - good / raw for day, sensor, kind, raw, good in rows if raw and good < raw}
