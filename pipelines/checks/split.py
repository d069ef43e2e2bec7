"""Days of raw records into flags, a batch of days at a time, on an embedded DuckDB."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checks import flags
from pipelines.checks.rules import LOOKBACK, REASONS, Rules
from pipelines.core.params import Bounds
from pipelines.core.records import RECORDS, read_day

Array = np.ndarray[Any, Any]
BATCH_RECORDS = 1_000_000
QUARANTINE = RECORDS.append(pa.field("reasons", pa.list_(pa.string())))
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class Day:
    """A day's records and why each is suspect: bool [n, len(REASONS)]."""

    date: dt.date
    records: pa.Table
    flags: Array

    @property
    def bad(self) -> Array:
        return np.asarray(self.flags.any(axis=1))

    @property
    def validated(self) -> pa.Table:
        return self.records.filter(pa.array(~self.bad))

    @property
    def quarantined(self) -> pa.Table:
        bad = self.bad
        rows, columns = np.nonzero(self.flags[bad])
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=int(bad.sum())))])
        words = pa.array(REASONS).take(pa.array(columns))
        reasons = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), words)
        return self.records.filter(pa.array(bad)).append_column(QUARANTINE.field("reasons"), reasons)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(zip(REASONS, self.flags.sum(axis=0).tolist(), strict=True))


def placed(sensors: pa.Table, bounds: Bounds) -> pa.Table:
    """sensor, inside: whether it stands within the bounds; a sensor of unknown place does."""
    lat, lon = (sensors[c].to_numpy(zero_copy_only=False).astype(float) for c in ("latitude", "longitude"))
    outside = (lat < bounds.south) | (lat > bounds.north) | (lon < bounds.west) | (lon > bounds.east)
    return pa.table({"sensor": sensors["sensor"], "inside": pa.array(~outside)})


def lookback(day: dt.date, every: dict[dt.date, Path]) -> list[dt.date]:
    """The days before `day` that its flags may look at."""
    before = (day - dt.timedelta(days=i) for i in range(LOOKBACK, 0, -1))
    return [d for d in before if d in every]


def batches(days: list[dt.date], every: dict[dt.date, Path]) -> Iterator[list[dt.date]]:
    """`days` in runs of near ones, of about BATCH_RECORDS records each, so that memory does not grow with history."""
    batch: list[dt.date] = []
    size = 0
    for day in days:
        rows = pq.read_metadata(every[day]).num_rows
        if batch and (size + rows > BATCH_RECORDS or day - batch[-1] > dt.timedelta(days=LOOKBACK)):
            yield batch
            batch, size = [], 0
        batch.append(day)
        size += rows
    if batch:
        yield batch


def flagged(days: list[dt.date], every: dict[dt.date, Path], rules: Rules, where: pa.Table) -> Iterator[Day]:
    """Flags of `days` (near ones, in order), computed together with the days that they look back at."""
    seen = sorted({d for day in days for d in [*lookback(day, every), day]})
    tables = {d: read_day(every[d]) for d in seen}
    wanted = _compute(pa.concat_tables([_numbered(d, t) for d, t in tables.items()]), days, rules, where)
    at = 0
    for day in days:
        n = len(tables[day])
        yield Day(day, tables[day], wanted[at : at + n])
        at += n
    assert at == len(wanted), "every record has its flags"


def _numbered(day: dt.date, table: pa.Table) -> pa.Table:
    number = (day - _EPOCH).days
    return pa.table(
        {
            "row": pa.array(np.arange(len(table)) + (number << 32)),
            "day": pa.array(np.full(len(table), number, np.int64)),
            "t": table["time"].cast(pa.int64()),
            "sensor": table["sensor"],
            "kind": table["kind"],
            "value": table["value"],
        }
    )


def _compute(records: pa.Table, days: list[dt.date], rules: Rules, where: pa.Table) -> Array:
    import ibis

    con = ibis.duckdb.connect(threads=2)
    try:
        named = {"records": records, "kinds": rules.kinds, "mixups": rules.mixups, "sensors": where}
        tables = {name: ibis.memtable(table) for name, table in named.items()}
        found = flags.flag(**tables, rule=rules)
        found = found.filter(found.day.isin([(d - _EPOCH).days for d in days])).order_by("row")
        result = con.to_pyarrow(found.select(*REASONS))
    finally:
        con.disconnect()
    return np.stack([result[name].to_numpy() for name in REASONS], axis=1)
