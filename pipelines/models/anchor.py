"""The closed-form anchor of a task's model: a ridge that also hears a channel's peers.

Peers are heard only if that lowers the error by a margin twice: on the last quarter of the training windows, solved on
those before, and on validation. Where a network's days differ, what leads on one may mislead on the next.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pipelines.core import files
from pipelines.core.windows import beside_steps
from pipelines.models import peers
from pipelines.models.data import Windows, spread_out
from pipelines.models.ridge import HELD_WINDOWS, Ridge, Sums, best, windows_to_fit

Array = np.ndarray[Any, Any]
MARGIN = 0.02
"""By what share peers must lower the error to be heard."""
SIZE = 64


@dataclass(frozen=True)
class Anchor:
    """The ridge, and what belongs to each channel: `peers`, `weights` [N, K], `peered` [N]."""

    ridge: Ridge
    channels: dict[str, Array]

    @classmethod
    def fit(cls, data: Windows, train: Array, held: Array) -> "Anchor":
        """Solve on windows that begin at rows `train`, choose by those at `held`. Raises UserError as `Ridge.fit`."""
        index, weights = peers.find(data)
        told = dataclasses.replace(data, peers=(index, weights))
        rows, quarter = windows_to_fit(train, data.targets), len(train) * 3 // 4
        folds = [
            Fold(told, rows[: len(rows) * 3 // 4], spread_out(train[quarter:], HELD_WINDOWS)),
            Fold(told, rows, spread_out(held, HELD_WINDOWS)),
        ]
        hearing = bool(weights.any()) and all(
            fold.off(fold.solve(hearing=True)) < (1 - MARGIN) * fold.off(fold.solve(hearing=False)) for fold in folds
        )
        if not hearing:
            weights = np.zeros_like(weights)
        return cls(folds[-1].solve(hearing), {"peers": index, "weights": weights, "peered": _peered(weights)})


@dataclass(frozen=True)
class Fold:
    """Windows to solve on and, later ones, to judge by; both by their first rows."""

    data: Windows
    rows: Array
    judge: Array

    @cached_property
    def held(self) -> list[dict[str, Array]]:
        return list(_batches(self.data, self.judge))

    @cached_property
    def _sums(self) -> Sums:
        return Ridge.sums(_batches(self.data, self.rows), self.data.known, self.data.spec.after)

    @property
    def _beside(self) -> slice:
        """Where among the inputs the peers are."""
        first = 2 * (self.data.known + self.data.spec.after) + self.data.spec.horizon
        return slice(first, first + beside_steps(self.data.spec, self.data.reconstruct))

    def solve(self, hearing: bool) -> Ridge:
        """The pooled ridge, with the peers' part or without."""
        made = Ridge.solved(self._sums, self.data.known, self.data.spec.after, None if hearing else self._beside)
        return best(made, self.held, made[len(made) // 2])

    def off(self, ridge: Ridge) -> float:
        """Mean absolute error in each channel's spread."""
        n = self.data.targets
        errors = [np.abs(ridge.predict(b, n) - b["truth"]) / b["std"][:n] for b in self.held]
        points = sum(np.isfinite(e).sum() for e in errors)
        return float(sum(np.nansum(e) for e in errors) / max(points, 1))


def none(data: Windows) -> dict[str, Array]:
    """`Anchor.channels` of a model that has no such anchor."""
    n, k = len(data.columns), min(peers.PEERS, len(data.columns))
    index, weights = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    return {"peers": index, "weights": weights, "peered": _peered(weights)}


def of_bundle(data: Windows, folder: Path) -> dict[str, Array]:
    """`Anchor.channels` as a bundle has them for the channels it knows; strangers have no peers."""
    theirs = [(c["sensor"], c["kind"]) for c in files.read_json(folder / "config.json")["channels"]]
    ours = {name: i for i, name in enumerate(zip(data.channel("sensor"), data.channel("kind"), strict=True))}
    to = np.array([ours.get(name, -1) for name in theirs], int)
    tables, known = load_file(folder / "tables.safetensors"), to >= 0
    index = np.zeros((len(ours), tables["peers"].shape[1]), np.int64)
    weights = np.zeros(index.shape, np.float32)
    index[to[known]], weights[to[known]] = to[tables["peers"][known]], tables["weights"][known]
    # A peer that is gone says nothing: its share is dropped, not handed to another channel.
    weights = np.where(index >= 0, weights, np.float32(0))
    return {"peers": np.maximum(index, 0), "weights": weights, "peered": _peered(weights)}


def _peered(weights: Array) -> Array:
    return (weights.sum(1) > 0).astype(np.float32)


def _batches(data: Windows, rows: Array) -> Iterator[dict[str, Array]]:
    assert data.peers is not None
    for batch in data.batches(rows, SIZE):
        yield {**batch, "peered": _peered(data.peers[1])}
