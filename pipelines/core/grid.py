"""A series source on its regular grid: `[T, N]` float32, NaN = missing, a memory-mapped chunk a month.

    folder/
      grid.json         start, step, length and local time zone; the chunks in order
      splits.json       row ranges of train, validation and test
      channels.parquet  a row a channel: sensor, kind, unit, aggregate, label, latitude, longitude, district
      scalers.npy       float32 [2, N]: mean and standard deviation over the training split
      edges.parquet     sensor-to-sensor weights, where the source has a graph
      roles.json        only in a joined grid: column ranges of target, label, input and ahead
      values/2025-03.npy

Channels are ordered by the day they first appear, then by sensor and kind. A chunk holds the channels
known by its month's end, so a sensor added later widens later chunks and leaves closed months alone.
"""

import dataclasses
import datetime as dt
import mmap
from collections.abc import Callable, Iterable
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
        ("aggregate", pa.string()),
        ("label", pa.bool_()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("district", pa.string()),
    ]
)

Array = np.ndarray[Any, Any]
RESIDENT = 8 << 20
"""Bytes of memory-mapped chunks that reading may keep in memory: resident memory does not grow with the history."""
FAULT = 1 << 16
"""What the system maps in around a byte that is read."""


@dataclass(frozen=True)
class Series:
    """Read side of a grid folder. `read` and `gather` touch only the chunks they need, and keep little of them."""

    folder: Path
    start: np.datetime64
    step: np.timedelta64
    length: int
    chunks: tuple[tuple[str, int, int], ...]
    """(file, first row, one past the last row)"""
    timezone: str = "UTC"
    """Whose clock and calendar the city lives by here; `start` and all rows are UTC."""

    @classmethod
    def open(cls, folder: Path) -> "Series":
        """Raises FileNotFoundError when `folder` holds no grid."""
        grid = files.read_json(folder / "grid.json")
        chunks = tuple((c["file"], c["lo"], c["hi"]) for c in grid["chunks"])
        step = np.timedelta64(grid["step_s"], "s")
        return cls(folder, np.datetime64(grid["start"], "s"), step, grid["length"], chunks, grid.get("timezone", "UTC"))

    def asking(self, lo: int, hi: int) -> "Series":
        """The same grid with rows [lo, hi) as its test."""
        made = dataclasses.replace(self)
        made.__dict__["splits"] = {**self.splits, "test": (lo, hi)}  # what the cached property would read
        return made

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
    def roles(self) -> dict[str, tuple[int, int]]:
        """Column ranges of `target`, `label`, `input` and, where some are, `ahead` of a joined grid; else empty."""
        path = self.folder / "roles.json"
        return {k: (v[0], v[1]) for k, v in files.read_json(path).items()} if path.exists() else {}

    @cached_property
    def _maps(self) -> list[Array]:
        return [np.load(self.folder / file, mmap_mode="r", allow_pickle=False) for file, _, _ in self.chunks]

    @property
    def block(self) -> int:
        """How many rows at a time to look at all there is: a million readings at most."""
        return min(8192, max(64, (1 << 20) // max(1, len(self.channels))))

    @property
    def step_s(self) -> int:
        return int(self.step / np.timedelta64(1, "s"))

    def when(self, row: int) -> dt.datetime:
        """Where `row` begins, UTC."""
        return dt.datetime.fromtimestamp(int(self.start.astype(np.int64)) + row * self.step_s, dt.UTC)

    def times(self, lo: int = 0, hi: int | None = None) -> Array:
        """Start of each step, UTC, datetime64[s] [hi-lo]; `hi` may lie past the end."""
        return self.start + np.arange(lo, self.length if hi is None else hi) * self.step

    def row(self, when: dt.datetime) -> int:
        """The row whose step begins at `when` or is the first after it."""
        seconds = (_naive(when) - self.start) / np.timedelta64(1, "s")
        return int(-(-seconds // self.step_s))

    def read(self, lo: int = 0, hi: int | None = None, columns: Array | None = None) -> Array:
        """Rows [lo, hi) as float32 [hi-lo, N]; rows outside the grid, and channels not yet known, are NaN.

        `columns` (int [K], ascending) reads only those channels, as [hi-lo, K].
        """
        hi = self.length if hi is None else hi
        width = len(self.channels) if columns is None else len(columns)
        out = np.full((hi - lo, width), np.nan, np.float32)
        for values, (_, a, b) in zip(self._maps, self.chunks, strict=True):
            x, y = max(a, lo), min(b, hi)
            if x < y and columns is None:
                out[x - lo : y - lo, : values.shape[1]] = values[x - a : y - a]
            elif x < y and columns is not None:
                known = columns[columns < values.shape[1]]
                out[x - lo : y - lo, : len(known)] = values[x - a : y - a, known]
            if x < y:
                self._touched(y - x, values.shape[1] * values.itemsize)
        return out

    def gather(self, rows: Array, columns: Array) -> Array:
        """Rows of any shape [...] as float32 [..., K] of the channels `columns` (int [K], ascending), as `read`."""
        flat = rows.reshape(-1)
        out = np.full((len(flat), len(columns)), np.nan, np.float32)
        of = np.searchsorted(self._ends, flat, side="right")
        of[flat < 0] = len(self.chunks)
        for i in np.flatnonzero(np.bincount(of, minlength=len(self.chunks))[: len(self.chunks)]).tolist():
            values, here = self._maps[i], np.flatnonzero(of == i)
            known = columns[: np.searchsorted(columns, values.shape[1])]
            index = flat[here] - self.chunks[i][1]
            # Of few channels single values are picked, of many whole rows are.
            few = 4 * len(known) < values.shape[1]
            found = values[index[:, None], known] if few else values[index][:, known]
            out[here, : len(known)] = found
            row = values.shape[1] * values.itemsize
            self._touched(len(index), min(row, len(known) * FAULT) if few else row)
        return out.reshape(*rows.shape, len(columns))

    @cached_property
    def _ends(self) -> Array:
        return np.array([b for _, _, b in self.chunks])

    @cached_property
    def _resident(self) -> list[int]:
        return [0]

    def _touched(self, rows: int, row: int) -> None:
        """Let go of the mapped pages once `rows` more of `row` bytes each make them too many."""
        self._resident[0] += rows * row
        if self._resident[0] > RESIDENT:
            for values in self._maps:
                values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
            self._resident[0] = 0


def months(start: dt.datetime, step: dt.timedelta, length: int) -> list[tuple[str, int, int]]:
    """The chunks of a grid: (2025-03, first row, one past the last), by the UTC month in which a row begins."""
    return _spans(start, step, 0, length, "M")


def days(start: dt.datetime, step: dt.timedelta, lo: int, hi: int) -> list[tuple[str, int, int]]:
    """Rows [lo, hi) by the UTC day in which a row begins: (2025-03-09, first row, one past the last)."""
    return _spans(start, step, lo, hi, "D")


def _spans(start: dt.datetime, step: dt.timedelta, lo: int, hi: int, unit: str) -> list[tuple[str, int, int]]:
    times = _naive(start) + np.arange(lo, hi) * np.timedelta64(int(step.total_seconds()), "s")
    names, first = np.unique(times.astype(f"datetime64[{unit}]"), return_index=True)
    ends = [*first.tolist(), hi - lo][1:]
    return [(str(name), lo + int(a), lo + int(b)) for name, a, b in zip(names, first, ends, strict=True)]


def write(
    folder: Path,
    *,
    start: dt.datetime,
    step: dt.timedelta,
    months: Iterable[tuple[str, Array | Path]],
    channels: pa.Table | Callable[[], pa.Table],
    splits: dict[str, tuple[int, int]],
    scalers: Array | None = None,
    edges: pa.Table | None = None,
    roles: dict[str, tuple[int, int]] | None = None,
    timezone: str = "UTC",
) -> None:
    """Write a grid folder. `months` gives (name such as 2025-03, values [t, n]) in order; equal files stay as they are.

    A month given as a path is a finished chunk of another grid, hard-linked where the file system can.
    `channels` may be a function, called after the last month. `scalers` None: computed over the training split.
    `grid.json` goes first and comes last, so that what a killed writer leaves does not open.
    """
    (folder / "grid.json").unlink(missing_ok=True)
    chunks: list[tuple[str, int, int]] = []
    lo = 0
    for name, values in months:
        file = f"values/{name}.npy"
        if isinstance(values, Path):
            files.link(values, folder / file)
            values = np.load(values, mmap_mode="r", allow_pickle=False)
        else:
            files.write_array(folder / file, values.astype(np.float32, copy=False))
        chunks.append((file, lo, lo + len(values)))
        lo += len(values)
    known = {file for file, _, _ in chunks}
    for old in folder.glob("values/*.npy"):
        if f"values/{old.name}" not in known:
            old.unlink()
    table = channels() if callable(channels) else channels
    files.write_table(folder / "channels.parquet", table.select(CHANNELS.names).cast(CHANNELS))
    files.write_json(folder / "splits.json", {k: list(v) for k, v in splits.items()})
    if roles:
        files.write_json(folder / "roles.json", {k: list(v) for k, v in roles.items()})
    else:
        (folder / "roles.json").unlink(missing_ok=True)
    if edges is not None and len(edges):
        files.write_table(folder / "edges.parquet", edges)
    else:
        (folder / "edges.parquet").unlink(missing_ok=True)
    seconds = int(step.total_seconds())
    if scalers is None:
        scalers = training_scalers(Series(folder, _naive(start), np.timedelta64(seconds, "s"), lo, tuple(chunks)))
    files.write_array(folder / "scalers.npy", scalers)
    files.write_json(
        folder / "grid.json",
        {
            "start": str(_naive(start)),
            "step_s": seconds,
            "length": lo,
            "timezone": timezone,
            "chunks": [{"file": file, "lo": a, "hi": b} for file, a, b in chunks],
        },
    )


def _naive(when: dt.datetime) -> np.datetime64:
    return np.datetime64(when.astimezone(dt.UTC).replace(tzinfo=None), "s")


def training_scalers(series: Series, block: int | None = None) -> Array:
    """Mean and standard deviation a channel over the training split, float32 [2, N], reading `block` rows at a time.

    A channel without training data takes the mean over channels of its kind, or 0 and 1; a constant one gets 1.
    """
    lo, hi = series.splits["train"]
    block = series.block if block is None else block
    n = len(series.channels)
    count, total, square = np.zeros(n), np.zeros(n), np.zeros(n)
    # Sums run on the distance from each channel's first value: squares of large offsets would cancel badly.
    origin = np.full(n, np.nan)
    for a in range(lo, hi, block):
        values = series.read(a, min(a + block, hi)).astype(np.float64)
        seen = np.isfinite(values)
        new = np.isnan(origin) & seen.any(0)
        origin[new] = values[seen.argmax(0)[new], new]
        values = np.where(seen, values - origin, 0.0)
        count += seen.sum(0)
        total += values.sum(0)
        square += (values**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
        mean += origin
    kinds = np.array(series.channels["kind"].to_pylist())
    for kind in np.unique(kinds):
        same = kinds == kind
        ok = same & (count > 0)
        mean[same & ~ok] = mean[ok].mean() if ok.any() else 0.0
        std[same & ~ok] = std[ok].mean() if ok.any() else 1.0
    std[~(std > 1e-6)] = 1.0
    return np.stack([mean, std]).astype(np.float32)
