"""Day files, and the forms of all three modalities."""

import datetime as dt
from pathlib import Path

import pyarrow as pa

from pipelines.core import files, records

NOW = dt.datetime(2025, 3, 1, 6, tzinfo=dt.UTC)


def test_day_files_are_found_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    for day in ("2025-03-02", "2025-02-28", "2025-03-01"):
        files.write_table(records.day_file(tmp_path, dt.date.fromisoformat(day)), records.RECORDS.empty_table())
    (tmp_path / ".date=2025-03-03.parquet.aa.tmp").write_text("half")
    files.write_table(tmp_path / "sensors.parquet", records.SENSORS.empty_table())
    found = records.day_files(tmp_path)
    assert [str(day) for day in found] == ["2025-02-28", "2025-03-01", "2025-03-02"]
    assert records.read_day(found[dt.date(2025, 3, 1)]).schema == records.RECORDS  # no column from the file's name
    assert records.read_edges(tmp_path).schema == records.EDGES


def test_days_are_those_the_window_touches() -> None:
    hour = dt.timedelta(hours=1)
    assert list(records.days(NOW, NOW)) == []
    assert [str(d) for d in records.days(NOW, NOW + 18 * hour)] == ["2025-03-01"]
    assert [str(d) for d in records.days(NOW, NOW + 19 * hour)] == ["2025-03-01", "2025-03-02"]


def test_images_and_texts_survive_a_day_file(tmp_path: Path) -> None:
    box = {"label": "car", "x": 10.5, "y": 3.0, "width": 40.0, "height": 20.0}
    image = {"time": NOW, "camera": "c1", "blob": "ab" * 32, "labels": ["street"], "boxes": [box]}
    bare = {"time": NOW, "camera": "c2", "blob": "cd" * 32, "labels": None, "boxes": []}
    spans = [{"start": 15, "end": 20, "label": "place"}]
    text = {"time": NOW, "id": "7", "text": "Überflutung am Markt", "label": "water", "spans": spans}
    for name, schema, rows in (("i", records.IMAGES, [image, bare]), ("t", records.TEXTS, [text])):
        path = records.day_file(tmp_path / name, NOW.date())
        files.write_table(path, pa.Table.from_pylist(rows, schema=schema))
        assert records.read_day(path).to_pylist() == rows
    assert "Überflutung am Markt"[15:20] == "Markt"  # code points, not bytes
