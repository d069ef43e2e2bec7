"""Pictures through the rooms of data: every item ends in one place with its reasons, and no copy on two sides."""

import datetime as dt
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from item_city import CLASSES, city, encoded, image_source, later, put, reasons, rows, run, scene, task
from PIL import Image
from small_city import tree

from pipelines import features, ingest, join, validate
from pipelines.core import files
from pipelines.core.errors import BrokenBatch, UserError
from pipelines.items import near

CAMERA = {"pattern": r"(?P<camera>\w+)/(?P<time>\d{8}T\d{4})", "time_format": "%Y%m%dT%H%M", "layout": "plain"}
WHEN = dt.datetime(2025, 1, 1)


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CITYLOOP_STATE", "CITYLOOP_HASH_KEY", "CITYLOOP_DATA"):
        monkeypatch.delenv(name, raising=False)


def some(n: int = 8) -> dict[str, bytes]:
    """n different pictures a class."""
    return {f"{c}/{i}.png": encoded(scene(100 * k + i), "PNG") for k, c in enumerate(CLASSES) for i in range(n)}


def bad() -> dict[str, tuple[str, bytes]]:
    """Name → reason and bytes of what nobody can use."""
    picture = Image.fromarray(scene(7, 60, 50))
    return {
        "text.jpg": ("not_a_picture", b"call 138 0013 8000"),
        "empty.png": ("not_a_picture", b""),
        "cut.jpg": ("truncated", encoded(picture, quality=95)[:-500]),
        "dot.jpg": ("too_small", encoded(picture.resize((1, 1)))),
        "vast.png": ("too_large", encoded(Image.new("1", (10_000, 10_000)), "PNG")),
        "strip.png": ("aspect", encoded(picture.resize((400, 10)), "PNG")),
        "film.gif": ("animated", encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(180)])),
        "float.tif": ("colours", encoded(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")),
        "night.png": ("blank", encoded(Image.new("RGB", (40, 40), (9, 9, 9)), "PNG")),
    }


def test_every_bad_picture_has_its_reason_and_is_kept(tmp_path: Path) -> None:
    put(tmp_path, some() | {f"car/{name}": data for name, (_, data) in bad().items()})
    cmyk, deep = Image.fromarray(scene(50)).convert("CMYK"), scene(51)[..., 0].astype(np.uint16) * 257
    put(
        tmp_path,
        {"car/cmyk.jpg": encoded(cmyk), "car/deep.png": encoded(deep, "PNG"), "boat/x.png": encoded(scene(52), "PNG")},
    )
    put(tmp_path, {"car/again.png": some()["car/0.png"], "truck/other.png": some()["bike/0.png"]})
    report = run(city(tmp_path, {"s": image_source()}), "s")
    counts = {reason: n for reason, n in report["reasons"].items() if n}
    expected: dict[str, int] = {"unknown_label": 1, "duplicate": 1, "contradiction": 2}
    for reason, _ in bad().values():
        expected[reason] = expected.get(reason, 0) + 1
    assert counts == expected
    raw, good, held = (rows(tmp_path / "data" / room / "s") for room in ("raw", "validated", "quarantine"))
    assert report["records"] == len(raw) == len(good) + len(held)
    key = lambda row: (row["blob"], str(row["labels"]))  # noqa: E731
    assert sorted(map(key, raw)) == sorted(map(key, good + held))
    for room, found in (("validated", good), ("quarantine", held)):
        blobs = {path.name for path in (tmp_path / "data" / room / "s/blobs").iterdir()}
        assert blobs == {row["blob"] for row in found}
    assert b"8000" not in b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert (tmp_path / "plots/validate/s/missing.png").stat().st_size > 2000
    assert "unknown labels" not in (page := (tmp_path / "plots/validate/s/data_docs/index.html").read_text())
    assert "1 items have labels that are not in params.yaml" in page


def test_a_place_in_a_photograph_reaches_no_file(tmp_path: Path) -> None:
    place = Image.Exif()
    place[0x010F] = "MrSecret"
    place.get_ifd(0x8825)[2] = (52.0, 22.0, 12.0)
    put(tmp_path, some(2) | {"car/place.jpg": encoded(scene(9), exif=place)})
    report = run(city(tmp_path, {"s": image_source()}), "s")
    assert report["masked"]["files"] == {"files_cleaned": 1}
    for path in (tmp_path / "data").rglob("blobs/*"):
        assert b"MrSecret" not in path.read_bytes()
        assert not Image.open(io.BytesIO(path.read_bytes())).getexif()


def frames(camera: str, pictures: list[bytes], minutes: int = 10) -> dict[str, bytes]:
    return {f"{camera}/{WHEN + i * dt.timedelta(minutes=minutes):%Y%m%dT%H%M}.jpg": p for i, p in enumerate(pictures)}


def test_a_camera_that_hangs_is_found_even_if_it_encodes_anew(tmp_path: Path) -> None:
    still = Image.fromarray(scene(5, 200, 160))
    frozen = [encoded(still, quality=quality) for quality in (95, 90, 94, 92, 91)]
    moving = [encoded(scene(200 + i)) for i in range(6)]
    put(tmp_path, frames("a", moving[:3] + frozen + moving[3:]) | frames("b", frozen[:3]))
    source = image_source(read={"connector": "images", "path": "pictures"} | CAMERA, kinds={})
    report = run(city(tmp_path, {"s": source}), "s")
    assert report["reasons"]["frozen"] == 4
    held = rows(tmp_path / "data/quarantine/s")
    assert {row["camera"] for row in held if "frozen" in row["reasons"]} == {"a"}
    good = rows(tmp_path / "data/validated/s")
    assert min(row["time"] for row in held if row["camera"] == "a") > min(row["time"] for row in good)


def test_boxes_lie_in_their_picture(tmp_path: Path) -> None:
    box = {"label": "car", "width": 10, "height": 8}
    put(tmp_path, {f"{i}.png": encoded(scene(i), "PNG") for i in range(5)})
    notes = {0: "1 0.5 0.5 0.5 0.5", 1: "1 0.9 0.5 0.5 0.2", 2: "1 0.5 0.5 0.001 0.5", 3: "7 0.5 0.5 0.5 0.5", 4: ""}
    put(tmp_path, {f"{i}.txt": text.encode() for i, text in notes.items()})
    read = {"connector": "images", "path": "pictures", "layout": "yolo", "classes": CLASSES}
    source = image_source(read=read, kinds={"boxes": {"labels": CLASSES}})
    report = run(city(tmp_path, {"s": source}), "s")
    assert {k: v for k, v in report["reasons"].items() if v} == {
        "box_outside": 1,
        "box_degenerate": 1,
        "unknown_label": 1,
    }
    assert box["label"] in CLASSES
    features.run("s", root=tmp_path)
    found = pq.read_table(tmp_path / "data/features/image/s/items.parquet").to_pylist()
    boxes = next(row["boxes"] for row in found if row["boxes"])
    assert boxes[0]["label"] == "car"
    assert [boxes[0][k] for k in ("x", "y", "width", "height")] == pytest.approx(
        [0.25, 2.5 / 32 + 27 / 128, 0.5, 27 / 64], abs=0.02
    )
    assert [row["boxes"] for row in found].count([]) == 1


def near_copies(seed: int) -> list[bytes]:
    """The same scene, lighter and re-encoded."""
    base = Image.fromarray(scene(seed, 90, 80))
    lighter = Image.fromarray((np.asarray(base).astype(int) + 6).clip(0, 255).astype(np.uint8))
    return [encoded(base, quality=95), encoded(lighter, quality=60), encoded(base.resize((120, 107)), quality=80)]


def test_near_duplicates_share_a_group_and_a_split_whatever_is_added(tmp_path: Path) -> None:
    pictures = some(20) | {
        f"{c}/near{k}{i}.jpg": data for k, c in enumerate(CLASSES) for i, data in enumerate(near_copies(900 + k))
    }
    put(tmp_path, pictures)
    asked = task("image", "classify", "s")
    report = run(city(tmp_path, {"s": image_source()}, vehicle=asked), "s")
    assert report["near_duplicates"] == {"groups": 3, "items": 9, "largest": 3}
    later(tmp_path, "image", "s", "vehicle")
    folder = tmp_path / "data/features/image/s"
    table = pq.read_table(folder / "items.parquet").to_pylist()
    assert table == sorted(table, key=lambda row: (row["time"], row["camera"], row["blob"]))
    split = {row["blob"]: row["split"] for row in table}
    by_group: dict[int, set[str]] = {}
    for row in table:
        by_group.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in by_group.values())
    for label in CLASSES:
        assert {row["split"] for row in table if row["labels"] == [label]} == {"train", "validation", "test"}
    pixels = np.load(folder / "pixels.npy")
    assert (pixels.shape, pixels.dtype) == ((69, 32, 32, 3), np.uint8)
    kept = pq.read_table(tmp_path / "data/corpus/images/s/items.parquet").to_pylist()
    assert {row["blob"] for row in kept} == {blob for blob, name in split.items() if name != "test"}
    joined = files.read_json(tmp_path / "data/joined/vehicle/about.json")
    assert (joined["kind"], joined["names"], joined["source"], joined["size"]) == ("label", CLASSES, "s", 32)
    assert sum(joined["splits"].values()) == 69
    put(tmp_path, {f"car/more{i}.png": encoded(scene(3000 + i), "PNG") for i in range(20)})
    run(tmp_path, "s")
    features.run("s", root=tmp_path)
    after = {row["blob"]: row["split"] for row in pq.read_table(folder / "items.parquet").to_pylist()}
    assert {blob: after[blob] for blob in split} == split


def test_by_time_a_copy_never_stands_after_the_cut(tmp_path: Path) -> None:
    copies = near_copies(5)
    days = {1: copies[0], 6: copies[1], 9: copies[2]} | {d: encoded(scene(d)) for d in (2, 3, 5, 7, 8, 10)}
    put(tmp_path, {f"a/202501{d:02d}T0000.jpg": data for d, data in days.items()})
    source = image_source(read={"connector": "images", "path": "pictures"} | CAMERA, kinds={}, features={"size": 32})
    run(city(tmp_path, {"s": source}), "s")
    later(tmp_path, "image", "s")
    found = pq.read_table(tmp_path / "data/features/image/s/items.parquet").to_pylist()
    assert {row["time"].day: row["split"] for row in found} == {
        1: "train", 2: "train", 3: "train", 5: "validation", 7: "validation", 8: "test", 10: "test"
    }  # fmt: skip
    before = tree(tmp_path / "data/corpus")
    (tmp_path / "window.yaml").write_text('s: "2025-01-10"\n')  # a day less of test
    run(tmp_path, "s")
    later(tmp_path, "image", "s")
    assert tree(tmp_path / "data/corpus") == before


def test_equal_input_gives_equal_bytes_and_nothing_is_decoded_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, some(3) | {f"car/{name}": data for name, (_, data) in bad().items()})
    run(city(tmp_path, {"s": image_source()}), "s")
    before, inodes = tree(tmp_path), {p: p.stat().st_ino for p in (tmp_path / "data").rglob("*") if p.is_file()}
    caplog.set_level("INFO", "cityloop")
    run(tmp_path, "s")
    assert tree(tmp_path) == before
    assert {p: p.stat().st_ino for p in inodes if p.name != "looks.json"} == {
        p: i for p, i in inodes.items() if p.name != "looks.json"
    }
    assert "looked_at 0" in caplog.text
    (tmp_path / "pictures/car/0.png").unlink()
    report = run(tmp_path, "s")
    assert report["records"] == 9 + len(bad()) - 1
    blobs = {p.name for p in (tmp_path / "data/raw/s/blobs").iterdir()}
    assert blobs == {row["blob"] for row in rows(tmp_path / "data/raw/s")}


def test_a_feed_that_breaks_changes_nothing_and_a_changed_blob_is_found(tmp_path: Path) -> None:
    put(tmp_path, some(3))
    source = image_source()
    run(city(tmp_path, {"s": source}), "s")
    before = tree(tmp_path / "data")
    put(tmp_path, {"bare.png": encoded(scene(1), "PNG")})
    with pytest.raises(UserError, match=r"bare\.png lies in no folder"):
        ingest.run("s", root=tmp_path)
    assert tree(tmp_path / "data") == before
    assert not any((tmp_path / ".cityloop/ingest").iterdir())
    blob = next((tmp_path / "data/raw/s/blobs").iterdir())
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(data[:-1] + b"?")
    (tmp_path / "data/quarantine/s/looks.json").unlink()
    validate.run("s", root=tmp_path)
    assert reasons(tmp_path, "s") == {blob.name: ["altered"]}


def test_classes_of_one_or_none_are_told_and_a_bad_batch_stops(tmp_path: Path) -> None:
    put(
        tmp_path,
        {f"car/{i}.png": encoded(scene(i), "PNG") for i in range(9)} | {"bike/0.png": encoded(scene(40), "PNG")},
    )
    source = image_source(contract={"max_quarantined": 0.2, "balance": 0.2})
    report = run(city(tmp_path, {"s": source}, vehicle=task("image", "classify", "s")), "s")
    assert report["classes"] == {"label": {"bike": 1, "car": 9, "truck": 0}}
    assert report["warnings"] == [
        "classes with one item or none, from which nothing can be learnt and tested: bike (1), truck (0)",
        "classes with less than 20 % of all: bike (1), truck (0)",
    ]
    put(tmp_path, {f"car/{i}.jpg": b"no picture %d" % i for i in range(4)})
    ingest.run("s", root=tmp_path)
    with pytest.raises(BrokenBatch, match=r"28\.6 % of the items are in quarantine, contract allows 20 %; report in"):
        validate.run("s", root=tmp_path)
    assert files.read_json(tmp_path / "metrics/validate/s.json")["reasons"]["not_a_picture"] == 4


def test_rooms_say_what_is_missing(tmp_path: Path) -> None:
    city(tmp_path, {"s": image_source()}, vehicle=task("image", "classify", "s"))
    for room, said in ((validate, "cityloop ingest s"), (features, "cityloop validate s")):
        with pytest.raises(UserError, match=said):
            room.run("s", root=tmp_path)
    with pytest.raises(UserError, match="cityloop features s"):
        join.run("vehicle", root=tmp_path)
    put(tmp_path, {"car/0.png": encoded(scene(0), "PNG")})
    city(tmp_path, {"s": image_source()}, until="2025-01-01")
    with pytest.raises(UserError, match="is empty"):
        ingest.run("s", root=tmp_path)


def test_hashes_bring_near_ones_together_whatever_the_bands() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 300, np.uint64)
    for i in range(0, 300, 3):  # one of each three is a copy with some bits turned
        flip = np.uint64(sum(1 << int(b) for b in rng.choice(63, i % 9, replace=False)))
        hashes[i + 1] = hashes[i] ^ flip
    for limit in (0, 3, 6):
        apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
        expected = {(int(a), int(b)) for a, b in np.argwhere(apart <= limit) if a < b}
        joined = near.groups(300, near.pairs_of_hashes(hashes, limit))
        assert np.array_equal(joined, near.groups(300, sorted(expected)))


DATA = Path(os.environ.get("CITYLOOP_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
real = pytest.mark.skipif(not (DATA / "images_vehicles").is_dir(), reason="needs the real data")


@real
@pytest.mark.slow
def test_the_vehicles_of_the_real_city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_DATA", str(DATA))
    names = ["bike", "car", "juggernaut", "minibus", "pickup", "truck"]
    read = {"connector": "images", "path": "{data}/images_vehicles", "layout": "folders"}
    source: dict[str, Any] = image_source(read=read, kinds={"label": {"labels": names}}, features={"split": "group"})
    report = run(city(tmp_path, {"s": source}, vehicle=task("image", "classify", "s")), "s")
    assert (report["records"], report["quarantined"], report["reasons"]["duplicate"]) == (3360, 4, 4)
    assert report["near_duplicates"]["largest"] < 10  # no chain of cars that merely look alike
    later(tmp_path, "image", "s", "vehicle")
    splits = files.read_json(tmp_path / "data/joined/vehicle/about.json")["splits"]
    assert sum(splits.values()) == 3356
    assert 0.17 < splits["test"] / 3356 < 0.23
