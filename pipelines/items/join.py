"""Give a task of pictures or messages its items: those of the target's source that are annotated with its kind."""

import numpy as np

from pipelines.core import log, params
from pipelines.core.errors import UserError
from pipelines.core.params import ASKED, Params
from pipelines.core.paths import Paths
from pipelines.items import store

COLUMN = {("image", "label"): "labels"}
"""Where a kind stands in the table, if not under its name."""


def run(key: str, city: Params, paths: Paths) -> None:
    """Write `data/joined/<key>/`: as features, with `kind`, `names` and `source` in about.json.

    Raises UserError for missing features, or when a split has nothing annotated.
    """
    task = city.task(key)
    source, kind = task.target.source, ASKED[task.objective]
    with log.room("join", key) as told:
        items, about, pixels = store.read(paths.features(task.modality, source), source)
        column = COLUMN.get((task.modality, kind), kind)
        items, pixels = store.chosen(items, pixels, ~np.asarray(items[column].is_null()))
        split = items["split"].to_numpy(zero_copy_only=False)
        counts = {name: int((split == name).sum()) for name in store.SPLITS}
        for name, count in counts.items():
            if not count:
                at = f"{params.PARAMS}: tasks.{key}.target"
                raise UserError(
                    f"{at}: no item of {source} in the {name} split is annotated with {kind}; annotate some"
                )
        about |= {"kind": kind, "names": about["kinds"][kind], "source": source}
        store.write(paths.joined(key), items, about, pixels)
        told.update(items=len(items), **counts)
