"""Collect the pictures or messages that a backbone may learn from: all but the test, up to the source's cut."""

import datetime as dt
import shutil

import numpy as np
import pyarrow as pa

from pipelines.core import log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.items import store


def run(key: str, city: Params, paths: Paths) -> None:
    """Write `data/corpus/<key>/<source>/`, as features are. Raises UserError when nothing lies before a cut.

    By dates, what lies after `test_from` is no part of it, so new days reach no byte and nothing is pretrained again.
    """
    backbone = city.backbone(key)
    names = city.by_modality.get(backbone.modality, [])
    folder = paths.corpus(key)
    with log.room("corpus", key) as told:
        count = 0
        for name in log.progress(names, "corpus", len(names), "sources"):
            items, about, pixels = store.read(paths.features(backbone.modality, name), name)
            until = backbone.corpus.until.get(name)
            keep = np.asarray(items["split"].to_numpy(zero_copy_only=False) != "test")
            if until is not None:
                keep &= before(items, until)
            if not keep.any():
                at = f"{params.PARAMS}: " + (f"backbones.{key}.corpus.until.{name}" if until else f"sources.{name}")
                raise UserError(f"{at}: {name} has no items to learn from before {until or 'the test'}")
            items, pixels = store.chosen(items, pixels, keep)
            store.write(folder / name, items, about, pixels)
            count += int(keep.sum())
        for stale in set(folder.glob("*")) - {folder / name for name in names}:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        told.update(sources=len(names), items=count)


def before(items: pa.Table, when: dt.datetime) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    times = items["time"].cast(pa.int64()).to_numpy()
    return np.asarray(times < int(when.timestamp()) * 1_000_000)
