"""The feed `cameras`: frames, or vehicles cut out of them, as they reach the archive, and what was spoiled on the way.

An item carries at most one fault. Every fault has random streams of its own, by the frame it befalls.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.params import City
from pipelines.core.records import IMAGES
from pipelines.sources import ITEM_TRUTH, ItemBatch, Window
from pipelines.sources.simulated.ground import CENTRE, KM_LAT, KM_LON, evenly, rng
from pipelines.sources.simulated.painting import HEIGHT, WIDTH, Box, Painter, View
from pipelines.sources.simulated.scenes import Camera, Scenes
from pipelines.sources.simulated.vehicles import CLASSES

FAULTS: Mapping[str, float] = {
    "truncated": 0.004,  # the file ends too soon
    "blank": 0.003,
    "frozen": 0.01,  # the camera delivers the same file again for 3 to 12 frames
    "duplicate": 0.004,  # the same file again, seconds later
    "near": 0.006,  # the same picture again, seconds later, encoded anew, a little brighter and cut
    "size": 0.003,  # a thumbnail or a strip
    "box": 0.004,  # a box reaches beyond the picture; frames only
    "label": 0.004,  # a class that there is not
}
"""Expected share of items. What needs an annotation befalls annotated items so much more often."""
WRONG = ("lorry", "vehicle", "tram", "cra", "汽车")
FROZEN = (3, 12)
"""Frames that a frozen camera repeats."""
PAD, CUT, SHARP = 0.12, (64, 100), 6.0
"""Crops: room around a vehicle (share of it), its longer side in pixels, and how much finer than frames at most."""
BATCH = 1000


@dataclass(frozen=True)
class _Item:
    second: int
    camera: str
    data: bytes
    labels: list[str] | None
    boxes: list[dict[str, Any]] | None

    @property
    def blob(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Pictures:
    """The feed as a contract asks for it. `kinds`: which annotations there are."""

    city: City
    cameras: int | None
    every: int
    """Seconds between frames of a camera; divides a day."""
    kinds: frozenset[str]
    crops: bool = False
    labelled: float = 0.5
    faults: Mapping[str, float] = field(default_factory=lambda: FAULTS)

    def batches(self, window: Window) -> Iterator[ItemBatch]:
        """Items of the window, by time; what is sent again comes right after."""
        scenes = Scenes(self.city, self.cameras)
        feed = _Feed(self, scenes)
        start, end = int(window.start.timestamp()), int(window.end.timestamp())
        items: list[_Item] = []
        truth: list[tuple[int, str, str, str | None]] = []
        # what is sent again comes seconds later, so the frame before the window may reach into it
        for slot in range(start // self.every - 1, -(-end // self.every)):
            for camera in scenes.cameras:
                for item, fault, of in feed.slot(camera, slot):
                    if start <= item.second < end:
                        items.append(item)
                        if fault:
                            truth.append((item.second, item.blob, fault, of))
            if len(items) >= BATCH:
                yield _batch(items, truth)
                items, truth = [], []
        if items:
            yield _batch(items, truth)


def _batch(items: list[_Item], truth: list[tuple[int, str, str, str | None]]) -> ItemBatch:
    names = [item.blob for item in items]
    columns = [[item.camera for item in items], names, [item.labels for item in items], [item.boxes for item in items]]
    kind = IMAGES.field("time").type
    times = pa.array([item.second * 1_000_000 for item in items], pa.int64()).cast(kind)
    table = pa.Table.from_arrays(
        [times, *(pa.array(c, f.type) for c, f in zip(columns, list(IMAGES)[1:], strict=True))], schema=IMAGES
    )
    told = [pa.array([t[0] * 1_000_000 for t in truth], pa.int64()).cast(kind)]
    told += [pa.array([t[k] for t in truth], pa.string()) for k in (1, 2, 3)]
    blobs = dict(zip(names, (item.data for item in items), strict=True))
    return ItemBatch(table, blobs, pa.Table.from_arrays(told, schema=ITEM_TRUTH))


class _Feed:
    """What each camera delivers at each slot (multiple of `every` since 1970)."""

    def __init__(self, spec: Pictures, scenes: Scenes) -> None:
        self.spec, self.scenes, self.seed = spec, scenes, scenes.seed
        self.per_day = 86400 // spec.every
        self.places = {camera.name: _exif(scenes, camera) for camera in scenes.cameras if camera.located}

    def slot(self, camera: Camera, slot: int) -> Iterator[tuple[_Item, str, str | None]]:
        """(item, fault or "", what it repeats)."""
        frozen = self._frozen(camera, slot // self.per_day)
        if slot in frozen:
            for item in self._clean(camera, frozen[slot]):
                again = self._annotated(replace(item, second=slot * self.spec.every), camera, slot)
                yield again, "frozen", again.blob
            return
        begins = slot in frozen.values() or slot in self._frozen(camera, slot // self.per_day + 1).values()
        for index, item in enumerate(self._clean(camera, slot)):
            yield from self._spoiled(self._annotated(item, camera, slot), camera, slot, index, begins)

    def _annotated(self, item: _Item, camera: Camera, slot: int) -> _Item:
        """The item with its annotations, or without for the share that nobody has looked at."""
        if rng(self.seed, "annotated", camera.site, slot, self.spec.every).random() >= self.spec.labelled:
            return replace(item, labels=None, boxes=None)
        return item

    @lru_cache(maxsize=1024)  # noqa: B019 - as long as its feed
    def _frozen(self, camera: Camera, day: int) -> dict[int, int]:
        """Slot → the slot whose frame stands still in it, for the slots of `day`."""
        lo, hi = FROZEN[0], max(FROZEN[0], min(FROZEN[1], self.per_day - 1))
        rate = self.spec.faults["frozen"] * self.per_day / ((lo + hi) / 2)
        found: dict[int, int] = {}
        for began in (day - 1, day):
            name = f"frozen {camera.name}"
            for index in range(evenly(self.seed, name, began, rate)):
                r = rng(self.seed, name, began, index)
                first, length = began * self.per_day + int(r.integers(self.per_day)), int(r.integers(lo, hi + 1))
                for slot in range(first + 1, first + 1 + length):
                    if slot // self.per_day == day and first not in found:
                        found.setdefault(slot, first)
        # one that begins while another lasts is no news
        return {slot: first for slot, first in found.items() if first not in found}

    @lru_cache(maxsize=16)  # noqa: B019 - as above
    def _clean(self, camera: Camera, slot: int) -> tuple[_Item, ...]:
        """What the camera truly sees, fully annotated."""
        second = slot * self.spec.every
        painter = self.scenes.painter(camera, second)
        boxes = painter.boxes()
        if self.spec.crops:
            r = rng(self.seed, "cut", camera.site, second)
            cuts = [(cut, box) for box in boxes if (cut := _cut(painter, box, r)) is not None]
            return tuple(
                _Item(second, camera.name, self._jpeg(cut, camera), self._labels([box.vehicle.label]), None)
                for cut, box in cuts
            )
        labels = [box.vehicle.label for box in boxes]
        most = sorted(set(labels), key=lambda label: (-labels.count(label), CLASSES.index(label)))[:1]
        marked = [
            {"label": b.vehicle.label, "x": b.x, "y": b.y, "width": b.width, "height": b.height} for b in boxes
        ] if "boxes" in self.spec.kinds else None  # fmt: skip
        data = self._jpeg(painter.paint(View()), camera)
        return (_Item(second, camera.name, data, self._labels(most), marked),)

    def _labels(self, labels: list[str]) -> list[str] | None:
        return labels if "label" in self.spec.kinds else None

    def _jpeg(self, image: Any, camera: Camera, quality: int | None = None) -> bytes:
        out, exif = io.BytesIO(), self.places.get(camera.name)
        image.save(out, "JPEG", quality=quality or camera.quality, **({"exif": exif} if exif else {}))
        return out.getvalue()

    def _spoiled(
        self, item: _Item, camera: Camera, slot: int, index: int, begins: bool
    ) -> Iterator[tuple[_Item, str, str | None]]:
        r = rng(self.seed, "picture fault", camera.site, slot, self.spec.every, index)
        fault = "" if begins else self._fault(item, float(r.random()))
        if fault in ("", "duplicate", "near"):
            yield item, "", None
        if fault == "":
            return
        later = replace(item, second=item.second + int(r.integers(1, 15)))
        if fault == "duplicate":
            yield later, fault, item.blob
        elif fault == "near":
            yield replace(later, data=self._near(item.data, camera)), fault, item.blob
        elif fault == "truncated":
            yield replace(item, data=item.data[: int(len(item.data) * r.uniform(0.3, 0.85))]), fault, None
        elif fault in ("blank", "size"):
            image = _blank(r) if fault == "blank" else _resized(item.data, r)
            bare = replace(item, labels=item.labels and [], boxes=item.boxes and [])
            yield replace(bare, data=self._jpeg(image, camera)), fault, None
        elif fault == "box":
            yield replace(item, boxes=_beyond(item.boxes or [], r)), fault, None
        else:
            yield _mislabelled(item, str(r.choice(WRONG))), fault, None

    def _fault(self, item: _Item, draw: float) -> str:
        """Which fault, if any, `draw` in 0..1 stands for."""
        for name, share in self.spec.faults.items():
            chance = 0.0 if name == "frozen" else share
            if name in ("box", "label"):
                able = item.boxes is not None if name == "box" else item.labels is not None or bool(item.boxes)
                chance = share / max(self.spec.labelled, share, 1e-9) if able else 0.0
            if draw < chance:
                return name
            draw -= chance
        return ""

    def _near(self, data: bytes, camera: Camera) -> Any:
        from PIL import Image, ImageEnhance

        image = Image.open(io.BytesIO(data))
        cut = image.resize(image.size, Image.Resampling.BILINEAR, box=(1, 1, image.width - 1, image.height - 1))
        return self._jpeg(ImageEnhance.Brightness(cut).enhance(1.04), camera, quality=60)


def _cut(painter: Painter, box: Box, r: np.random.Generator) -> Any:
    """The vehicle with some room around it, as a camera several times as fine would show it; None: too small."""
    long = max(box.width, box.height)
    side, scale = float(r.uniform(*CUT)), 0.0
    scale = side / (long * (1 + 2 * PAD))
    shift = r.normal(0, 0.04, 2) * long
    if scale > SHARP or box.seen < 0.45:
        return None
    pad = PAD * long
    x0, y0 = max(box.x - pad + shift[0], 0.0), max(box.y - pad + shift[1], 0.0)
    x1, y1 = min(box.x + box.width + pad + shift[0], WIDTH), min(box.y + box.height + pad + shift[1], HEIGHT)
    size = max(16, round((x1 - x0) * scale)), max(16, round((y1 - y0) * scale))
    return painter.paint(View(x0, y0, scale, *size))


def _blank(r: np.random.Generator) -> Any:
    from PIL import Image

    return Image.new("RGB", (WIDTH, HEIGHT), (int(r.integers(0, 256)),) * 3)


def _resized(data: bytes, r: np.random.Generator) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data)).resize(((6, 5), (WIDTH, 7), (220, 18))[r.integers(3)])


def _beyond(boxes: list[dict[str, Any]], r: np.random.Generator) -> list[dict[str, Any]]:
    """The boxes, one of them moved over the edge, or one drawn there where there was none."""
    moved: dict[str, Any] = (
        dict(boxes[int(r.integers(len(boxes)))]) if boxes else {"label": CLASSES[0], "width": 30.0, "height": 24.0}
    )
    rest = [box for box in boxes if box != moved]
    moved["x"], moved["y"] = ((WIDTH - 2.0, 40.0), (-9.0 - moved["width"] / 2, 30.0), (60.0, HEIGHT + 3.0))[
        r.integers(3)
    ]
    return [*rest, moved]


def _mislabelled(item: _Item, word: str) -> _Item:
    boxes = (
        None if item.boxes is None else [{**box, "label": word} if k == 0 else box for k, box in enumerate(item.boxes)]
    )
    return replace(item, labels=None if item.labels is None else [word], boxes=boxes)


def _exif(scenes: Scenes, camera: Camera) -> bytes:
    """What a camera with a mind of its own writes into its files: maker and place."""
    from PIL import Image

    x, y = scenes.traffic.sites.x[camera.site], scenes.traffic.sites.y[camera.site]
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "Simulated Optics", "Roads department"

    def degrees(value: float) -> tuple[float, float, float]:
        minutes = abs(value) % 1 * 60
        return float(int(abs(value))), float(int(minutes)), round(minutes % 1 * 60, 2)

    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", degrees(CENTRE[0] + y / KM_LAT)
    place[3], place[4] = "E", degrees(CENTRE[1] + x / KM_LON)
    exif[0x8825] = place
    return exif.tobytes()
