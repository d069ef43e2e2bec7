"""One method's answers where there is truth, as sums that any group of points adds up to."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.core import metrics

Array = np.ndarray[Any, Any]
FINEST, GEOMETRIC = 512, 512
"""Distinct scores kept in a ranking: the highest one by one, the others in growing steps."""


class Points(Protocol):
    """The P points of one method; `value` makes sums [..., K] the metric."""

    @property
    def value(self) -> metrics.Value: ...

    def sums(self, group: Array, groups: int) -> Array:
        """float64 [groups, K] over points of each `group` [P]; −1 leaves a point out."""


@dataclass(frozen=True)
class Errors:
    """error [P]; the metric is its mean."""

    error: Array
    value: metrics.Value = metrics.ratio

    def sums(self, group: Array, groups: int) -> Array:
        inside = group >= 0
        total = np.bincount(group[inside], self.error[inside], groups)
        return np.stack([total, np.bincount(group[inside], minlength=groups)], axis=-1)


@dataclass(frozen=True)
class Cells:
    """cell [P] of `size` that a point counts in; the metric is of the counts."""

    cell: Array
    size: int
    value: metrics.Value

    def sums(self, group: Array, groups: int) -> Array:
        inside = group >= 0
        where = group[inside] * self.size + self.cell[inside]
        return np.bincount(where, minlength=groups * self.size).reshape(groups, self.size).astype(float)


def of_answer(objective: Any, answer: Array, truth: Array, aux: dict[str, Any]) -> Points:
    """Points of an objective's primary metric: answer [B, H, n, names] where `truth` [B, H, n] is finite, in order."""
    seen = np.isfinite(truth)
    if objective.PRIMARY == "macro_f1":
        classes = len(objective.names(aux))
        cell = truth[seen].astype(int) * classes + objective.chosen(answer, aux)[seen]
        return Cells(cell, classes**2, metrics.macro_f1)
    assert objective.PRIMARY == "mae", f"no sums make {objective.PRIMARY}"
    return Errors(objective.errors(answer, truth, aux)[seen])


def of_scores(score: Array, label: Array) -> Points:
    """Points of average precision: score, label [P]."""
    order = np.argsort(-score, kind="stable")
    fine = np.arange(min(FINEST, len(score)))
    starts = np.unique(np.r_[fine, np.geomspace(max(len(fine), 1), max(len(score), 1), GEOMETRIC).astype(int)])
    edges = np.unique(-score[order][starts[starts < len(score)]])
    cell = np.searchsorted(edges, -score, side="right") - 1
    return Cells((label > 0.5) * len(edges) + cell, 2 * len(edges), metrics.average_precision)


def compare(model: Points, other: Points, block: Array, draws: int) -> dict[str, float]:
    """The metric of `model` less that of `other`, with its interval over blocks [P]; −1 leaves a point out.

    Adds `n` points and `blocks`.
    """
    inside = block >= 0
    _, number = np.unique(block[inside], return_inverse=True)
    dense = np.full(len(block), -1)
    dense[inside] = number
    blocks = int(number.max()) + 1 if len(number) else 0
    found = metrics.paired(model.sums(dense, blocks), other.sums(dense, blocks), model.value, draws)
    return {**found, "n": int(inside.sum()), "blocks": blocks}
