"""The records that ingest writes and every later room reads: day files of one Arrow schema."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RECORDS = pa.schema(
    [("time", pa.timestamp("us", "UTC")), ("sensor", pa.string()), ("kind", pa.string()), ("value", pa.float64())]
)
"""series: one measured value; `value` may be null or NaN when the feed said so."""

SENSORS = pa.schema(
    [("sensor", pa.string()), ("latitude", pa.float64()), ("longitude", pa.float64()), ("district", pa.string())]
)
EDGES = pa.schema([("source", pa.string()), ("target", pa.string()), ("weight", pa.float64())])

TRUTH = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),  # as the spoiled record carries it; for a missing record: when it was due
        ("sensor", pa.string()),
        ("kind", pa.string()),
        ("fault", pa.string()),  # missing, duplicate, stuck, spike, out_of_range, clock_skew, unit_mixup
        ("size", pa.float64()),  # spike: how many sigma; clock_skew: seconds; stuck: seconds since it began; else 0
        ("value", pa.float64()),  # what would have been measured
    ]
)
"""Only the simulator knows it. Written beside the data so that validation can be scored."""


def day_file(folder: Path, day: dt.date) -> Path:
    return folder / f"date={day.isoformat()}.parquet"


def day_files(folder: Path) -> dict[dt.date, Path]:
    """The day files of a folder, oldest first."""
    found = sorted(folder.glob("date=????-??-??.parquet"))
    return {dt.date.fromisoformat(path.stem.removeprefix("date=")): path for path in found}


def days(start: dt.datetime, end: dt.datetime) -> Iterator[dt.date]:
    """The UTC days that [start, end) touches."""
    day = start.date()
    while dt.datetime.combine(day, dt.time(), dt.UTC) < end:
        yield day
        day += dt.timedelta(days=1)


def read_day(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


def read_sensors(raw: Path) -> pa.Table:
    """The sensors table of a source (schema SENSORS), sorted by sensor."""
    return pq.read_table(raw / "sensors.parquet", partitioning=None)
