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

IMAGES = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),
        ("camera", pa.string()),
        ("blob", pa.string()),
        ("labels", pa.list_(pa.string())),
        (
            "boxes",
            pa.list_(
                pa.struct(
                    [
                        ("label", pa.string()),
                        ("x", pa.float32()),
                        ("y", pa.float32()),
                        ("width", pa.float32()),
                        ("height", pa.float32()),
                    ]
                )
            ),
        ),
    ]
)
"""image: one picture. `blob` is the SHA-256 (hex) of the file `blobs/<blob>` beside the day files, which is the
picture as kept, after masking; `labels` say what the whole picture shows; `boxes` are in pixels of that
file, `x` and `y` the upper left corner. Null labels or boxes: not annotated; empty: looked at, nothing there."""

TEXTS = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("spans", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]))),
    ]
)
"""text: one message, personal data masked. `spans` are half-open ranges of Unicode code points of `text` as kept.
Null label or spans: not annotated; empty spans: looked at, nothing there."""

SENSORS = pa.schema(
    [("sensor", pa.string()), ("latitude", pa.float64()), ("longitude", pa.float64()), ("district", pa.string())]
)
EDGES = pa.schema([("source", pa.string()), ("target", pa.string()), ("weight", pa.float64())])

TRUTH = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),  # as the spoiled record carries it; for a missing record: when it was due
        ("sensor", pa.string()),
        ("kind", pa.string()),
        ("fault", pa.string()),  # missing, duplicate, stuck, spike, out_of_range, clock_skew, unit_mixup, noise, scaled
        ("size", pa.float64()),  # spike, noise: how many sigma; scaled: the factor; clock_skew: seconds; stuck: seconds
        # since it began; else 0
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
    while max(start, dt.datetime.combine(day, dt.time(), dt.UTC)) < end:
        yield day
        day += dt.timedelta(days=1)


def read_day(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


def read_sensors(raw: Path) -> pa.Table:
    """The sensors table of a source (schema SENSORS), sorted by sensor."""
    return pq.read_table(raw / "sensors.parquet", partitioning=None)


def read_edges(folder: Path) -> pa.Table:
    """The road graph of a source (schema EDGES); empty where there is none."""
    path = folder / "edges.parquet"
    return pq.read_table(path, partitioning=None) if path.exists() else EDGES.empty_table()


def unlike(every: dict[dt.date, Path], expected: pa.Schema) -> list[dict[str, str]]:
    """Columns of day files that are not as `expected` says: file, column, expected, found."""
    wrong = []
    for path in every.values():
        try:
            found = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError):
            wrong.append({"file": path.name, "column": "*", "expected": "Parquet", "found": "unreadable"})
            continue
        for name in dict.fromkeys([*expected.names, *found.names]):
            wanted, actual = (_type(schema, name) for schema in (expected, found))
            if wanted != actual:
                wrong.append({"file": path.name, "column": name, "expected": wanted, "found": actual})
    return wrong


def _type(schema: pa.Schema, name: str) -> str:
    """Parquet calls the items of a list `element`."""
    return str(schema.field(name).type).replace("element: ", "item: ") if name in schema.names else "none"
