"""Make of validated pictures squares of pixels, of messages a table, and split both so that no copy is on two sides.

By time: as the source's dates say, but a near-duplicate of something before a cut is left out after it. By group:
whole groups of near-duplicates go by lot; the lot hangs on the group alone, so that what is added later moves nothing.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import log, params, pictures
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Source
from pipelines.core.paths import Paths
from pipelines.core.records import day_files, days, read_day
from pipelines.core.scratch import scratch
from pipelines.items import splits, store
from pipelines.items.profile import said

Array = np.ndarray[Any, Any]
Rows = list[dict[str, Any]]
AHEAD = 2048
"""Pictures decoded at once."""


def run(source: str, city: Params, root: Path) -> None:
    """Write `data/features/<modality>/<source>/`. Raises UserError when there is nothing to train on."""
    spec, end, paths = city.source(source), city.window_end(source), Paths(root)
    folder = paths.validated(source)
    with log.room("features", source) as told:
        there = day_files(folder)
        tables = [read_day(there[day]) for day in days(spec.start, end) if day in there]
        rows = [row for table in tables for row in table.to_pylist() if spec.start <= row["time"] < end]
        if not rows:
            raise UserError(f"{folder}: no validated data in the window; run `cityloop validate {source}`")
        if spec.features.split == "group":
            split, parted = by_group(spec, rows)
        else:
            split, parted = splits.by_time((spec.validation_from, spec.test_from), rows)
        if not (split == "train").any():
            raise UserError(
                f"{params.PARAMS}: sources.{source}.validation_from: no item between start {spec.start:%Y-%m-%d} and "
                f"{spec.validation_from:%Y-%m-%d} to train on; ingest earlier data or move the dates"
            )
        rows = [row | {"split": name} for row, name in zip(rows, split.tolist(), strict=True) if name]
        about = {"modality": spec.modality, "kinds": {name: kind.labels for name, kind in spec.kinds.items()}}
        out = paths.features(spec.modality, source)
        if spec.modality == "image":
            side = spec.features.size
            with scratch(paths.state / "features", source) as spool:
                pixels = np.lib.format.open_memmap(spool / store.PIXELS, "w+", np.uint8, (len(rows), side, side, 3))
                for i, (square, fit) in enumerate(_squares(spec, rows, folder / "blobs", source)):
                    pixels[i] = square
                    rows[i] |= {"width": fit.width, "height": fit.height, "boxes": _fractions(rows[i]["boxes"], fit)}
                store.write(out, pa.Table.from_pylist(rows, store.PICTURES), about | {"size": side}, pixels)
        else:
            store.write(out, pa.Table.from_pylist(rows, store.MESSAGES), about, None)
        told.update(items=len(rows), **Counter(row["split"] for row in rows), left_out_as_copies=parted)


def by_group(source: Source, rows: Rows) -> tuple[Array, int]:
    """As `splits.by_time`; nothing is left out.

    A group's place between 0 and 1 is the hash of seed and group: below `test` it is test, in the next `validation` of
    the way validation. Shares hold but for chance, and a class of three groups or more has at least one in each. What
    nobody has annotated is never test: there it would serve nothing.
    """
    test, until = source.features.test, source.features.test + source.features.validation
    label: dict[int, str] = {}
    for row in rows:
        for kind in source.kinds:
            for word in said(row, kind) or ():
                label.setdefault(row["group"], word)
    lots = {row["group"]: _lot(source.features.seed, row["group"]) for row in rows}
    where = {g: "test" if lot < test and g in label else "validation" if test <= lot < until else "train"
             for g, lot in lots.items()}  # fmt: skip
    for word in sorted(set(label.values())):
        mine = sorted((g for g, said_of in label.items() if said_of == word), key=lots.__getitem__)
        if len(mine) >= 3:
            found = [where[g] for g in mine]  # test first, train last
            where[mine[0]], where[mine[-1]] = "test", "train"
            if "validation" not in found:
                where[mine[max(1, min(found.count("test"), len(mine) - 2))]] = "validation"
    return np.array([where[row["group"]] for row in rows]), 0


def _lot(seed: int, group: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:8], "big") / 2**64


def _squares(source: Source, rows: Rows, blobs: Path, name: str) -> Iterator[tuple[Array, pictures.Fit]]:
    side = source.features.size

    def one(row: dict[str, Any]) -> tuple[Array, pictures.Fit]:
        try:
            return pictures.square((blobs / row["blob"]).read_bytes(), side, pictures.ANY)
        except (OSError, pictures.Unfit) as error:
            raise UserError(f"{blobs / row['blob']}: {error}; run `cityloop validate {name}` again") from None

    with ThreadPoolExecutor(os.cpu_count()) as threads, log.Progress("features", len(rows), "pictures") as shown:
        for lo in range(0, len(rows), AHEAD):  # no further ahead than memory allows
            for done in threads.map(one, rows[lo : lo + AHEAD]):
                yield done
                shown.add()


def _fractions(boxes: list[dict[str, Any]] | None, fit: pictures.Fit) -> list[dict[str, Any]] | None:
    """Boxes in pixels to boxes in fractions of the square, cut at the picture's edge."""
    if not boxes:
        return boxes
    keys = ("x", "y", "width", "height")
    found = np.array([[box[key] for key in keys] for box in boxes], float)
    ends = np.clip(found[:, :2] + found[:, 2:], 0, [fit.width, fit.height])
    starts = np.clip(found[:, :2], 0, [fit.width, fit.height])
    squares = fit.to_square(np.concatenate([starts, ends - starts], axis=1)).tolist()
    return [box | dict(zip(keys, square, strict=True)) for box, square in zip(boxes, squares, strict=True)]
