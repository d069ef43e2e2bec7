"""Pictures and messages as features and the rooms after it hand them on: a table, pixels, what they are about."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.records import IMAGES, TEXTS

Array = np.ndarray[Any, Any]
PRIVACY = "privacy.json"
"""Beside the day files: how much of what was masked."""
ITEMS, PIXELS, ABOUT = "items.parquet", "pixels.npy", "about.json"
SPLITS = ("train", "validation", "test")
_SPLIT = [pa.field("group", pa.int64()), pa.field("split", pa.string())]
PICTURES = pa.schema(
    [
        *(IMAGES.field(name) for name in ("time", "camera", "blob")),
        *_SPLIT,
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        *(IMAGES.field(name) for name in ("labels", "boxes")),
    ]
)
"""Sorted by time, camera, blob. `width`, `height` are the picture's own; `boxes` are fractions of the letter-boxed
square, x and y the upper left corner."""
MESSAGES = pa.schema([*TEXTS, pa.field("language", pa.string()), *_SPLIT])
"""Sorted by time and id."""


def write(folder: Path, items: pa.Table, about: dict[str, Any], pixels: Array | None) -> None:
    """`items` in schema PICTURES, with `pixels` uint8 [n, size, size, 3], or MESSAGES. What was there else goes."""
    assert pixels is None or len(pixels) == len(items)
    counts = {name: int(pc.sum(pc.equal(items["split"], name)).as_py() or 0) for name in SPLITS}
    wanted = {folder / ITEMS, folder / ABOUT}
    if pixels is not None:
        files.write_array(folder / PIXELS, pixels)
        wanted.add(folder / PIXELS)
    files.write_table(folder / ITEMS, items)
    files.write_json(folder / ABOUT, about | {"splits": counts})
    files.tidy(folder, wanted)


def read(folder: Path, source: str) -> tuple[pa.Table, dict[str, Any], Array | None]:
    """Items, what they are about, and pixels (memory-mapped). Raises UserError when they are not there."""
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder}: no features; run `cityloop features {source}`")
    about = files.read_json(folder / ABOUT)
    pixels = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False) if about["modality"] == "image" else None
    return pq.read_table(folder / ITEMS, partitioning=None), about, pixels


def chosen(items: pa.Table, pixels: Array | None, rows: Array) -> tuple[pa.Table, Array | None]:
    """Some rows (bool [n]) of both."""
    return items.filter(pa.array(rows)), None if pixels is None else pixels[np.flatnonzero(rows)]


def put(source: Path, path: Path) -> None:
    """Make `path` the same file as `source`, whose name is its content's hash; whole or not at all.

    Without the check of every byte and the wait for the disk that `files.link` has: a blob that is not what its name
    says is found by validation.
    """
    if path.is_file() and path.stat().st_size == source.stat().st_size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:  # another file system, or one without links
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, path)
