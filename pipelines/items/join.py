"""Give a task of pictures or messages its items: those of the target's source that are annotated with its kind."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import log, params
from pipelines.core.errors import UserError
from pipelines.core.params import ASKED, Params
from pipelines.core.paths import Paths
from pipelines.items import splits, store

COLUMN = {("image", "label"): "labels"}
"""Where a kind stands in the table, if not under its name."""


def run(key: str, city: Params, paths: Paths) -> None:
    """Write `data/joined/<key>/`: as features, with `kind`, `names` and `source` in about.json; and what training reads
    of it, without the test, as `data/learn/<key>/`.

    Raises UserError for missing features, or when a split has nothing annotated.
    """
    task = city.task(key)
    source, kind = task.target.source, ASKED[task.objective]
    with log.room("join", key) as told:
        items, about, pixels = store.read(paths.features(task.modality, source), source)
        column = COLUMN.get((task.modality, kind), kind)
        wanted = ~np.asarray(items[column].is_null())
        if city.retrain.get(key) is not None:
            again = _again(city, key, items)
            items = items.set_column(items.schema.get_field_index("split"), "split", pa.array(again, pa.string()))
            wanted &= again != ""
        items, pixels = store.chosen(items, pixels, wanted)
        split = items["split"].to_numpy(zero_copy_only=False)
        counts = {name: int((split == name).sum()) for name in store.SPLITS}
        for name, count in counts.items():
            if not count:
                at = f"{params.PARAMS}: tasks.{key}.target" if city.retrain.get(key) is None else params.RETRAIN
                raise UserError(
                    f"{at}: no item of {source} in the {name} split is annotated with {kind}; annotate some"
                )
        about |= {"kind": kind, "names": about["kinds"][kind], "source": source}
        store.write(paths.joined(key), items, about, pixels)
        early, seen = store.chosen(items, pixels, split != "test")
        store.write(paths.learn(key), early, about, seen)
        told.update(items=len(items), **counts)


def _again(city: Params, key: str, items: pa.Table) -> np.ndarray[Any, Any]:
    """The split of each item by the dates of this task's retraining, "" for one that takes no part.

    Raises UserError for a source that is split by groups.
    """
    source = city.task(key).target.source
    if city.source(source).features.split != "time":
        raise UserError(f"{params.RETRAIN}: {key}: {source} is split by groups, which no date moves; clear the entry")
    begin, *cuts = city.dates(key)
    split, _ = splits.by_time(cuts, items.select(["time", "group"]).to_pylist())
    return np.where([time >= begin for time in items["time"].to_pylist()], split, "")
