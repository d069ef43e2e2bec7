"""The simulated cameras: the same whatever the window, as full as their roads, boxes on vehicles, faults told of."""

import datetime as dt
import hashlib
import io
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, UnidentifiedImageError

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import IMAGES
from pipelines.sources import ITEM_TRUTH, Items, Window, open_feed
from pipelines.sources.simulated.painting import View
from pipelines.sources.simulated.pictures import FAULTS, Pictures
from pipelines.sources.simulated.scenes import Scenes
from pipelines.sources.simulated.vehicles import CLASSES, STYLES, shape

CITY = City(name="test", timezone="Europe/Amsterdam", seed=3)
TUESDAY = dt.datetime(2025, 3, 4, tzinfo=dt.UTC)
SECOND = int(TUESDAY.timestamp())
HOUR = dt.timedelta(hours=1)
CLEAN = dict.fromkeys(FAULTS, 0.0)


def source(kinds: tuple[str, ...] = ("label", "boxes"), **read: Any) -> Source:
    dates = {"start": "2025-01-01", "validation_from": "2025-02-01", "test_from": "2025-03-01"}
    what = {"connector": "simulator", "feed": "cameras", **read}
    labels = {kind: {"labels": list(CLASSES)} for kind in kinds}
    return Source.model_validate(
        {"modality": "image", "department": "x", **dates, "step": "30min", "read": what, "kinds": labels}
    )


def fetch(feed: Items | Pictures, start: dt.datetime, hours: float) -> tuple[pa.Table, pa.Table, dict[str, bytes]]:
    batches = list(feed.batches(Window(start, start + hours * HOUR)) if isinstance(feed, Pictures) else feed.batches)
    blobs: dict[str, bytes] = {}
    for batch in batches:
        assert batch.table.schema == IMAGES
        assert batch.truth is not None
        assert batch.truth.schema == ITEM_TRUTH
        assert set(batch.blobs) == set(batch.table["blob"].to_pylist())
        blobs |= batch.blobs
    return pa.concat_tables(b.table for b in batches), pa.concat_tables(b.truth for b in batches), blobs


def opened(start: dt.datetime, hours: float, **more: Any) -> tuple[pa.Table, pa.Table, dict[str, bytes]]:
    feed = open_feed(source(**more), CITY, Window(start, start + hours * HOUR))
    assert isinstance(feed, Items)
    return fetch(feed, start, hours)


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("crops", [False, True])
def test_a_window_changes_no_item_within_it(crops: bool) -> None:
    kinds = ("label",) if crops else ("label", "boxes")
    long, long_truth, blobs = opened(TUESDAY + 5 * HOUR, 5, kinds=kinds, crops=crops, sensors=2)
    short, short_truth, few = opened(TUESDAY + 6 * HOUR, 3, kinds=kinds, crops=crops, sensors=2)
    low, high = TUESDAY + 6 * HOUR, TUESDAY + 9 * HOUR
    for whole, part in ((long, short), (long_truth, short_truth)):
        assert [row for row in whole.to_pylist() if low <= row["time"] < high] == part.to_pylist()
    assert len(short)
    assert all(blobs[name] == data for name, data in few.items())
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())


def test_frames_are_as_agreed() -> None:
    table, truth, blobs = fetch(Pictures(CITY, None, 7200, frozenset(("label", "boxes")), faults=CLEAN), TUESDAY, 24)
    assert len(truth) == 0
    assert len(table) == 4 * 12
    assert len(set(table["camera"].to_pylist())) == 4
    annotated = [row for row in table.to_pylist() if row["labels"] is not None]
    assert 0.25 < len(annotated) / len(table) < 0.75
    for row in table.to_pylist():
        image = picture(blobs[row["blob"]])
        assert (image.size, image.format) == ((160, 120), "JPEG")
        assert (row["labels"] is None) == (row["boxes"] is None)
        words = [box["label"] for box in row["boxes"] or []]
        if row["labels"]:
            assert words.count(row["labels"][0]) == max(Counter(words).values())
        else:
            assert not words
        for box in row["boxes"] or []:
            assert min(box["x"], box["y"]) >= 0
            assert box["x"] + box["width"] <= 160
            assert box["y"] + box["height"] <= 120


def test_vehicles_in_view_follow_the_traffic() -> None:
    """Counts against flow over speed times the metres of road in view: r > 0.8, and neither more nor fewer."""
    scenes = Scenes(CITY)
    expected, counted = [], []
    for second in range(SECOND, SECOND + 86400, 900):
        for camera in scenes.cameras:
            pose = camera.pose(second)
            spans = {pose.lane(w, k): pose.stretch(w, k) for w in (False, True) for k in range(pose.lanes[w])}
            found = scenes.vehicles(camera, second)
            inside = 0
            for v in found:
                near, far = min(spans.items(), key=lambda item, x=v.x: abs(item[0] - x))[1]
                inside += near <= v.y <= far
            expected.append(scenes.expected(camera, second))
            counted.append(inside)
    assert np.corrcoef(expected, counted)[0, 1] > 0.8
    assert np.mean(counted) == pytest.approx(np.mean(expected), rel=0.12)
    busy, idle = np.array(expected) > np.quantile(expected, 0.9), np.array(expected) < np.quantile(expected, 0.3)
    assert np.array(counted)[busy].mean() > 3 * np.array(counted)[idle].mean() + 1


def test_boxes_lie_on_what_is_painted() -> None:
    """The frame without one vehicle differs from the frame with it: in the vehicle's box, and hardly outside it."""
    scenes = Scenes(CITY)
    checked = 0
    for second in range(SECOND + 10 * 3600, SECOND + 15 * 3600, 1200):
        for camera in scenes.cameras:
            painter = scenes.painter(camera, second)
            if not painter.found or painter.blur or painter.shake or painter.sky.rain:
                continue
            with_all = np.asarray(scenes.painter(camera, second).paint(View()), float)
            for box in painter.boxes():
                bare = scenes.painter(camera, second)
                k = bare.found.index(box.vehicle)
                del bare.found[k], bare.things[k]
                changed = np.abs(np.asarray(bare.paint(View()), float) - with_all).max(-1) > 24
                assert changed.any()
                x0, y0 = int(box.x), int(box.y)
                x1, y1 = int(np.ceil(box.x + box.width)), int(np.ceil(box.y + box.height))
                inside = changed[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1].sum()
                shadow = 0.35 * box.width * box.height + 25  # which is no part of the box
                assert changed.sum() - inside < shadow
                assert inside > 0.2 * box.width * box.height * min(box.seen, 1)
                checked += 1
    assert checked > 20


def test_every_class_and_style_has_a_shape_of_its_size() -> None:
    heights = {}
    for label, styles in STYLES.items():
        for style in range(styles):
            form = shape(label, style, 1)
            assert np.abs(np.linalg.norm(form.normals, axis=1) - 1).max() < 1e-6
            outward = ((form.quads.mean(1) - form.centres[form.part]) * form.normals).sum(1)
            assert outward.min() > 0
            heights[label, style] = form.height
    assert max(h for (label, _), h in heights.items() if label == "car") < 2.2
    assert min(h for (label, _), h in heights.items() if label in ("truck", "bus")) > 2.2


def test_day_night_and_rain_look_different() -> None:
    scenes = Scenes(CITY)
    seconds = range(SECOND, SECOND + 14 * 86400, 1800)
    skies = {second: scenes.sky(second) for second in seconds}
    day = next(s for s, sky in skies.items() if sky.sun > 0.5 and not sky.rain)
    night = next(s for s, sky in skies.items() if sky.lamps == 1 and not sky.rain)
    camera = scenes.cameras[0]
    light, dark = (np.asarray(scenes.frame(camera, s)[0], float).mean() for s in (day, night))
    assert light > 2.5 * dark
    assert any(sky.rain > 0.5 for sky in skies.values())


def test_crops_show_one_vehicle_each() -> None:
    table, _, blobs = fetch(Pictures(CITY, 3, 1800, frozenset(("label",)), True, 1.0, CLEAN), TUESDAY + 6 * HOUR, 12)
    rows = table.to_pylist()
    assert len(rows) > 30
    assert {row["labels"][0] for row in rows} == set(CLASSES)
    sizes = [picture(blobs[row["blob"]]).size for row in rows]
    assert all(len(row["labels"]) == 1 and row["boxes"] is None for row in rows)
    assert max(max(s) for s in sizes) <= 101
    assert np.median([max(s) for s in sizes]) >= 64


@pytest.fixture(scope="module")
def spoiled() -> tuple[pa.Table, pa.Table, dict[str, bytes], pa.Table]:
    """Frames of which a good part is spoiled, and the same clean."""
    shares = dict.fromkeys(FAULTS, 0.03) | {"frozen": 0.08}
    feeds = [Pictures(CITY, 2, 600, frozenset(("label", "boxes")), faults=f) for f in (shares, CLEAN)]
    (table, truth, blobs), (clean, _, _) = (fetch(feed, TUESDAY, 36) for feed in feeds)
    return table, truth, blobs, clean


def test_truth_tells_what_was_spoiled(spoiled: tuple[pa.Table, pa.Table, dict[str, bytes], pa.Table]) -> None:
    table, truth, blobs, clean = spoiled
    was = {(row["time"], row["camera"]): row for row in clean.to_pylist()}
    told = {(row["time"], row["item"]): row for row in truth.to_pylist()}
    counts = Counter(truth["fault"].to_pylist())
    assert set(counts) == set(FAULTS)
    for fault, share in dict.fromkeys(FAULTS, 0.03).items():
        if fault != "frozen":
            assert share / 3 < counts[fault] / len(clean) < share * 2.5, fault
    names = set(table["blob"].to_pylist())
    for row in table.to_pylist():
        about = told.get((row["time"], row["blob"]))
        if about is None:
            assert row == was[row["time"], row["camera"]]
            continue
        fault, data = about["fault"], blobs[row["blob"]]
        assert (about["of"] is not None) == (fault in ("frozen", "duplicate", "near"))
        assert about["of"] is None or about["of"] in names
        if fault == "truncated":
            with pytest.raises((OSError, UnidentifiedImageError)):
                picture(data).load()
        elif fault == "blank":
            assert np.asarray(picture(data), float).std() < 2
        elif fault in ("frozen", "duplicate"):
            assert row["blob"] == about["of"]
        elif fault == "near":
            assert row["blob"] != about["of"]
            one, other = (np.asarray(picture(b).resize((32, 24)), float) for b in (data, blobs[about["of"]]))
            assert np.abs(one - other).mean() < 8
        elif fault == "size":
            short, long = sorted(picture(data).size)
            assert short < 8 or long > 10 * short
        elif fault == "box":
            outside = [b for b in row["boxes"] if b["x"] < 0 or b["x"] + b["width"] > 160 or b["y"] + b["height"] > 120]
            assert len(outside) == 1
        elif fault == "label":
            words = {*row["labels"], *(b["label"] for b in row["boxes"])}
            assert words - set(CLASSES)


def test_some_cameras_write_their_place_into_the_file() -> None:
    _, _, blobs = fetch(Pictures(CITY, 20, 43200, frozenset(), faults=CLEAN), TUESDAY, 12)
    located = [bool(picture(data).getexif().get_ifd(0x8825)) for data in blobs.values()]
    assert any(located)
    assert not all(located)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"every": "7min"}, "every 420s"),
        ({"crops": True}, "leave out kind boxes"),
        ({"kinds": ("label",), "lacking": "bus"}, "add 'bus'"),
    ],
)
def test_what_the_city_has_not_is_said_in_one_line(more: dict[str, Any], says: str) -> None:
    lacking = more.pop("lacking", None)
    what = source(**more)
    if lacking:
        kind = what.kinds["label"]
        words = tuple(label for label in kind.labels if label != lacking)
        what = what.model_copy(update={"kinds": {"label": kind.model_copy(update={"labels": words})}})
    with pytest.raises(UserError, match=says) as error:
        open_feed(what, CITY, Window(TUESDAY, TUESDAY + HOUR))
    assert "\n" not in str(error.value)
