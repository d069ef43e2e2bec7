"""What is found in pictures and messages flows back as a series: counted, written, and read by the files connector."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import judged_items
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import ingest, predict
from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.core.records import day_files, read_day
from pipelines.models.items import counts
from pipelines.models.items.held import Items
from pipelines.models.items.questions import locate, tag
from pipelines.release.store import Pointer, Store

SERIES = {
    "department": "transport", "start": "2025-03-03", "validation_from": "2025-03-05", "test_from": "2025-03-07",
    "step": "1h", "kinds": {f"count_{name}": {"unit": "1", "range": [0, 100]} for name in ("bus", "car")},
    "read": {"connector": "files", "path": "data/counts/places.parquet", "layout": "long", "time": "time",
             "sensor": "sensor", "kind": "kind", "value": "value"},
}  # fmt: skip


def served(folder: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> Paths:
    """A city in which the task's bundle serves, with its joined items as the source's features."""
    for name in ("CITYLOOP_STATE", "CITYLOOP_STORE"):
        monkeypatch.delenv(name, raising=False)
    paths = judged_items.city(folder, (task,))
    store = Store.of(paths)
    digest = store.put(task, paths.task(task))
    store.point(Pointer(task, 1, digest, versions={digest: "1"}))
    source = judged_items.SOURCES[task]
    features = paths.features("image" if source == "street" else "text", source)
    features.parent.mkdir(parents=True)
    paths.joined(task).rename(features)
    about = files.read_json(features / "about.json")
    files.write_json(features / "about.json", {k: v for k, v in about.items() if k not in ("names", "kind", "source")})
    return paths


def test_counts_of_boxes_come_back_as_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = served(tmp_path, monkeypatch, "places")
    predict.run("places", root=tmp_path)
    found = pq.read_table(tmp_path / "data/counts/places.parquet").to_pylist()
    items = Items.open(paths.features("image", "street"), "street", "features")
    assert len(found) == 2 * len(items), "a picture an hour, one camera each"
    truth = locate.truth(replace(items, about={**items.about, "names": ["bus", "car"]}))
    for i in (0, 7, 100):
        rows = [r for r in found if r["time"].replace(tzinfo=None) == items.times[i].item().replace(minute=0)]
        assert {r["sensor"] for r in rows} == {items.column("camera")[i]}
        assert {r["kind"]: r["value"] for r in rows} == dict(
            zip(("count_bus", "count_car"), truth[i].counts.tolist(), strict=True)
        )
    batch = [p for p in (tmp_path / ".cityloop").rglob("*.parquet") if "predictions/places" in p.as_posix()]
    assert [p.read_bytes() for p in batch] == [(tmp_path / "data/counts/places.parquet").read_bytes()]

    city: dict[str, Any] = yaml.safe_load((tmp_path / "params.yaml").read_text())
    city["sources"]["seen"] = SERIES
    files.write_bytes(tmp_path / "params.yaml", yaml.safe_dump(city, sort_keys=False).encode())
    files.write_bytes(tmp_path / "window.yaml", b'street: "2025-03-12"\nletters: "2025-03-12"\nseen: "2025-03-12"\n')
    ingest.run("seen", root=tmp_path)
    days = [read_day(path) for path in day_files(paths.raw("seen")).values()]
    assert sum(len(day) for day in days) == len(found)
    assert {k for day in days for k in day["kind"].to_pylist()} == {"count_bus", "count_car"}


def test_only_what_was_there_before_a_moment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(tmp_path, monkeypatch, "places")
    predict.run("places", "2025-03-04", root=tmp_path)
    found = pq.read_table(tmp_path / "data/counts/places.parquet")
    assert len(found) == 2 * 24
    with pytest.raises(UserError, match="nothing with a time before"):
        predict.run("places", "2025-03-01", root=tmp_path)


def test_phrases_are_counted_by_step_with_zeros_between(tmp_path: Path) -> None:
    paths = judged_items.city(tmp_path, ("phrases",))
    items = Items.open(paths.joined("phrases"), "phrases").take(np.array([0, 1, 6]))
    said = [[(0, 2, 0), (4, 6, 1)], [(0, 1, 1)], [(3, 4, 1)]]
    found = counts.table(tag, lambda inputs, of: said, items, "letters", ("free", "jam"), 4 * 3600)
    assert found["time"].astype(str).tolist()[::2] == ["2025-03-03T00:00:00.000000", "2025-03-03T04:00:00.000000"]
    assert found["sensor"].tolist() == ["letters"] * 4
    assert found["value"].tolist() == [1, 2, 0, 1]


def test_boxes_are_averaged_over_a_camera_s_pictures(tmp_path: Path) -> None:
    paths = judged_items.city(tmp_path, ("places",))
    items = Items.open(paths.joined("places"), "places").take(np.arange(7))  # hours 0 to 6, cameras 0 1 2 0 1 2 0
    said = [locate.Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.array([i, 0.0])) for i in range(7)]
    found = counts.table(locate, lambda inputs, of: said, items, "street", ("bus", "car"), 6 * 3600)
    bus = {(str(t)[11:13], s): v for t, s, k, v in zip(*found.values(), strict=True) if k == "count_bus"}
    assert bus == {("00", "cam_0"): 1.5, ("00", "cam_1"): 2.5, ("00", "cam_2"): 3.5, ("06", "cam_0"): 6}
