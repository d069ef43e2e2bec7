"""Metrics from sums over items: F1 of what is found, mean average precision."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core import metrics

Array = np.ndarray[Any, Any]
BINS = 64
"""Scores told apart in a resampled precision-recall curve."""


@dataclass(frozen=True)
class Tallies:
    """count [P, K] of each item; the metric is of their sums."""

    count: Array
    value: metrics.Value

    def sums(self, group: Array, groups: int) -> Array:
        inside = group >= 0
        out = np.zeros((groups, self.count.shape[1]))
        np.add.at(out, group[inside], self.count[inside])
        return out


def f1(sums: Array) -> Array:
    """From [..., 3]: found rightly, found wrongly, missed. NaN where nothing was there and nothing was found."""
    right, wrong, missed = np.moveaxis(sums, -1, 0)
    size = 2 * right + wrong + missed
    return 2 * right / np.where(size > 0, size, np.nan)


def mean_precision(sums: Array) -> Array:
    """Mean over classes of average precision from [..., C · (2 · BINS + 1)]: by class how many answers at each score,
    highest first, are right, how many are wrong, and how many there were to be found. Classes never there are left out.
    """
    table = sums.reshape(*sums.shape[:-1], -1, 2 * BINS + 1)
    right, wrong, there = table[..., :BINS].cumsum(-1), table[..., BINS:-1].cumsum(-1), table[..., -1]
    precision = right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]  # as COCO: what is had at that recall
    recall = right / np.where(there > 0, there, 1)[..., None]
    each = (np.diff(recall, axis=-1, prepend=0) * precision).sum(-1)
    known = there > 0
    count = known.sum(-1)
    return np.where(known, each, 0).sum(-1) / np.where(count > 0, count, np.nan)


def curve_cells(score: Array, right: Array, label: Array, item: Array, there: Array) -> Tallies:
    """Of D answers with a score, whether each is right, its class and its item; there [P, C]: what was to be found."""
    items, classes = there.shape
    told = np.sort(score)[::-1][: max(1, 2 * int(there.sum()))]  # what comes after these hardly counts
    edges = np.unique(np.quantile(told, np.linspace(0, 1, BINS)[:-1])) if len(told) else np.zeros(0)
    rank = len(edges) - np.searchsorted(edges, score, side="right")
    count = np.zeros((items, classes, 2 * BINS + 1), np.float32)
    np.add.at(count, (item, label, np.where(right, 0, BINS) + rank), 1)
    count[..., -1] = there
    return Tallies(count.reshape(items, -1), mean_precision)
