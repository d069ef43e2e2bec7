"""Connector for what cities have on their disks: files of measurements, of sensors and of roads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.reads import FilesRead, TimeSplit
from pipelines.core.records import EDGES, RECORDS
from pipelines.sources import Batch, Feed, Window
from pipelines.sources.files_fetch import File, locate
from pipelines.sources.files_places import read_edges, read_sensors
from pipelines.sources.files_tables import INDEX, Table, first_null, matrix, numbers, open_table, texts
from pipelines.sources.files_time import BadTime, Clock, parse, split

Array = np.ndarray[Any, Any]
_MOMENT = RECORDS.field("time").type


def read(source: Source, city: City, window: Window, root: Path) -> Feed:
    """A feed of everything in the files that `source.read` names, whatever the window.

    Raises UserError, here or while batches are drawn, with file, row or column, and what to do.
    """
    spec = _spec(source)
    found = locate(spec.path, spec.sha256, root)
    sensors = read_sensors(spec, root)
    order = sensors["sensor"].to_pylist()
    if spec.graph is None:
        edges = EDGES.empty_table()
    else:
        edges = read_edges(spec, root, order or _wide_order(open_table(found[0], spec, spec.format), source))
    return Feed(sensors, _batches(found, source, order), edges)


def _spec(source: Source) -> FilesRead:
    assert isinstance(source.read, FilesRead)
    return source.read


def _batches(found: list[File], source: Source, order: list[str]) -> Iterator[Batch]:
    spec = _spec(source)
    layout = {"wide": _wide, "long": _long, "station": _station}[spec.layout]
    for file in found:
        table = open_table(file, spec, spec.format)
        for records in layout(table, source, order):
            yield Batch(records)


class _Times:
    """UTC microseconds of a chunk's rows, by whichever way the file tells the time."""

    def __init__(self, table: Table, source: Source) -> None:
        spec = _spec(source)
        self.table, self.spec, self.step = table, spec, source.step
        self.clock = Clock(spec.timezone)
        time = INDEX if spec.time is None and spec.first is None and INDEX in table.names else spec.time
        if time is None and spec.first is None:
            raise UserError(f"{table.file.name}: set `time` to the column with the time, or `first` to that of row 1")
        parts = time.model_dump(exclude_none=True) if isinstance(time, TimeSplit) else {"time": time} if time else {}
        self.parts = {part: table.column(name) for part, name in parts.items()}

    @property
    def columns(self) -> list[str]:
        return list(self.parts.values())

    def __call__(self, row: int, chunk: pa.RecordBatch, series: list[pa.Array] | None = None) -> Array:
        """int64 [rows]; `row` is the chunk's first, `series` the columns that tell a row's series."""
        if not self.parts:
            assert self.spec.first is not None
            first = int(np.datetime64(self.spec.first.replace(tzinfo=None), "us").astype(np.int64))
            return first + (row + np.arange(len(chunk))) * round(self.step.total_seconds() * 1e6)
        try:
            if "time" in self.parts:
                local, zoned = parse(chunk[self.parts["time"]], self.spec.time_format)
            else:
                local = split({part: (name, self._whole(row, chunk, name)) for part, name in self.parts.items()})
                zoned = np.zeros(len(local), bool)
            return self.clock.utc(local, zoned, lambda i: tuple(column[i].as_py() for column in series or ()))
        except BadTime as error:
            column = self.parts.get("time")
            raise UserError(f"{self.table.at(row + error.row, column)}: time {error.why}") from None

    def _whole(self, row: int, chunk: pa.RecordBatch, name: str) -> Array:
        values = numbers(chunk[name], self.spec, lambda i: self.table.at(row + i, name))
        bad = ~(values == np.floor(values))
        if bad.any():
            raise BadTime(int(np.argmax(bad)), f"is no whole number in column {name!r}")
        return values.astype(np.int64)


def _wide(table: Table, source: Source, order: list[str]) -> Iterator[pa.Table]:
    """A column a sensor: each row becomes a record a column."""
    spec = _spec(source)
    times = _Times(table, source)
    targets = _targets(table, source, order, times.columns)
    names = [column for column, _, _ in targets]
    sensors, kinds = (pa.array([t[i] for t in targets], pa.string()) for i in (1, 2))
    for row, chunk in table.chunks([*times.columns, *names]):
        moments = times(row, chunk)
        yield _melt(moments, matrix(table, spec, row, chunk, names), kinds, sensors=sensors)


def _station(table: Table, source: Source, order: list[str]) -> Iterator[pa.Table]:
    """A column a kind: each row becomes a record a kind, all of one sensor."""
    spec = _spec(source)
    times = _Times(table, source)
    chosen = spec.columns or {kind: kind for kind in source.kinds}
    names = [table.column(column) for column in chosen]
    kinds = pa.array(list(chosen.values()), pa.string())
    sensor = table.column(spec.sensor) if spec.sensor else None
    for row, chunk in table.chunks([*times.columns, *names, *([sensor] if sensor else [])]):
        stations = _sensor_column(table, spec, row, chunk, sensor)
        moments = times(row, chunk, [stations])
        yield _melt(moments, matrix(table, spec, row, chunk, names), kinds, stations=stations)


def _long(table: Table, source: Source, order: list[str]) -> Iterator[pa.Table]:
    """A row a record."""
    spec = _spec(source)
    assert spec.value is not None
    times = _Times(table, source)
    value = table.column(spec.value)
    sensor = table.column(spec.sensor) if spec.sensor else None
    kind = table.column(spec.kind) if spec.kind else None
    only = None if kind else _only_kind(source, table, "kind")
    extra = [column for column in (sensor, kind) if column]
    for row, chunk in table.chunks([*times.columns, value, *extra]):
        sensors = _sensor_column(table, spec, row, chunk, sensor)
        kinds = pa.repeat(pa.scalar(only, pa.string()), len(chunk)) if kind is None else texts(chunk[kind])
        if kinds.null_count:
            raise UserError(f"{table.at(row + first_null(kinds), kind)}: no kind; give one")
        if spec.columns:
            coded = kinds.dictionary_encode()
            words = pa.array([spec.columns.get(w, w) for w in coded.dictionary.to_pylist()], pa.string())
            kinds = words.take(coded.indices)
        values = numbers(chunk[value], spec, lambda i, row=row: table.at(row + i, value))  # type: ignore[misc]
        moments = times(row, chunk, [sensors, kinds])
        yield _records(moments, sensors, kinds, values)


def _targets(table: Table, source: Source, order: list[str], taken: list[str]) -> list[tuple[str, str, str]]:
    """(column, sensor, kind) of each column of a wide file that is a channel."""
    spec = _spec(source)
    if table.channels:
        return _channels(table, spec, order)
    if spec.columns:
        targets = []
        for column, target in spec.columns.items():
            sensor, slash, kind = target.rpartition("/")
            if not slash:
                sensor, kind = target, _only_kind(source, table, "columns")
            targets.append((table.column(column), sensor, kind))
        return targets
    skipped = {table.column(name) for name in spec.skip} | set(taken)
    names = [table.column(name) for name in table.names if name not in skipped]
    if not names:
        raise UserError(f"{table.file.name}: no column is left to be a sensor; check `layout` and `skip`")
    ids = [name.strip() for name in names]
    if not table.named and order:
        _same_number(table, len(order), len(names))
        ids = order
    if empty := next((i for i, name in enumerate(ids) if not name), None):
        raise UserError(f"{table.file.name}: column {empty + 1} has no name; give it a sensor's id, or `skip` it")
    return [(name, sensor, _only_kind(source, table, "kind")) for name, sensor in zip(names, ids, strict=True)]


def _channels(table: Table, spec: FilesRead, order: list[str]) -> list[tuple[str, str, str]]:
    places = list(dict.fromkeys(name.partition("/")[0] for name in table.names if name != INDEX))
    if order:
        _same_number(table, len(order), len(places))
    wrong = next((c for c in spec.columns if c not in map(str, range(table.channels))), None)
    if wrong is not None or not spec.columns:
        raise UserError(
            f"{table.file.name}: the array has {table.channels} channels; name their kinds in `columns`, such as "
            f'{{"0": flow}}' + (f"; there is no channel {wrong!r}" if wrong is not None else "")
        )
    ids = order or places
    return [(f"{p}/{c}", s, kind) for p, s in zip(places, ids, strict=True) for c, kind in spec.columns.items()]


def _same_number(table: Table, listed: int, found: int) -> None:
    if listed != found:
        raise UserError(f"{table.file.name}: {found} columns without names, but {listed} sensors in the sensor table")


def _wide_order(table: Table, source: Source) -> list[str]:
    """The sensors of a wide file in the order of its columns, for a matrix without a sensor table."""
    if _spec(source).layout != "wide":
        return []
    targets = _targets(table, source, [], _Times(table, source).columns)
    return list(dict.fromkeys(sensor for _, sensor, _ in targets))


def _only_kind(source: Source, table: Table, key: str) -> str:
    spec = _spec(source)
    if spec.layout == "wide" and spec.kind:
        return spec.kind
    if len(source.kinds) > 1:
        raise UserError(f"{table.file.name}: which of {', '.join(source.kinds)} is measured? Set read.{key}")
    return next(iter(source.kinds))


def _sensor_column(table: Table, spec: FilesRead, row: int, chunk: pa.RecordBatch, column: str | None) -> pa.Array:
    """The sensor of each row: from its column, the params, or the file's name."""
    if column is not None:
        ids = texts(chunk[column])
        if ids.null_count:
            raise UserError(f"{table.at(row + first_null(ids), column)}: no sensor id; give one")
        return ids
    return pa.repeat(pa.scalar(spec.station or _sensor_of_name(table.file, spec.sensor_pattern)), len(chunk))


def _sensor_of_name(file: File, pattern: str | None) -> str:
    if pattern is None:
        return file.stem
    match = re.search(pattern, file.name.replace("\\", "/").rpartition("/")[2])
    if not match or not match[1]:
        raise UserError(f"{file.name}: the name does not match sensor_pattern {pattern!r}; correct it, or the glob")
    return match[1]


def _melt(
    times: Array, values: Array, kinds: pa.Array, *, sensors: pa.Array | None = None, stations: pa.Array | None = None
) -> pa.Table:
    """Records of values [T, C], row by row; `sensors` has one for each column, or `stations` one for each row."""
    rows, columns = values.shape
    across = np.tile(np.arange(columns), rows)
    ids = sensors.take(pa.array(across)) if sensors is not None else None
    if ids is None:
        assert stations is not None
        ids = stations.take(pa.array(np.repeat(np.arange(rows), columns)))
    return _records(np.repeat(times, columns), ids, kinds.take(pa.array(across)), values.ravel())


def _records(times: Array, sensors: pa.Array, kinds: pa.Array, values: Array) -> pa.Table:
    """Schema RECORDS; NaN becomes null."""
    columns = [pa.array(times).cast(_MOMENT), sensors, kinds, pa.array(values, from_pandas=True)]
    return pa.Table.from_arrays(columns, schema=RECORDS)
