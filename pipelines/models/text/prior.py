"""What an answer begins with: a ridge on a message's bags of words, fitted in closed form; the network corrects it.

Labels weigh alike whatever their number. What the ridge says of a message that it was fitted on is no use for learning
to correct it: `Prior.apart` is what ridges say that were fitted without the message's fold.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.models.text.words import PLACES, Words

Array = np.ndarray[Any, Any]
MOST = 2048
"""Messages that it is fitted on, at most: the matrix of all pairs is solved."""
FOLDS = 5
RIDGES = (0.3, 1.0, 3.0)
SHARES = (0.0, 0.25, 0.5)
"""Of the beginning's bag beside the whole message's."""
STRETCHES = np.geomspace(0.5, 128, 33)


@dataclass(frozen=True)
class Prior:
    weight: Array
    """float32 [2 × PLACES, C]."""
    bias: Array
    """float32 [C]."""
    apart: Array
    """float32 [N, C]: of each message by a ridge that was fitted without it."""
    chosen: dict[str, float]

    @classmethod
    def fit(cls, bags: Any, labels: Array, classes: int, groups: Array) -> "Prior":
        """bags: sparse [N, 2 × PLACES]. labels, groups: [N]; near-duplicates share a group, which no fold parts."""
        some = np.unique(np.linspace(0, len(labels) - 1, min(MOST, len(labels))).astype(int))
        every, bags, labels = bags, bags[some], labels[some]
        truth = np.eye(classes)[labels]
        weigh = balance(labels, classes)[labels]
        fold = folds(labels, groups[some])
        kernels = [(part @ part.T).toarray() for part in (bags[:, :PLACES], bags[:, PLACES:])]
        best: tuple[float, ...] = (np.inf,)
        for share in SHARES:
            kernel = share * kernels[0] + (1 - share) * kernels[1]
            for ridge in RIDGES:
                said = _apart(kernel, truth, weigh, ridge, fold)
                for stretch in STRETCHES:
                    missed = cross_entropy(stretch * said, labels)
                    if missed < best[0]:
                        best = (missed, share, ridge, stretch)
        missed, share, ridge, stretch = best
        kernel = share * kernels[0] + (1 - share) * kernels[1]
        dual = stretch * _solve(kernel, truth, weigh, ridge)
        each = np.repeat([share, 1 - share], PLACES)[:, None].astype(np.float32)
        weight = (each * (bags.T @ dual)).astype(np.float32)
        apart = every @ weight
        apart[some] = stretch * _apart(kernel, truth, weigh, ridge, fold)
        chosen = {"share": share, "ridge": ridge, "stretch": float(stretch), "loss": float(missed)}
        return cls(weight, np.zeros(classes, np.float32), apart.astype(np.float32), chosen)


def bags(words: Words, rows: list[Array]) -> Any:
    """Of messages as tokens, each int64 [T]: sparse float32 [N, 2 × PLACES]."""
    from scipy import sparse

    with torch.no_grad():
        parts = [
            sparse.csr_matrix(words(r, torch.ones_like(r)).numpy())
            for r in (torch.from_numpy(row)[None] for row in rows)
        ]
    return sparse.vstack(parts).tocsr()


def balance(labels: Array, classes: int) -> Array:
    """How much an item of each class weighs, so that classes weigh alike; at most ten times the commonest's, [C]."""
    count = np.maximum(np.bincount(labels, minlength=classes), len(labels) / classes / 10).astype(float)
    weight: Array = len(labels) / classes / count
    return weight


def folds(labels: Array, groups: Array) -> Array:
    """A fold of each item, [N]: groups stay whole, labels are spread; the same for the same items in the same order."""
    out = np.zeros(len(labels), int)
    size = np.zeros((FOLDS, labels.max(initial=0) + 1))
    members: dict[Any, list[int]] = {}
    for i, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(i)
    for items in sorted(members.values(), key=lambda m: (-len(m), m)):
        label = labels[items[0]]
        fold = int(np.lexsort((size.sum(1), size[:, label]))[0])
        out[items] = fold
        np.add.at(size[fold], labels[items], 1)
    return out


def cross_entropy(logits: Array, labels: Array) -> float:
    logits = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]).mean())


def _solve(kernel: Array, truth: Array, weigh: Array, ridge: float) -> Array:
    dual: Array = np.linalg.solve(kernel + np.diag(ridge / weigh), truth - 1 / truth.shape[1])
    return dual


def _apart(kernel: Array, truth: Array, weigh: Array, ridge: float, fold: Array) -> Array:
    out = np.zeros_like(truth)
    for f in np.unique(fold):
        fit, held = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        if len(fit):
            out[held] = kernel[np.ix_(held, fit)] @ _solve(kernel[np.ix_(fit, fit)], truth[fit], weigh[fit], ridge)
    return out
