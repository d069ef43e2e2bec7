"""Raw day files written by hand: smooth hourly or five-minute sensors, and records spoiled on purpose."""

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from small_city import city, kind, source

from pipelines.checks import rules, split
from pipelines.core import files, params
from pipelines.core.records import RECORDS, SENSORS, day_file, day_files, read_day, read_sensors

Record = tuple[dt.datetime, str, str, float | None]
FIRST = dt.datetime(2025, 1, 20, tzinfo=dt.UTC)
SENSOR_NAMES = ("s1", "s2", "s3", "s4", "s5", "s6")
Spoil = Callable[[list[Record]], list[Record]]


def at(text: str) -> dt.datetime:
    """`3 14:05` is 14:05 on the fourth day, UTC."""
    day, clock = text.split()
    hour, minute = clock.split(":")
    return FIRST + dt.timedelta(days=int(day), hours=int(hour), minutes=int(minute))


def smooth(days: int, *, minutes: int = 15, what: str = "a", level: float = 50.0, seed: int = 0) -> list[Record]:
    """A daily wave with noise for each sensor, the same in every run."""
    rng = np.random.default_rng(seed)
    out: list[Record] = []
    for i in range(days * 1440 // minutes):
        wave = 1 + 0.15 * np.sin(2 * np.pi * (i * minutes % 1440) / 1440)
        for k, sensor in enumerate(SENSOR_NAMES):
            value = level * (1 + 0.05 * k) * wave + 0.01 * level * rng.standard_normal()
            out.append((FIRST + dt.timedelta(minutes=i * minutes), sensor, what, round(float(value), 3)))
    return out


def write(root: Path, records: Iterable[Record], name: str = "x", sensors: Iterable[str] = SENSOR_NAMES) -> Path:
    """Replace the raw folder of source `name`, as ingest would leave it: sorted, equal ones in order of arrival."""
    folder = root / "data/raw" / name
    by_day: dict[dt.date, list[Record]] = {}
    for record in records:
        by_day.setdefault(record[0].date(), []).append(record)
    for day, path in day_files(folder).items():
        if day not in by_day:
            path.unlink()
    for day, found in by_day.items():
        columns = [list(column) for column in zip(*sorted(found, key=lambda r: r[:3]), strict=True)]
        files.write_table(day_file(folder, day), pa.Table.from_arrays(columns, schema=RECORDS))
    places = [{"sensor": s, "latitude": 52.0 + i / 100, "longitude": 5.0} for i, s in enumerate(sensors)]
    files.write_table(folder / "sensors.parquet", pa.Table.from_pylist(places, schema=SENSORS))
    return folder


def a_city(root: Path, *, until: str = "2025-01-30", kinds: dict[str, Any] | None = None, **more: Any) -> None:
    """One source `x`: every 15 minutes from 20 January unless told otherwise."""
    city(root, {"x": source(**{"step": "15min", "kinds": kinds or {"a": kind()}, **more})}, until)


def reasons(root: Path, records: Iterable[Record], **more: Any) -> dict[tuple[dt.datetime, str, str], list[str]]:
    """What is flagged in a source of these records, by time, sensor and kind; the last of equal ones stands."""
    a_city(root, **more)
    folder = write(root, records)
    spec = params.load(root).source("x")
    every = day_files(folder)
    where = split.placed(read_sensors(folder), spec.contract.bounds)
    out = {}
    for batch in split.batches(list(every), every):
        for day in split.flagged(batch, every, rules.rules("x", spec), where):
            for row in day.quarantined.to_pylist():
                out[row["time"], row["sensor"], row["kind"]] = row["reasons"]
    return out


def everything(folder: Path) -> list[tuple[Any, ...]]:
    """All records of a folder's day files, sorted; NaN as text so that it equals itself."""
    rows = [r for path in day_files(folder).values() for r in read_day(path).select(RECORDS.names).to_pylist()]
    return sorted((r["time"], r["sensor"], r["kind"], str(r["value"])) for r in rows)
