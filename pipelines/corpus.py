"""Collect what a backbone may learn from: every source of its modality, up to the source's cut.

The cut is `corpus.until` of the backbone, or the source's `test_from`. Label channels, and channels without a
value before the cut, are left out. Nothing after the cut reaches a byte of the output, so new days do not
pretrain again. Chunks that close before the cut are links to those of the features, unless a channel had to go.
"""

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import cut, grid, log, params
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
            given = backbone.corpus.until.get(name)
            until = min(series.row(given or source.test_from), series.length)
            columns = _columns(series, until)
            if not len(columns):
                at = f"{params.PARAMS}: " + (
                    f"backbones.{key}.corpus.until.{name}" if given else f"sources.{name}.test_from"
                )
                raise UserError(f"{at}: {name} has no values before {given or source.test_from:%Y-%m-%d} to learn from")
            _write(folder / name, series, source, until, columns)
            steps, values = steps + until, values + until * len(columns)
        for stale in set(folder.glob("*")) - {folder / name for name in names}:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        told.update(sources=len(names), steps=steps, cells=values)


def _open(folder: Path, source: str) -> grid.Series:
    try:
        return grid.Series.open(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features; run `cityloop features {source}`") from None


def _columns(series: grid.Series, until: int) -> Array:
    """The channels, int [K] ascending, that are no labels and have a value before row `until`."""
    return np.flatnonzero(cut.seen(series, until) & ~np.array(series.channels["label"].to_pylist(), bool))


def _write(folder: Path, series: grid.Series, source: Source, until: int, columns: Array) -> None:
    channels = series.channels.take(columns)
    validation = min(series.row(source.validation_from), until)
    grid.write(
        folder,
        start=series.when(0),
        step=dt.timedelta(seconds=series.step_s),
        months=cut.months(series, until, columns),
        channels=channels,
        splits={"train": (0, validation), "validation": (validation, until), "test": (until, until)},
        edges=cut.edges(series.edges, channels),
        timezone=series.timezone,
    )
