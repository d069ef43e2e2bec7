"""A city small enough to read: params and validated records written by hand for the tests of the grid rooms."""

import datetime as dt
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipelines.core import files, records

START = dt.datetime(2025, 1, 20, tzinfo=dt.UTC)
Row = tuple[dt.datetime, str, str, float | None]


def source(step: str = "1h", start: str = "2025-01-20", **more: Any) -> dict[str, Any]:
    """A series source with kind `a`: training until 10 February, test from 20 February."""
    base = {
        "department": "dept",
        "start": start,
        "validation_from": "2025-02-10",
        "test_from": "2025-02-20",
        "step": step,
        "read": {"connector": "simulator", "feed": "traffic"},
        "kinds": {"a": {"unit": "u", "range": [0, 100]}},
    }
    return {**base, **more}


def kind(**more: Any) -> dict[str, Any]:
    return {"unit": "u", "range": [0, 100], **more}


def city(root: Path, sources: dict[str, Any], until: str = "2025-03-05", **more: Any) -> None:
    """Write params.yaml and window.yaml; one backbone `series` unless `backbones` is given."""
    data = {"city": {"name": "small"}, "sources": sources, "backbones": {"series": {}}, **more}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    window(root, **dict.fromkeys(sources, until))


def window(root: Path, **ends: str) -> None:
    (root / "window.yaml").write_text(yaml.safe_dump(ends))


def put(root: Path, name: str, rows: Iterable[Row], edges: Iterable[tuple[str, str]] = ()) -> None:
    """Write `rows` as the validated day files of source `name`, replacing those of the same days."""
    folder = root / "data/validated" / name
    by_day: dict[dt.date, list[Row]] = {}
    sensors = set()
    for row in rows:
        by_day.setdefault(row[0].date(), []).append(row)
        sensors.add(row[1])
    for day, found in by_day.items():
        columns = [list(column) for column in zip(*sorted(found, key=lambda r: r[:3]), strict=True)]
        files.write_table(records.day_file(folder, day), pa.Table.from_arrays(columns, schema=records.RECORDS))
    old = records.read_sensors(folder)["sensor"].to_pylist() if (folder / "sensors.parquet").exists() else []
    table = [
        {"sensor": s, "latitude": 52.0, "longitude": 4.0 + len(s), "district": "d"} for s in sorted(sensors | set(old))
    ]
    files.write_table(folder / "sensors.parquet", pa.Table.from_pylist(table, schema=records.SENSORS))
    graph = [{"source": a, "target": b, "weight": 1.0} for a, b in edges]
    if graph:
        files.write_table(folder / "edges.parquet", pa.Table.from_pylist(graph, schema=records.EDGES))


def hourly(
    first: str, last: str, sensor: str = "s1", what: str = "a", add: float = 0.0, minutes: int = 60
) -> list[Row]:
    """A record every `minutes` from `first` until before `last`; values differ from row to row."""
    at = dt.datetime.fromisoformat(first).replace(tzinfo=dt.UTC)
    end = dt.datetime.fromisoformat(last).replace(tzinfo=dt.UTC)
    step = dt.timedelta(minutes=minutes)
    count = (end - at) // step
    return [(at + i * step, sensor, what, float((at + i * step).timestamp() // 60 % 97) + add) for i in range(count)]


def tree(folder: Path) -> dict[str, str]:
    """Every file of a folder and its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cached(folder: Path, cache: Path) -> dict[str, str]:
    """Link every file of `folder` into `cache` and make both read-only, as DVC does; the tree of `cache`."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        (cache / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        os.link(path, cache / path.relative_to(folder))
        path.chmod(stat.S_IREAD)
    return tree(cache)
