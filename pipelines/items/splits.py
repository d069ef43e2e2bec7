"""Which part of the data pictures and messages lie in, by the dates that part it."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.items.store import SPLITS

Array = np.ndarray[Any, Any]


def by_time(cuts: Sequence[dt.datetime], rows: Iterable[Mapping[str, Any]]) -> tuple[Array, int]:
    """The split of each row (`time`, `group`), "" for one left out, and how many are: copies of something before a cut.

    cuts: where validation and test begin.
    """

    def part(time: dt.datetime) -> int:
        return sum(time >= cut for cut in cuts)

    began: dict[int, int] = {}
    parts = [(row["group"], part(row["time"])) for row in rows]
    for group, now in parts:
        began[group] = min(now, began.get(group, 2))
    split = np.array([SPLITS[now] if now == began[group] else "" for group, now in parts])
    return split, int((split == "").sum())
