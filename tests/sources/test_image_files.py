"""Pictures as cities keep them: folders, COCO, YOLO, archives, with cameras and times from paths or a table."""

import datetime as dt
import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from item_city import CLASSES, encoded, image_source, put, scene

from pipelines.core import pictures
from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import IMAGES
from pipelines.sources import Items, Window, open_feed

A, B = encoded(scene(1)), encoded(scene(2))  # 48 × 40


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv("CITYLOOP_DATA", raising=False)


def items(root: Path, **read: Any) -> list[dict[str, Any]]:
    kinds = {"label": {"labels": CLASSES}, "boxes": {"labels": CLASSES}}
    block = image_source(kinds=kinds, read={"connector": "images", "path": "pictures"} | read)
    window = Window(dt.datetime(2025, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    feed = open_feed(Source.model_validate(block), City(name="x"), window, root)
    assert isinstance(feed, Items)
    out = []
    for batch in feed.batches:
        assert batch.table.schema == IMAGES
        assert {hashlib.sha256(data).hexdigest(): data for data in batch.blobs.values()} == batch.blobs
        assert set(batch.table["blob"].to_pylist()) == set(batch.blobs)
        out += [row | {"data": batch.blobs[row["blob"]]} for row in batch.table.to_pylist()]
    return out


def test_a_folder_is_a_class_however_deep(tmp_path: Path) -> None:
    put(tmp_path, {"car/a.jpg": A, "old/truck/b.PNG": B, "car/.hidden.jpg": B, "car/notes.txt": b"x"})
    found = {row["data"]: row for row in items(tmp_path, layout="folders", words={"truck": "bike"})}
    assert {data: row["labels"] for data, row in found.items()} == {A: ["car"], B: ["bike"]}
    assert all(row["boxes"] is None and row["camera"] == "camera" for row in found.values())
    assert found[A]["time"] == dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    assert [row["labels"] for row in items(tmp_path)] == [None, None]  # plain
    put(tmp_path, {"bare.jpg": A})
    with pytest.raises(UserError, match=r"bare\.jpg lies in no folder"):
        items(tmp_path, layout="folders")


def test_a_pattern_and_a_table_say_when_and_where(tmp_path: Path) -> None:
    put(tmp_path, {"north/20250103T0830.jpg": A, "south/20250104T0900.jpg": B})
    pattern = {"pattern": r"(?P<camera>\w+)/(?P<time>\d{8}T\d{4})", "time_format": "%Y%m%dT%H%M"}
    found = items(tmp_path, timezone="Europe/Paris", **pattern)
    assert [(row["camera"], f"{row['time']:%m-%d %H:%M}") for row in found] == [
        ("north", "01-03 07:30"),
        ("south", "01-04 08:00"),
    ]
    (tmp_path / "about.csv").write_text("file,camera,label\n20250103T0830.jpg,tower,car\nelse.jpg,x,y\n")
    found = items(tmp_path, sidecar="about.csv", **pattern)
    assert [(row["camera"], row["labels"]) for row in found] == [("tower", ["car"]), ("south", None)]
    with pytest.raises(UserError, match="matches no path, such as 'north"):
        items(tmp_path, pattern=r"(?P<time>2024\d+)")
    with pytest.raises(UserError, match=r"north/20250103T0830\.jpg: time '20250103T0830'"):
        items(tmp_path, pattern=pattern["pattern"], time_format="%d/%m/%Y")
    (tmp_path / "about.csv").write_text("file,camera\nnone.jpg,x\n")
    with pytest.raises(UserError, match="names no picture"):
        items(tmp_path, sidecar="about.csv")


def coco(root: Path, **changes: Any) -> None:
    names = {7: "a.jpg", 8: "in/b.jpg", 9: "gone.jpg"}
    data = {
        "images": [{"id": i, "file_name": name} for i, name in names.items()],
        "categories": [{"id": 3, "name": "voiture"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 30.5, 20], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 48, 40], "iscrowd": 1},
            {"image_id": 7, "category_id": 5, "bbox": [5, 5, 9, 9]},
        ],
    } | changes  # fmt: skip
    (root / "boxes.json").write_text(json.dumps(data))


def test_boxes_of_a_coco_file(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": A, "deep/in/b.jpg": B, "c.jpg": encoded(scene(3))})
    coco(tmp_path)
    read = {"layout": "coco", "annotations": "boxes.json", "words": {"voiture": "car"}}
    found = {row["data"]: row["boxes"] for row in items(tmp_path, **read)}
    assert found[A] == [
        {"label": "car", "x": 1, "y": 2, "width": 30.5, "height": 20},
        {"label": "category 5", "x": 5, "y": 5, "width": 9, "height": 9},
    ]
    assert found[B] == []  # looked at, nothing there
    assert [boxes for data, boxes in found.items() if data not in (A, B)] == [None]
    for changes, said in [
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2]}]}, r"annotations\[0\]: not as COCO has it"),
        ({"annotations": [{"image_id": 70, "category_id": 3, "bbox": [1, 2, 3, 4]}]}, "no 70"),
        ({"images": [{"id": 1}]}, "images: not as COCO has it: no 'file_name'"),
        ({"images": [{"id": 7, "file_name": "z.jpg"}], "annotations": []}, "names no picture of"),
    ]:
        coco(tmp_path, **changes)
        with pytest.raises(UserError, match=said):
            items(tmp_path, **read)


def test_boxes_of_yolo_files(tmp_path: Path) -> None:
    notes = {"labels/a.txt": b"1 0.5 0.5 0.5 0.25\n0 0.25 0.25 0.75 0.25 0.75 0.5\n\n", "labels/b.txt": b""}
    put(tmp_path, {"images/a.jpg": A, "images/b.jpg": B, "images/c.jpg": b"no picture", **notes})
    put(
        tmp_path,
        {"images/d.jpg": b"no picture", "labels/d.txt": b"0 .5 .5 .1 .1", "data.yaml": b"names: {0: bike, 1: car}"},
    )
    found = {row["data"]: row["boxes"] for row in items(tmp_path, layout="yolo")}
    assert found[A] == [
        {"label": "car", "x": 12, "y": 15, "width": 24, "height": 10},
        {"label": "bike", "x": 12, "y": 10, "width": 24, "height": 10},  # a polygon's outline
    ]
    assert (found[B], found[b"no picture"]) == ([], None)
    assert items(tmp_path, layout="yolo", classes=["truck", "bike"])[0]["boxes"][0]["label"] == "bike"
    assert items(tmp_path, layout="yolo", classes=["truck"])[0]["boxes"][0]["label"] == "class 1"
    put(tmp_path, {"labels/b.txt": b"0 0.5 0.5 0.5 0.5\ncar 1 2 3 4\n"})
    with pytest.raises(UserError, match=r"labels/b\.txt: line 2: expected a class's number"):
        items(tmp_path, layout="yolo")
    put(tmp_path, {"data.yaml": b"colours: [red]"})
    with pytest.raises(UserError, match="has no `names` list"):
        items(tmp_path, layout="yolo")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_is_read_as_a_folder_is_and_never_unpacked(tmp_path: Path, form: str) -> None:
    put(tmp_path, {"set/images/a.jpg": A, "set/images/b.jpg": B, "set/labels/a.txt": b"0 0.5 0.5 0.5 0.5"})
    put(tmp_path, {"set/classes.txt": b"car\n"})
    archive = tmp_path / f"set.{form}"
    if form == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for path in sorted((tmp_path / "pictures").rglob("*.*")):
                made.write(path, path.relative_to(tmp_path / "pictures"))
            made.writestr("../../evil.jpg", B)
    else:
        with tarfile.open(archive, "w:gz") as made_tar:
            made_tar.add(tmp_path / "pictures", ".")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    found = items(tmp_path, path=archive.as_uri(), sha256=digest, layout="yolo")
    boxes = {row["data"]: row["boxes"] for row in found}
    assert boxes[A] == [{"label": "car", "x": 12, "y": 10, "width": 24, "height": 20}]
    assert boxes[B] is None
    assert not list(tmp_path.parent.glob("evil*"))
    with pytest.raises(UserError, match="SHA-256 is"):
        items(tmp_path, path=archive.as_uri(), sha256="0" * 64)
    archive.write_bytes(archive.read_bytes()[: len(A)])
    with pytest.raises(UserError, match=r"set\.\w+(\.gz)?: (neither a \.zip|is cut short)"):
        items(tmp_path, path=archive.name)


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match="no file matches"):
        items(tmp_path)
    put(tmp_path, {"readme.txt": b"x"})
    with pytest.raises(UserError, match="no picture there"):
        items(tmp_path)
    put(tmp_path, {"car/a.jpg": A, "car/b.jpg": B})
    assert len(items(tmp_path, path="pictures/*/a*.jpg", layout="plain")) == 1
    monkeypatch.setenv("CITYLOOP_DATA", str(tmp_path))
    assert {tuple(r["labels"]) for r in items(tmp_path, path="{data}/pictures", layout="folders")} == {("car",)}


def test_a_file_too_large_to_read_is_an_item_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BOUNDS", pictures.Bounds(size=len(A)))
    put(tmp_path, {"a.jpg": A, "b.jpg": A + b"\0"})
    kept, refused = sorted((row["data"] for row in items(tmp_path)), key=len, reverse=True)
    assert kept == A
    with pytest.raises(pictures.Unfit, match="over"):
        pictures.decode(refused)


def test_schema_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.sources import images

    monkeypatch.setattr(images, "BATCH_ITEMS", 2)
    put(tmp_path, {f"{i}.jpg": encoded(scene(i)) for i in range(5)})
    assert len({row["blob"] for row in items(tmp_path)}) == 5
    assert pa.Table.from_pylist([], IMAGES).schema == IMAGES
