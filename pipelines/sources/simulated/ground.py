"""What all departments of the simulated city stand on: random streams, places, districts, local time."""

import datetime as dt
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipelines.core import calendar
from pipelines.core.params import City
from pipelines.core.records import EDGES, SENSORS

Array = np.ndarray[Any, Any]
CENTRE = (52.09, 5.12)
KM_LAT, KM_LON = 111.2, 68.4
DISTRICTS = ("Centre", "North", "East", "South", "West")


@dataclass(frozen=True)
class Sites:
    """Where a department's sensors stand, kilometres east (`x`) and north (`y`) of the centre."""

    names: tuple[str, ...]
    x: Array
    y: Array
    edges: tuple[tuple[int, int, float], ...] = field(default=())
    """(from, to, kilometres)"""

    @property
    def district(self) -> Array:
        """Index into DISTRICTS, [n]."""
        quarter = np.floor((np.degrees(np.arctan2(self.x, self.y)) % 360 + 45) / 90).astype(int) % 4
        return np.where(np.hypot(self.x, self.y) < 1.8, 0, 1 + quarter)

    def table(self) -> pa.Table:
        columns = [
            list(self.names),
            np.round(CENTRE[0] + self.y / KM_LAT, 5),
            np.round(CENTRE[1] + self.x / KM_LON, 5),
            [DISTRICTS[d] for d in self.district],
        ]
        return pa.table(columns, schema=SENSORS)

    def edge_table(self) -> pa.Table:
        """Weights fall with distance and lie in (0, 1]."""
        source = [self.names[a] for a, _, _ in self.edges]
        target = [self.names[b] for _, b, _ in self.edges]
        return pa.table([source, target, [round(float(np.exp(-km / 3)), 4) for *_, km in self.edges]], schema=EDGES)

    def distance(self, x: float | Array, y: float | Array) -> Array:
        return np.hypot(self.x - x, self.y - y)


class Department(Protocol):
    """One department of the city."""

    step_s: int
    units: dict[str, tuple[str, int]]
    """kind → (unit, decimals that are reported)"""
    sites: Sites

    def day(self, day: int) -> dict[str, Array]:
        """What the sensors truly show on UTC day `day` (since 1970), by kind: [steps, n]; NaN: nothing to report."""
        ...


def rng(seed: int, stream: str, *key: int) -> np.random.Generator:
    """The random stream of this name in this city, for a day or any other key."""
    return np.random.default_rng([seed % 2**63, zlib.crc32(stream.encode()), *(k + 2**20 for k in key)])


def evenly(seed: int, stream: str, day: int, rate: float) -> int:
    """How many of something begin on `day` when `rate` a day are due: as even as whole numbers can be."""
    phase = float(rng(seed, stream).random())
    return int(np.floor((day + 1) * rate + phase) - np.floor(day * rate + phase))


def red(seed: int, stream: str, day: int, steps: int, width: int, tau: float) -> Array:
    """Persistent noise (first-order, memory `tau` steps, unit variance) on `day`, [steps, width].

    Drawn from that day's stream and from as many days before as the memory reaches.
    """
    back = int(np.ceil(7 * tau / steps))
    a = np.exp(-1 / tau)
    past = np.concatenate([rng(seed, stream, d).standard_normal((steps, width)) for d in range(day - back, day)])
    state = (past * (a ** np.arange(len(past))[::-1])[:, None]).sum(0)
    now = rng(seed, stream, day).standard_normal((steps, width))
    power = (a ** np.arange(steps))[:, None]
    return np.sqrt(1 - a * a) * power * (a * state + np.cumsum(now / power, axis=0))


def local(city: City, day: int, step_s: int, shift_h: float = 0.0) -> tuple[Array, Array]:
    """Local hour of day and day of week (0 Monday; a holiday is a Sunday) at each step of UTC `day`, each [steps]."""
    times = np.datetime64(day, "D").astype("datetime64[s]") + np.arange(0, 86400, step_s) + int(shift_h * 3600)
    seconds = calendar.local_seconds(times, city.timezone)
    weekday = (seconds // 86400 + 3) % 7
    off = [int(np.datetime64(h, "D").astype(np.int64)) for h in city.holidays]
    return seconds % 86400 / 3600, np.where(np.isin(seconds // 86400, off), 6, weekday)


def bump(hour: Array, centre: float, width: float) -> Array:
    """A peak of height 1 on the clock, the same shape on both sides of midnight."""
    away = (hour - centre + 12) % 24 - 12
    return np.exp(-0.5 * (away / width) ** 2)


def scatter(seed: int, stream: str, n: int, prefix: str, radius: float) -> tuple[tuple[str, ...], Array, Array]:
    """Names and places of `n` sensors, evenly strewn over the city (a sunflower, jittered)."""
    r = rng(seed, stream)
    at = np.sqrt((np.arange(n) + 0.5) / n) * radius
    turn = np.arange(n) * 2.39996 + r.uniform(0, 2 * np.pi)
    jitter = r.normal(0, 0.25, (2, n))
    names = tuple(f"{prefix}{i + 1:0{max(2, len(str(n)))}d}" for i in range(n))
    return names, at * np.cos(turn) + jitter[0], at * np.sin(turn) + jitter[1]


def envelope(t: Array, start: float | Array, end: float | Array, rise: float, fall: float) -> Array:
    """0 before `start`, up to 1 within `rise`, held until `end`, then decaying with time constant `fall`."""
    up = np.clip((t - start) / rise, 0, 1)
    down = np.exp(-np.maximum(t - end, 0) / fall)
    return np.where(np.asarray(end) > np.asarray(start), up * down, 0.0)


def to_day(moment: dt.datetime) -> int:
    return int((moment.date() - dt.date(1970, 1, 1)).days)


def interpolate(hourly: Sequence[Array], steps: int) -> Array:
    """Hourly values of a day and of the first hour after it, on `steps` steps of the day."""
    points = np.concatenate([hourly[0], hourly[1][:1]])
    return np.interp(np.arange(steps) * 24 / steps, np.arange(25), points)
