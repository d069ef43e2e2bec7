"""Fetch a source's window into day files: stream, mask personal data, spool, then publish what changed.

Records arrive in any order. Each batch is masked, sorted by time and spooled to the state folder; only
when the feed has ended without error are the days put together, one at a time. So memory is that of a
batch or a day however long the history, and a feed that breaks half-way changes nothing.
"""

import datetime as dt
import hmac
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import files, log, params
from pipelines.core.errors import UserError, nearest
from pipelines.core.paths import Paths
from pipelines.core.records import EDGES, RECORDS, SENSORS, TRUTH, day_file
from pipelines.core.scratch import scratch as _scratch
from pipelines.items import ingest as items
from pipelines.sources import Feed, Window, open_feed

HASH_KEY = "CITYLOOP_HASH_KEY"
SPOOL_ROWS = 1 << 20
_DAY = 86_400_000_000  # microseconds
_EPOCH = dt.date(1970, 1, 1)

Array = np.ndarray[Any, Any]


def run(source: str, *, root: Path = Path()) -> None:
    """Write `data/raw/<source>/`: day files, sensors, edges and truth where the feed has them.

    What is there afterwards follows from the feed and the window alone; files whose bytes are right
    already are left untouched. Raises UserError and changes nothing when the feed cannot be read.
    """
    city = params.load(root)
    spec = city.source(source)
    window = Window(spec.start, city.window_end(source))
    if window.end <= window.start:
        raise UserError(
            f"{root / params.WINDOW}: {source}: the window [{_text(window.start)}, {_text(window.end)}) is empty; "
            f"run `cityloop window --until DATE {source}`"
        )
    if spec.modality != "series":
        return items.run(source, city, root)
    paths = Paths(root)
    mask = _Mask(spec.privacy, f"{root / params.PARAMS}: sources.{source}.privacy")
    with log.room("ingest", source) as told, _scratch(paths.state / "ingest", source) as scratch:
        feed = open_feed(spec, city.city, window, root)
        assert isinstance(feed, Feed), "params gives a series a connector of series"
        records, truth = Spool(scratch / "records", RECORDS), Spool(scratch / "truth", TRUTH)
        sensors = mask.sensors(_known_sensors(feed.sensors, source))
        cut = _Cut(window)
        with log.Progress(f"ingest {source}", unit="records") as shown:
            for batch in feed.batches:
                records.add(mask.ids(cut(batch.records), "sensor"))
                if batch.truth is not None:
                    truth.add(mask.ids(cut.inside(batch.truth)[0], "sensor"))
                shown.add(len(batch.records))
        records.flush()
        truth.flush()
        if not records.rows:
            raise UserError(f"sources.{source}: no record in the window {cut}; correct its dates or its window")
        sensors = _add_unlisted(sensors, records.words["sensor"])
        edges = _known_edges(mask.ids(feed.edges, "source", "target"), sensors, source)
        written, kept, removed = _publish(paths.raw(source), records, truth, sensors, edges)
        told.update(records=records.rows, sensors=len(sensors), days_written=written, days_unchanged=kept)
        told.update(days_removed=removed, dropped_outside_window=cut.dropped)


class _Mask:
    """The privacy rules of a contract, as functions of tables. Raises UserError for a rule that cannot be kept."""

    def __init__(self, rules: params.Privacy, at: str) -> None:
        self.rules = rules
        self._memo: dict[str, str] = {}
        columns = [name for name in SENSORS.names if name != "sensor"]
        for name in rules.drop:
            if name == "sensor":
                raise UserError(f"{at}.drop: sensor ids cannot be dropped; set `hash_sensors: true` instead")
            if name not in columns:
                raise UserError(f"{at}.drop: no column {name!r} in the sensors table; {nearest(name, columns)}")
        self._key = os.environ.get(HASH_KEY, "").encode()
        if rules.hash_sensors and len(self._key) < 16:
            raise UserError(f"{at}.hash_sensors: set {HASH_KEY} to a secret of at least 16 characters, kept safe")

    def ids(self, table: pa.Table, *columns: str) -> pa.Table:
        """Sensor ids in `columns` replaced by the first 128 bits of HMAC-SHA-256 in hexadecimal, if so ruled."""
        if not self.rules.hash_sensors:
            return table
        for name in columns:
            coded = pc.dictionary_encode(table[name]).combine_chunks()
            hashed = pa.array([self._hash(w) for w in coded.dictionary.to_pylist()], pa.string())
            ids = hashed.take(coded.indices)
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), ids)
        return table

    def sensors(self, table: pa.Table) -> pa.Table:
        """The sensors table with dropped columns empty, places coarsened and ids hashed."""
        for i, name in enumerate(SENSORS.names):
            if name in self.rules.drop:
                table = table.set_column(i, SENSORS.field(i), pa.nulls(len(table), SENSORS.field(i).type))
            elif name in ("latitude", "longitude") and self.rules.coarsen_location:
                size = self.rules.coarsen_location
                coarse = pc.round(pc.multiply(pc.round(pc.divide(table[name], size)), size), 9)
                table = table.set_column(i, SENSORS.field(i), coarse)
        return self.ids(table, "sensor")

    def _hash(self, sensor: str) -> str:
        if sensor not in self._memo:
            self._memo[sensor] = hmac.digest(self._key, sensor.encode(), "sha256").hex()[:32]
        return self._memo[sensor]


class _Cut:
    """Keeps what lies inside the window, counts the rest and remembers what the feed covers."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._lo, self._hi = (int(np.datetime64(t.replace(tzinfo=None), "us").astype(np.int64)) for t in window)
        self.dropped = 0
        self._covers: tuple[int, int] | None = None

    def __call__(self, records: pa.Table) -> pa.Table:
        inside, times = self.inside(records)
        self.dropped += len(records) - len(inside)
        if len(times):
            lo, hi = int(times.min()), int(times.max())
            self._covers = (min(lo, self._covers[0]), max(hi, self._covers[1])) if self._covers else (lo, hi)
        return inside

    def inside(self, table: pa.Table) -> tuple[pa.Table, Array]:
        times = _micros(table)
        keep = (times >= self._lo) & (times < self._hi)
        return (table if keep.all() else table.filter(pa.array(keep))), times

    def __str__(self) -> str:
        window = f"[{_text(self.window.start)}, {_text(self.window.end)})"
        if self._covers is None:
            return f"{window}, and the feed has none at all"
        first, last = (np.datetime64(t, "us").astype("datetime64[s]") for t in self._covers)
        return f"{window}; the feed covers {first} to {last} UTC"


class Spool:
    """Tables on disk, each sorted by time and with words as numbers, read back a day at a time.

    Rows of equal time and words come back in the order in which they were added.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True)
        self.folder, self.schema = folder, schema
        self.rows = 0
        self.words: dict[str, dict[str, int]] = {f.name: {} for f in schema if f.type == pa.string()}
        self._slices: dict[int, list[tuple[int, int, int]]] = {}
        self._pending: list[pa.Table] = []
        self._held = self._files = 0

    def add(self, table: pa.Table) -> None:
        table = table.select(self.schema.names).cast(self.schema)
        assert not any(table[name].null_count for name in ("time", *self.words)), "connectors give no null keys"
        columns = {n: self._numbers(n, table[n]) if n in self.words else table[n] for n in table.column_names}
        self._pending.append(pa.table(columns))
        self._held += len(table)
        if self._held >= SPOOL_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held in memory."""
        if not self._held:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        times = _micros(table)
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            table, times = table.take(pa.array(order)), times[order]
        with pa.OSFile(str(self._file(self._files)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        days, starts = np.unique(times // _DAY, return_index=True)
        for day, lo, hi in zip(days.tolist(), starts.tolist(), [*starts[1:].tolist(), len(times)], strict=True):
            self._slices.setdefault(day, []).append((self._files, lo, hi))
        self.rows += self._held
        self._files, self._held, self._pending = self._files + 1, 0, []

    def days(self) -> Iterator[tuple[dt.date, Callable[[], pa.Table]]]:
        """Each day in order, with a function that reads it sorted by time and words."""
        ranks = {name: np.argsort(np.argsort(np.array(list(words)))) for name, words in self.words.items()}
        for day in sorted(self._slices):
            yield _EPOCH + dt.timedelta(days=day), lambda day=day: self._day(day, ranks)  # type: ignore[misc]

    def _day(self, day: int, ranks: dict[str, Array]) -> pa.Table:
        parts = []
        for number, lo, hi in self._slices[day]:
            with pa.memory_map(str(self._file(number))) as file:
                parts.append(pa.ipc.open_file(file).read_all().slice(lo, hi - lo))
        table = pa.concat_tables(parts)
        keys = [_micros(table), *(ranks[name][table[name].to_numpy()] for name in self.words)]
        table = table.take(pa.array(np.lexsort(keys[::-1]))).combine_chunks()
        for name, words in self.words.items():
            spelt = pa.array(list(words), pa.string()).take(table[name].combine_chunks())
            table = table.set_column(table.schema.get_field_index(name), name, spelt)
        return table.cast(self.schema)

    def _numbers(self, name: str, column: pa.ChunkedArray) -> Array:
        words = self.words[name]
        coded = pc.dictionary_encode(column).combine_chunks()
        numbers = [words.setdefault(w, len(words)) for w in coded.dictionary.to_pylist()]
        return np.array(numbers, np.int32)[coded.indices.to_numpy()]

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"


def _publish(folder: Path, records: Spool, truth: Spool, sensors: pa.Table, edges: pa.Table) -> tuple[int, int, int]:
    """Write what differs and remove what no longer belongs; returns days written, unchanged and removed."""
    files.sweep(folder)
    before = set(folder.glob("date=*.parquet"))
    wanted = {folder / "sensors.parquet"}
    days = list(records.days())
    written = 0
    for day, read in log.progress(days, "ingest: writing", len(days), "days"):
        written += files.write_table(day_file(folder, day), read())
        wanted.add(day_file(folder, day))
    for day, read in truth.days():
        files.write_table(day_file(folder / "truth", day), read())
        wanted.add(day_file(folder / "truth", day))
    files.write_table(folder / "sensors.parquet", sensors)
    if len(edges):
        files.write_table(folder / "edges.parquet", edges)
        wanted.add(folder / "edges.parquet")
    files.tidy(folder, wanted)
    return written, len(days) - written, len(before - wanted)


def _known_sensors(sensors: pa.Table, source: str) -> pa.Table:
    """The sensors table in its schema. Raises UserError for an id that is empty or given twice."""
    sensors = sensors.select(SENSORS.names).cast(SENSORS)
    ids = sensors["sensor"].to_pylist()
    for i, sensor in enumerate(ids):
        if not sensor:
            raise UserError(f"sources.{source}: row {i + 1} of the sensors table has no sensor id; give it one")
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise UserError(
            f"sources.{source}: sensor id {twice!r} stands more than once in the sensors table; ids must be unique"
        )
    return sensors


def _add_unlisted(sensors: pa.Table, seen: dict[str, int]) -> pa.Table:
    """The sensors table, sorted, with a row of unknown place for each sensor that only the records name."""
    extra = sorted(set(seen) - set(sensors["sensor"].to_pylist()))
    rows = pa.table({n: pa.array(extra) if n == "sensor" else pa.nulls(len(extra)) for n in SENSORS.names})
    return pa.concat_tables([sensors, rows.cast(SENSORS)]).sort_by("sensor").combine_chunks()


def _known_edges(edges: pa.Table, sensors: pa.Table, source: str) -> pa.Table:
    """Edges between sensors of the table, sorted; others are left out, with a word about it."""
    edges = edges.select(EDGES.names).cast(EDGES)
    known = pc.and_(*(pc.is_in(edges[end], sensors["sensor"].combine_chunks()) for end in ("source", "target")))
    inside = edges.filter(known)
    if len(inside) < len(edges):
        log.logger.info("ingest %s: left out %d edges that end at no sensor", source, len(edges) - len(inside))
    return inside.sort_by([("source", "ascending"), ("target", "ascending")]).combine_chunks()


def _micros(table: pa.Table) -> Array:
    return table["time"].cast(pa.int64()).to_numpy()


def _text(when: dt.datetime) -> str:
    return f"{when:%Y-%m-%d}" if f"{when:%H:%M:%S}" == "00:00:00" else f"{when:%Y-%m-%dT%H:%M:%SZ}"
