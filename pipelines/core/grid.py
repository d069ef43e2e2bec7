"""A series source on its regular grid: `[T, N]` float32, NaN = missing, a memory-mapped chunk a month.

    folder/
      grid.json         start, step and length; the chunks in order
      splits.json       row ranges of train, validation and test
      channels.parquet  a row a channel: sensor, kind, unit, label, latitude, longitude, district
      scalers.npy       float32 [2, N]: mean and standard deviation over the training split
      edges.parquet     sensor-to-sensor weights, where the source has a graph
      values/2025-03.npy

Channels are ordered by the day they first appear, then by sensor and kind. A chunk holds the channels
known by its month's end, so a sensor added later widens later chunks and leaves closed months alone.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core import files

CHANNELS = pa.schema(
    [
        ("sensor", pa.string()),
        ("kind", pa.string()),
        ("unit", pa.string()),
        ("label", pa.bool_()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("district", pa.string()),
    ]
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Series:
    """Read side of a grid folder. `read` touches only the chunks it needs."""

    folder: Path
    start: np.datetime64
    step: np.timedelta64
    length: int
    chunks: tuple[tuple[str, int, int], ...]
    """(file, first row, one past the last row)"""

    @classmethod
    def open(cls, folder: Path) -> "Series":
        """Raises FileNotFoundError when `folder` holds no grid."""
        grid = files.read_json(folder / "grid.json")
        chunks = tuple((c["file"], c["lo"], c["hi"]) for c in grid["chunks"])
        step = np.timedelta64(grid["step_s"], "s")
        return cls(folder, np.datetime64(grid["start"], "s"), step, grid["length"], chunks)

    @cached_property
    def channels(self) -> pa.Table:
        return pq.read_table(self.folder / "channels.parquet", partitioning=None)

    @cached_property
    def splits(self) -> dict[str, tuple[int, int]]:
        return {k: (v[0], v[1]) for k, v in files.read_json(self.folder / "splits.json").items()}

    @cached_property
    def scalers(self) -> Array:
        """float32 [2, N]: mean, standard deviation (never 0)."""
        values: Array = np.load(self.folder / "scalers.npy", allow_pickle=False)
        return values

    @cached_property
    def edges(self) -> pa.Table | None:
        path = self.folder / "edges.parquet"
        return pq.read_table(path, partitioning=None) if path.exists() else None

    @cached_property
    def _maps(self) -> list[Array]:
        return [np.load(self.folder / file, mmap_mode="r", allow_pickle=False) for file, _, _ in self.chunks]

    def times(self, lo: int = 0, hi: int | None = None) -> Array:
        """Start of each step, UTC, datetime64[s] [hi-lo]; `hi` may lie past the end."""
        return self.start + np.arange(lo, self.length if hi is None else hi) * self.step

    def row(self, when: dt.datetime) -> int:
        """The row whose step begins at `when` or is the first after it."""
        seconds = (np.datetime64(when.replace(tzinfo=None), "s") - self.start) / np.timedelta64(1, "s")
        return int(-(-seconds // (self.step / np.timedelta64(1, "s"))))

    def read(self, lo: int = 0, hi: int | None = None) -> Array:
        """Rows [lo, hi) as float32 [hi-lo, N]; rows outside the grid, and channels not yet known, are NaN."""
        hi = self.length if hi is None else hi
        out = np.full((hi - lo, len(self.channels)), np.nan, np.float32)
        for values, (_, a, b) in zip(self._maps, self.chunks, strict=True):
            x, y = max(a, lo), min(b, hi)
            if x < y:
                out[x - lo : y - lo, : values.shape[1]] = values[x - a : y - a]
        return out


def write(
    folder: Path,
    *,
    start: dt.datetime,
    step: dt.timedelta,
    months: Iterable[tuple[str, Array]],
    channels: pa.Table,
    splits: dict[str, tuple[int, int]],
    scalers: Array | None = None,
    edges: pa.Table | None = None,
) -> None:
    """Write a grid folder. `months` gives (name such as 2025-03, values [t, n]) in order; unchanged files stay as they are.

    `scalers` None: computed by a second pass over the training split.
    """
    chunks: list[dict[str, Any]] = []
    lo = 0
    for name, values in months:
        file = f"values/{name}.npy"
        files.write_array(folder / file, values.astype(np.float32, copy=False))
        chunks.append({"file": file, "lo": lo, "hi": lo + len(values)})
        lo += len(values)
    known = {c["file"] for c in chunks}
    for old in folder.glob("values/*.npy"):
        if f"values/{old.name}" not in known:
            old.unlink()
    stamp = start.astimezone(dt.UTC).replace(tzinfo=None).isoformat()
    files.write_table(folder / "channels.parquet", channels.select(CHANNELS.names).cast(CHANNELS))
    files.write_json(folder / "splits.json", {k: list(v) for k, v in splits.items()})
    files.write_json(
        folder / "grid.json", {"start": stamp, "step_s": int(step.total_seconds()), "length": lo, "chunks": chunks}
    )
    if edges is not None and len(edges):
        files.write_table(folder / "edges.parquet", edges)
    else:
        (folder / "edges.parquet").unlink(missing_ok=True)
    if scalers is None:
        scalers = training_scalers(Series.open(folder))
    files.write_array(folder / "scalers.npy", scalers)


def training_scalers(series: Series, block: int = 8192) -> Array:
    """Mean and standard deviation a channel over the training split, float32 [2, N], reading `block` rows at a time.

    A channel without training data takes the mean over channels of its kind, or 0 and 1; a constant one gets 1.
    """
    lo, hi = series.splits["train"]
    n = len(series.channels)
    count, total, square = np.zeros(n), np.zeros(n), np.zeros(n)
    for a in range(lo, hi, block):
        values = series.read(a, min(a + block, hi)).astype(np.float64)
        seen = np.isfinite(values)
        values = np.where(seen, values, 0.0)
        count += seen.sum(0)
        total += values.sum(0)
        square += (values**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
    kinds = np.array(series.channels["kind"].to_pylist())
    for kind in np.unique(kinds):
        same = kinds == kind
        ok = same & (count > 0)
        mean[same & ~ok] = mean[ok].mean() if ok.any() else 0.0
        std[same & ~ok] = std[ok].mean() if ok.any() else 1.0
    std[~(std > 1e-6)] = 1.0
    return np.stack([mean, std]).astype(np.float32)
