"""Collect what a backbone may learn from: every source of its modality, up to the source's cut.

The cut is `corpus.until` of the backbone, or the source's `test_from`. Label channels, and channels without a
value before the cut, are left out. Nothing after the cut reaches a byte of the output, so new days do not
pretrain again. Chunks that close before the cut are links to those of the features, unless a channel had to go.
"""

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.core import grid, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Source
from pipelines.core.paths import Paths
from pipelines.items import corpus as items

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Collect the corpus of backbone `key`. Raises UserError when a source has no features, or none before its cut."""
    city = params.load(root)
    backbone = city.backbone(key)
    paths = Paths(root)
    if backbone.modality != "series":
        return items.run(key, city, paths)
    folder = paths.corpus(key)
    names = city.by_modality.get(backbone.modality, [])
    with log.room("corpus", key) as told:
        steps = values = 0
        for name in log.progress(names, "corpus", len(names), "sources"):
            source = city.sources[name]
            series = _open(paths.features(backbone.modality, name), name)
            until = backbone.corpus.until.get(name)
            cut = min(series.row(until or source.test_from), series.length)
            columns = _columns(series, cut)
            if not len(columns):
                at = f"{params.PARAMS}: " + (
                    f"backbones.{key}.corpus.until.{name}" if until else f"sources.{name}.test_from"
                )
                raise UserError(f"{at}: {name} has no values before {until or source.test_from:%Y-%m-%d} to learn from")
            _write(folder / name, series, source, cut, columns)
            steps, values = steps + cut, values + cut * len(columns)
        for stale in set(folder.glob("*")) - {folder / name for name in names}:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        told.update(sources=len(names), steps=steps, cells=values)


def _open(folder: Path, source: str) -> grid.Series:
    try:
        return grid.Series.open(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features; run `cityloop features {source}`") from None


def _columns(series: grid.Series, cut: int) -> Array:
    """The channels, int [K] ascending, that are no labels and have a value before row `cut`."""
    seen = np.zeros(len(series.channels), bool)
    for lo in range(0, cut, series.block):
        seen |= np.isfinite(series.read(lo, min(lo + series.block, cut))).any(0)
    return np.flatnonzero(seen & ~np.array(series.channels["label"].to_pylist(), bool))


def _write(folder: Path, series: grid.Series, source: Source, cut: int, columns: Array) -> None:
    channels = series.channels.take(columns)
    edges = series.edges
    if edges is not None:
        sensors = pc.unique(channels["sensor"])
        edges = edges.filter(pc.and_(pc.is_in(edges["source"], sensors), pc.is_in(edges["target"], sensors)))
    validation = min(series.row(source.validation_from), cut)
    grid.write(
        folder,
        start=series.when(0),
        step=dt.timedelta(seconds=series.step_s),
        months=_months(series, cut, columns),
        channels=channels,
        splits={"train": (0, validation), "validation": (validation, cut), "test": (cut, cut)},
        edges=edges,
        timezone=series.timezone,
    )


def _months(series: grid.Series, cut: int, columns: Array) -> Iterator[tuple[str, Array | Path]]:
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
