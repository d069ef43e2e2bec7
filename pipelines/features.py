"""Put a validated source on its regular grid: float32 [T, N], a chunk a month, splits and scalers beside it.

A record belongs to the step in which its time lies (floor): row t holds [start + t·step, start + (t+1)·step).
Several records of one step become one by their kind's `aggregate`. The grid ends with the last step that is
whole before the window's end, and only values that are there and finite count: a channel begins on the day
of its first one. Memory is one month of the grid plus about a million records, however long the history.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core import grid, log, params, records
from pipelines.core.errors import UserError, nearest
from pipelines.core.params import Source
from pipelines.core.paths import Paths
from pipelines.items import features as items

BATCH = 1_000_000
"""Records gridded at once; days are not torn apart."""

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Grid source `key`. Raises UserError when there is nothing to train on, or a kind is not in params.yaml."""
    city = params.load(root)
    source, end = city.source(key), city.window_end(key)
    paths = Paths(root)
    folder = paths.validated(key)
    length = (end - source.start) // source.step
    if source.modality != "series":
        return items.run(key, city, root)
    with log.room("features", key) as told:
        if length <= 0:
            raise UserError(
                f"{params.WINDOW}: {key}: the window ends before its first step; move it with cityloop window"
            )
        days = _days(folder, source.start, source.start + length * source.step)
        _check(folder, key, source, days)
        work = Gridding(source, days)
        grid.write(
            paths.features(source.modality, key),
            start=source.start,
            step=source.step,
            months=work.months(length),
            channels=lambda: _channels(work.found, source, records.read_sensors(folder)),
            splits=_splits(source, length),
            edges=records.read_edges(folder),
            timezone=source.timezone or city.city.timezone,
        )
        told.update(steps=length, channels=len(work.found), values=work.filled)


def _days(folder: Path, start: dt.datetime, end: dt.datetime) -> dict[dt.date, Path]:
    """The day files that [start, end) touches, oldest first."""
    there = records.day_files(folder)
    return {day: there[day] for day in records.days(start, end) if day in there}


def _check(folder: Path, key: str, source: Source, days: dict[dt.date, Path]) -> None:
    """Raises UserError when no record lies in the window, a kind is unknown, or nothing can be trained on."""
    if not days or not (folder / "sensors.parquet").exists():
        raise UserError(f"{folder}: no validated data in the window; run `cityloop validate {key}`")
    for path in days.values():
        column = pq.read_table(path, columns=["kind"], partitioning=None, read_dictionary=["kind"])["kind"]
        for kind in pc.unique(column).to_pylist():
            if kind not in source.kinds:
                at = f"{params.PARAMS}: sources.{key}.kinds"
                raise UserError(f"{path}: kind {kind!r} is not in {at}; {nearest(str(kind), source.kinds)}")
    until = source.validation_from
    training = (path for day, path in days.items() if dt.datetime.combine(day, dt.time(), dt.UTC) < until)
    if not any(_has_values(path, source.start, until) for path in training):
        raise UserError(
            f"{params.PARAMS}: sources.{key}.validation_from: no values between start {source.start:%Y-%m-%d} and "
            f"{until:%Y-%m-%d} to train on; ingest earlier data or move the dates"
        )


def _has_values(path: Path, start: dt.datetime, end: dt.datetime) -> bool:
    table = pq.read_table(path, columns=["time", "value"], partitioning=None)
    inside = pc.and_(pc.greater_equal(table["time"], pa.scalar(start)), pc.less(table["time"], pa.scalar(end)))
    return bool(pc.any(pc.and_(inside, pc.is_finite(table["value"]))).as_py())


def _splits(source: Source, length: int) -> dict[str, tuple[int, int]]:
    """Row ranges by the source's dates; a step that a date cuts is the earlier split's."""
    a, b = (min(-((source.start - when) // source.step), length) for when in (source.validation_from, source.test_from))
    return {"train": (0, a), "validation": (a, b), "test": (b, length)}


def _channels(found: list[tuple[str, str]], source: Source, sensors: pa.Table) -> pa.Table:
    """The channel table (grid.CHANNELS), in the order found."""
    about = {row["sensor"]: row for row in sensors.to_pylist()}
    rows = []
    for sensor, kind in found:
        spec, place = source.kinds[kind], about.get(sensor, {})
        row = {name: place.get(name) for name in ("latitude", "longitude", "district")}
        about_kind = {"kind": kind, "unit": spec.unit, "aggregate": spec.aggregate, "label": spec.label}
        rows.append({"sensor": sensor, **about_kind, **row})
    return pa.Table.from_pylist(rows, schema=grid.CHANNELS)


@dataclass
class Gridding:
    """One pass over a source's day files. `found` grows as channels, (sensor, kind), appear."""

    source: Source
    days: dict[dt.date, Path]
    found: list[tuple[str, str]] = field(default_factory=list)
    filled: int = 0
    """Cells with a value."""

    def months(self, length: int) -> Iterator[tuple[str, Array]]:
        """(month, float32 [t, n]) with the n channels known by the month's end."""
        import ibis

        # One thread: a sum of doubles depends on their order, and equal inputs must give equal bytes.
        engine = ibis.duckdb.connect(threads=1)
        engine.raw_sql("SET TimeZone = 'UTC'")
        with log.Progress("features", length, "steps") as shown:
            for name, lo, hi in grid.months(self.source.start, self.source.step, length):
                yield name, self._month(engine, lo, hi)
                shown.add(hi - lo, name)
        engine.disconnect()

    def _month(self, engine: Any, lo: int, hi: int) -> Array:
        values = np.full((hi - lo, len(self.found)), np.nan, np.float32)
        for a, b, paths in self._batches(lo, hi):
            table = gridded(engine.read_parquet([str(path) for path in paths]), self.source, a, b).to_pyarrow()
            if len(table):
                values = self._scatter(values, table, lo)
                self.filled += len(table)
        return values

    def _batches(self, lo: int, hi: int) -> Iterator[tuple[int, int, list[Path]]]:
        """(first row, one past the last, day files) of whole UTC days with about BATCH records together."""
        first, paths = lo, dict[Path, int]()
        for _, a, b in grid.days(self.source.start, self.source.step, lo, hi):
            begin, end = (self.source.start + row * self.source.step for row in (a, b))
            for day in records.days(begin, end):
                if day in self.days and self.days[day] not in paths:
                    paths[self.days[day]] = pq.read_metadata(self.days[day]).num_rows
            if paths and (sum(paths.values()) >= BATCH or b == hi):
                yield first, b, list(paths)
                first, paths = b, {}

    def _scatter(self, values: Array, table: pa.Table, lo: int) -> Array:
        """Put gridded records (row, sensor, kind, value) into `values`, widened by the channels that are new."""
        row = table["row"].to_numpy()
        sensors, kinds = (table[name].combine_chunks().dictionary_encode() for name in ("sensor", "kind"))
        width = len(kinds.dictionary)
        pair = sensors.indices.to_numpy().astype(np.int64) * width + kinds.indices.to_numpy()
        first = np.full(len(sensors.dictionary) * width, np.iinfo(np.int64).max)
        np.minimum.at(first, pair, row)
        codes = np.flatnonzero(first < np.iinfo(np.int64).max)
        names = [(sensors.dictionary[int(c) // width].as_py(), kinds.dictionary[int(c) % width].as_py()) for c in codes]
        values = self._widen(values, {name: int(first[c]) for name, c in zip(names, codes, strict=True)})
        index = {name: i for i, name in enumerate(self.found)}
        column = np.zeros(len(first), np.int64)
        column[codes] = [index[name] for name in names]
        with np.errstate(over="ignore"):
            single = table["value"].to_numpy().astype(np.float32)
        values[row - lo, column[pair]] = np.where(np.isfinite(single), single, np.nan)
        return values

    def _widen(self, values: Array, first: dict[tuple[str, str], int]) -> Array:
        """Columns for channels not seen before, ordered by the day of their first row, then by name."""
        known = set(self.found)
        start, step = self.source.start, self.source.step
        new = sorted(((start + row * step).date(), name) for name, row in first.items() if name not in known)
        if not new:
            return values
        self.found += [name for _, name in new]
        return np.concatenate([values, np.full((len(values), len(new)), np.nan, np.float32)], axis=1)


def gridded(table: Any, source: Source, lo: int, hi: int) -> Any:
    """An Ibis table of records → (row, sensor, kind, value) for rows [lo, hi), one a cell. Any engine, UTC assumed."""
    import ibis

    step = int(source.step.total_seconds())
    begin, end = (ibis.timestamp(source.start + row * source.step) for row in (lo, hi))
    finite = table.value.notnull() & ~table.value.isnan() & ~table.value.isinf()
    inside = table.filter((table.time >= begin) & (table.time < end) & finite)
    # Truncated first: engines differ in whether an epoch has a fraction.
    seconds = inside.time.cast("timestamp").truncate("s").epoch_seconds().cast("int64")
    keyed = inside.mutate(row=(seconds - int(source.start.timestamp())) // step)
    parts = []
    for how in sorted({spec.aggregate for spec in source.kinds.values()}):
        part = keyed.filter(keyed.kind.isin([k for k, spec in source.kinds.items() if spec.aggregate == how]))
        value = part.value.argmax(part.time) if how == "last" else getattr(part.value, how)()
        parts.append(part.group_by(["row", "sensor", "kind"]).aggregate(value=value))
    return parts[0] if len(parts) == 1 else ibis.union(*parts)
