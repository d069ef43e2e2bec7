"""A grid up to a row: what training may see of it. Byte-identical for as long as nothing before that row changes.

Chunks that end before the cut are those of the grid, hard-linked where the file system can, unless a channel had to go.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.grid import Series

Array = np.ndarray[Any, Any]


def seen(series: Series, cut: int) -> Array:
    """Which channels have a value before row `cut`, bool [N]."""
    found = np.zeros(len(series.channels), bool)
    for lo in range(0, cut, series.block):
        found |= np.isfinite(series.read(lo, min(lo + series.block, cut))).any(0)
    return found


def months(series: Series, cut: int, columns: Array) -> Iterator[tuple[str, Array | Path]]:
    """The chunks before row `cut` with the channels `columns` (int [K], ascending), as `grid.write` takes them."""
    for file, lo, hi in series.chunks:
        if lo >= cut:
            return
        path = series.folder / file
        width = np.load(path, mmap_mode="r", allow_pickle=False).shape[1]
        known = columns[columns < width]
        if hi <= cut and len(known) == width:
            yield path.stem, path
        else:
            yield path.stem, series.read(lo, min(hi, cut), known)


def edges(table: pa.Table | None, channels: pa.Table) -> pa.Table | None:
    """The edges between sensors of these channels."""
    if table is None:
        return None
    sensors = pc.unique(channels["sensor"])
    return table.filter(pc.and_(pc.is_in(table["source"], sensors), pc.is_in(table["target"], sensors)))
