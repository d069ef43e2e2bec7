"""A folder of pictures as rooms leave them: pixels of one size, and what people said of them. No torch."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.core import files
from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pictures:
    """`items.parquet`, `pixels.npy` and `about.json` of one folder, in their order."""

    folder: Path
    about: dict[str, Any]
    items: dict[str, list[Any]]
    """Columns by name."""
    pixels: Array
    """uint8 [N, S, S, 3], RGB, mapped from the file."""

    @classmethod
    def open(cls, folder: Path) -> "Pictures":
        """Raises UserError when a file is missing, or the two do not hold equally many."""
        for name in ("about.json", "items.parquet", "pixels.npy"):
            if not (folder / name).exists():
                raise UserError(f"{folder}: no {name}; run the rooms before this one again")
        about = json.loads((folder / "about.json").read_bytes())
        items = pq.read_table(folder / "items.parquet").to_pydict()
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        if len(pixels) != len(items["split"]):
            raise UserError(f"{folder}: {len(pixels)} pictures, {len(items['split'])} items; run `cityloop features`")
        return cls(folder, about, items, pixels)

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return int(self.pixels.shape[1])

    @property
    def names(self) -> list[str]:
        """What is asked, by class number."""
        return list(self.about["names"])

    @cached_property
    def dated(self) -> bool:
        """Whether validation is later than training; sets without dates are split by likeness."""
        times = {name: [self.items["time"][i] for i in self.rows(name)] for name in ("train", "validation")}
        if any(t is None for each in times.values() for t in each):
            return False
        return bool(max(times["train"]) < min(times["validation"]))

    def rows(self, split: str) -> Array:
        """Row numbers of a split. Raises UserError when there are none."""
        rows = np.flatnonzero(np.array(self.items["split"], object) == split)
        if not len(rows):
            raise UserError(f"{self.folder}: no picture for {split}; give the source more, or another features.split")
        return rows

    def until(self) -> str | None:
        """Where validation begins, ISO 8601, UTC; None for pictures without dates."""
        times = [self.items["time"][i] for i in self.rows("validation")]
        return min(times).strftime("%Y-%m-%dT%H:%M:%S") if self.dated else None

    @cached_property
    def classes(self) -> Array:
        """Class number of each picture's (first) label, int64 [N]; -1 where it has none that is asked."""
        number = {name: i for i, name in enumerate(self.names)}
        return np.array([next((number[n] for n in names or () if n in number), -1) for names in self.items["labels"]])

    @cached_property
    def boxes(self) -> tuple[Array, Array]:
        """Boxes float32 [N, M, 4] (x0, y0, x1, y1, fractions of the square) and class numbers int64 [N, M], -1 none."""
        number = {name: i for i, name in enumerate(self.names)}
        found = [[b for b in boxes or () if b["label"] in number] for boxes in self.items["boxes"]]
        most = max(1, *map(len, found))
        corners, classes = np.zeros((len(found), most, 4), np.float32), np.full((len(found), most), -1, np.int64)
        for i, boxes in enumerate(found):
            for j, b in enumerate(boxes):
                corners[i, j] = b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]
                classes[i, j] = number[b["label"]]
        return corners, classes

    def few(self, rows: Array, labels: float, seed: int) -> Array:
        """`labels` of `rows`, a share up to 1 or a count: the latest of dated pictures, a draw by `seed` of others.

        A draw takes each class alike as far as it goes. Raises UserError when there are fewer than the count.
        """
        count = math.ceil(labels * len(rows)) if labels <= 1 else int(labels)
        if count > len(rows):
            raise UserError(
                f"finetune.labels: {count} pictures, but only {len(rows)} may be learnt from; ask for fewer"
            )
        if count == len(rows):
            return rows
        if self.dated:
            return rows[-count:]
        order = np.random.default_rng([seed, 17]).permutation(rows)
        kind = self.classes[order]
        # Each picture's turn within its class: first all classes' first ones, then their second ones.
        turn = np.array([(kind[:i] == k).sum() for i, k in enumerate(kind)])
        return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def shuffled(rows: Array, seed: int, first: int, count: int) -> Array:
    """Places `first` to `first + count` of an endless list of `rows`, drawn anew each time round."""
    places = np.arange(first, first + count)
    out = np.empty(count, rows.dtype)
    for turn in np.unique(places // len(rows)):
        mine = places // len(rows) == turn
        out[mine] = np.random.default_rng([seed, int(turn)]).permutation(rows)[places[mine] % len(rows)]
    return out


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's files by name: what a training's checkpoints are told by."""
    return {name: files.sha256_file(folder / name) for name in ("items.parquet", "pixels.npy")}
