"""Connector for pictures as cities have them: folders or archives, with classes, boxes or nothing beside them."""

import csv
import glob
import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from pipelines.core import log, pictures
from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.reads import ImagesRead
from pipelines.core.records import IMAGES
from pipelines.sources import ItemBatch, Items, Window
from pipelines.sources.files_fetch import DATA, File, first_line, locate
from pipelines.sources.files_time import BadTime, Clock, parse

Array = np.ndarray[Any, Any]
Boxes = list[dict[str, Any]]
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
NOTES = (".txt", ".yaml", ".yml")
"""What YOLO writes beside pictures."""
BATCH_ITEMS, BATCH_BYTES = 1000, 64 << 20
MOST_ITEMS = 5_000_000
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Tree(NamedTuple):
    """Files by name, relative to where the collection begins; `read` gives the bytes of some, in any order.

    In place of a file larger than `pictures.BOUNDS.size` it gives None.
    """

    told: str
    names: list[str]
    read: Callable[[Iterable[str]], Iterator[tuple[str, bytes | None]]]


class Noted(NamedTuple):
    """What lies beside a picture: labels and boxes as in records.IMAGES; boxes not yet in pixels if `relative`."""

    labels: list[str] | None = None
    boxes: Boxes | None = None
    relative: bool = False


def read(source: Source, city: City, window: Window, root: Path) -> Items:
    """Every picture that `source.read` names, whatever the window. Raises UserError with file and what to do.

    What has a picture's ending is an item, be it one or not: that is for validation to say.
    """
    spec = source.read
    assert isinstance(spec, ImagesRead)
    tree = _tree(spec, root)
    names = [name for name in tree.names if name.lower().endswith(ENDINGS)]
    if not names:
        raise UserError(f"{tree.told}: no picture there ({', '.join(ENDINGS)}); check `path`")
    return Items(_batches(spec, source, tree, names, root))


def _batches(spec: ImagesRead, source: Source, tree: Tree, names: list[str], root: Path) -> Iterator[ItemBatch]:
    noted = {"folders": _folders, "coco": _coco, "yolo": _yolo, "plain": _plain}[spec.layout](spec, tree, names, root)
    about = _about(spec, source, names, root)
    rows: list[dict[str, Any]] = []
    blobs: dict[str, bytes] = {}
    held = 0
    for name, data in tree.read(names):
        kept = pictures.refusal("too_large", f"over {pictures.BOUNDS.size:,} bytes") if data is None else data
        blob = hashlib.sha256(kept).hexdigest()
        time, camera, label = about[name]
        found = noted.get(name, Noted())
        labels = [label] if label is not None else found.labels
        boxes = _pixels(found.boxes, kept) if found.relative else found.boxes
        rows.append({"time": time, "camera": camera, "blob": blob, "labels": labels, "boxes": boxes})
        blobs[blob] = kept
        held += len(kept)
        if len(rows) >= BATCH_ITEMS or held >= BATCH_BYTES:
            yield ItemBatch(pa.Table.from_pylist(rows, IMAGES), blobs)
            rows, blobs, held = [], {}, 0
    if rows:
        yield ItemBatch(pa.Table.from_pylist(rows, IMAGES), blobs)


def _tree(spec: ImagesRead, root: Path) -> Tree:
    if "://" in spec.path or spec.path.lower().endswith(_ARCHIVES):
        return _archive(locate(spec.path, spec.sha256, root)[0])
    if spec.sha256 is not None:
        raise UserError(f"{spec.path}: `sha256` is of one file, an archive ({', '.join(_ARCHIVES)}); leave it out")
    magic = glob.has_magic(spec.path)
    found = locate(spec.path if magic else f"{spec.path.rstrip('/')}/**/*", None, root)
    base = root / Path(spec.path.replace("{data}", str(Path(os.environ.get(DATA, "")).resolve()))).expanduser()
    while glob.has_magic(str(base)):
        base = base.parent
    files = {file.path.relative_to(base).as_posix(): file.path for file in found}

    def chosen(names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        for name in names:
            path = files[name]
            try:
                yield name, None if path.stat().st_size > pictures.BOUNDS.size else path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {first_line(error)}; check the file") from None

    return Tree(str(base), sorted(filter(_ours, files)), chosen)


def _ours(name: str) -> bool:
    """Not what systems leave behind: hidden files, a Mac's second halves."""
    return not any(part.startswith((".", "__MACOSX")) for part in name.removeprefix("./").split("/"))


def _archive(file: File) -> Tree:
    """A .zip, or a tar of any compression. Members are read, never unpacked to disk, so their paths can do no harm."""
    limit = pictures.BOUNDS.size
    try:
        if zipfile.is_zipfile(file.path):
            with zipfile.ZipFile(file.path) as opened:
                names = [info.filename for info in opened.infolist() if not info.is_dir()]
        else:
            with tarfile.open(file.path) as tar:
                names = [member.name for member in tar if member.isfile()]
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(
            f"{file.name}: neither a .zip nor a .tar archive: {first_line(error)}; name an archive or a folder"
        ) from None
    if len(names) > MOST_ITEMS:
        raise UserError(f"{file.name}: {len(names):,} files, at most {MOST_ITEMS:,} are taken")

    def chosen(wanted: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        try:
            for name, data in (_zipped if zipfile.is_zipfile(file.path) else _tarred)(file.path, set(wanted), limit):
                yield name, data if len(data) <= limit else None
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
            raise UserError(f"{file.name}: is cut short or damaged: {first_line(error)}; fetch it again") from None

    return Tree(file.name, sorted(filter(_ours, dict.fromkeys(names))), chosen)


def _zipped(path: Path, wanted: set[str], limit: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(wanted):
            with archive.open(name) as member:
                yield name, member.read(limit + 1)


def _tarred(path: Path, wanted: set[str], limit: int) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name in wanted and member.isfile():
                wanted.discard(member.name)  # a name given twice: the first
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read(limit + 1)


def _plain(spec: ImagesRead, tree: Tree, names: list[str], root: Path) -> dict[str, Noted]:
    return {}


def _folders(spec: ImagesRead, tree: Tree, names: list[str], root: Path) -> dict[str, Noted]:
    """The folder that a picture lies in is its class."""
    classes = {name: name.removeprefix("./").rpartition("/")[0].rpartition("/")[2] for name in names}
    if bare := [name for name, word in classes.items() if not word]:
        raise UserError(f"{tree.told}: {bare[0]} lies in no folder, so it has no class; use layout plain, or move it")
    return {name: Noted([spec.words.get(word, word)]) for name, word in classes.items()}


def _coco(spec: ImagesRead, tree: Tree, names: list[str], root: Path) -> dict[str, Noted]:
    """Boxes of a COCO file; crowds, which outline no single thing, are left out."""
    assert spec.annotations is not None
    file = locate(spec.annotations, None, root)[0]
    at = "the file"
    try:
        data = json.loads(file.path.read_bytes())
        at = "categories"
        words = {c["id"]: str(c["name"]) for c in data["categories"]}
        at = "images"
        known = {image["id"]: str(image["file_name"]) for image in data["images"]}
        boxes: dict[Any, Boxes] = {image: [] for image in known}
        crowds = 0
        for i, found in enumerate(data["annotations"]):
            at = f"annotations[{i}]"
            if found.get("iscrowd"):
                crowds += 1
                continue
            word = words.get(found["category_id"], f"category {found['category_id']}")
            x, y, width, height = map(float, found["bbox"])
            box = {"label": spec.words.get(word, word), "x": x, "y": y, "width": width, "height": height}
            boxes[found["image_id"]].append(box)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{file.name}: {at}: not as COCO has it: {why}; correct the file") from None
    ours = _named(names)
    out = {ours[known[i]]: Noted(None, found) for i, found in boxes.items() if known[i] in ours}
    if not out:
        raise UserError(f"{file.name}: names no picture of {tree.told}, such as {names[0]}; check `path`")
    if crowds or len(out) < len(known):
        log.logger.info(
            "%s: left out %d crowds, %d pictures that are not there", file.name, crowds, len(known) - len(out)
        )
    return out


def _named(names: list[str]) -> dict[str, str]:
    """Every way to name a picture, whole or by the end of its path, that means one alone → its name."""
    ways: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for i in range(len(parts)):
            ways.setdefault("/".join(parts[i:]), set()).add(name)
    return {way: next(iter(meant)) for way, meant in ways.items() if len(meant) == 1} | {n: n for n in names}


def _yolo(spec: ImagesRead, tree: Tree, names: list[str], root: Path) -> dict[str, Noted]:
    """Boxes of text files beside the pictures, or in `labels/` beside `images/`; a picture without a file: not
    annotated."""
    notes = dict(tree.read([name for name in tree.names if name.lower().endswith(NOTES)]))
    words = spec.classes or _classes(tree, notes)
    out = {}
    for name in names:
        stem = name.rpartition(".")[0]
        folders = stem.split("/")
        swapped = ["labels" if part == "images" else part for part in folders[:-1]] + folders[-1:]
        for note in (f"{stem}.txt", f"{'/'.join(swapped)}.txt"):
            content = notes.get(note)
            if content is not None:
                lines = content.decode("utf-8", "replace").splitlines()
                out[name] = Noted(None, _outlines(f"{tree.told}: {note}", lines, words, spec), relative=True)
                break
    if not out:
        raise UserError(f"{tree.told}: no picture has a text file of boxes, such as {names[0].rpartition('.')[0]}.txt")
    return out


def _classes(tree: Tree, notes: dict[str, bytes | None]) -> tuple[str, ...]:
    for name, content in sorted(notes.items()):
        last, text = name.rpartition("/")[2], (content or b"").decode("utf-8", "replace")
        if last == "classes.txt":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        if last in ("data.yaml", "data.yml"):
            try:
                found = yaml.safe_load(text)["names"]
                return tuple(str(found[i]) for i in range(len(found)))
            except (yaml.YAMLError, TypeError, KeyError):
                raise UserError(f"{tree.told}: {name}: has no `names` list; correct it, or give `classes`") from None
    raise UserError(f"{tree.told}: neither data.yaml nor classes.txt says what the numbers mean; give `classes`")


def _outlines(at: str, lines: list[str], words: tuple[str, ...], spec: ImagesRead) -> Boxes:
    """Boxes of `class x y width height` (centre) or `class x1 y1 x2 y2 x3 y3 …`, in fractions of the picture."""
    out = []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            number, *values = [float(part) for part in line.split()]
            points = np.array(values)
            if len(values) == 4:
                low, high = points[:2] - points[2:] / 2, points[:2] + points[2:] / 2
            elif len(values) >= 6 and not len(values) % 2:
                low, high = points.reshape(-1, 2).min(0), points.reshape(-1, 2).max(0)
            else:
                raise ValueError
            word = words[int(number)] if 0 <= number < len(words) and number == int(number) else f"class {number:g}"
        except (ValueError, OverflowError):
            raise UserError(f"{at}: line {i}: expected a class's number and x y width height; correct it") from None
        (x, y), (width, height) = low.tolist(), (high - low).tolist()
        out.append({"label": spec.words.get(word, word), "x": x, "y": y, "width": width, "height": height})
    return out


def _pixels(boxes: Boxes | None, data: bytes) -> Boxes | None:
    """Fractions to pixels of the picture as one sees it; None of one that cannot be read."""
    if boxes is None:
        return None
    try:
        width, height = pictures.size(data)
    except pictures.Unfit:
        return None
    scale = {"x": width, "width": width, "y": height, "height": height}
    return [{k: v * scale.get(k, 1) if k in scale else v for k, v in box.items()} for box in boxes]


def _about(spec: ImagesRead, source: Source, names: list[str], root: Path) -> dict[str, tuple[Any, str, str | None]]:
    """Time (aware), camera and, from a sidecar, label of each picture."""
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    if spec.pattern is not None:
        for name in names:
            if match := re.search(spec.pattern, name):
                found[name] = {k: v for k, v in match.groupdict().items() if v}
        if not any(found.values()):
            raise UserError(f"read.pattern {spec.pattern!r} matches no path, such as {names[0]!r}; correct it")
    if spec.sidecar is not None:
        for name, row in _sidecar(spec.sidecar, names, root).items():
            found[name] |= {k: v for k, v in row.items() if k in ("camera", "time", "label") and v}
    cameras = [found[name].get("camera", spec.camera) for name in names]
    times = np.full(len(names), int(source.start.timestamp() * 1e6), np.int64)
    dated = [i for i, name in enumerate(names) if "time" in found[name]]
    if dated:
        try:
            local, zoned = parse(pa.array([found[names[i]]["time"] for i in dated]), spec.time_format)
            times[dated] = Clock(spec.timezone).utc(local, zoned, lambda i: cameras[dated[i]])
        except BadTime as error:
            raise UserError(f"{names[dated[error.row]]}: time {error.why}") from None
    moments = pa.array(times).cast(IMAGES.field("time").type).to_pylist()
    labels = [found[name].get("label") for name in names]
    told = [None if word is None else spec.words.get(word, word) for word in labels]
    return dict(zip(names, zip(moments, cameras, told, strict=True), strict=True))


def _sidecar(path: str, names: list[str], root: Path) -> dict[str, dict[str, str]]:
    file = locate(path, None, root)[0]
    ours = _named(names)
    try:
        rows = list(csv.DictReader(io.StringIO(file.path.read_text(encoding="utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file.name}: cannot be read as CSV in UTF-8: {first_line(error)}; save it so") from None
    if not rows or "file" not in rows[0]:
        raise UserError(f"{file.name}: expected rows with a column `file`, and camera, time or label beside it")
    out = {ours[row["file"]]: row for row in rows if row["file"] in ours}
    if not out:
        raise UserError(f"{file.name}: names no picture, such as {names[0]}; correct its column `file`")
    return out
