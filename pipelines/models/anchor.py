"""The closed-form anchor of a task's model: a ridge that hears a channel's peers and has weights of each channel's own.

A channel's own weights correct the pooled ones: solved on what those leave, shrunk towards none (random slopes, as in a
mixed model; Laird and Ware, 1982). Peers and own weights are used only if each lowers the error by a margin twice: on
the last quarter of the training windows, solved on those before, and on validation.
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
from pipelines.models.ridge import HELD_WINDOWS, Ridge, Sums, best, by_window, windows_to_fit

Array = np.ndarray[Any, Any]
OWN_PENALTIES = (1.0, 10.0)
MARGIN = 0.01
"""By what share an addition must lower the error to be worth its weights."""
MOST_OWN, MOST_GRAM = 2_000_000, 60_000_000
"""Numbers in the table of own weights, and in all channels' normal equations: larger ones are not made."""
SIZE = 64


@dataclass(frozen=True)
class Anchor:
    """The ridge, and what belongs to each channel: `peers`, `weights` [N, K], `peered` [N], `own` [N, H, G]."""

    ridge: Ridge
    channels: dict[str, Array]

    @classmethod
    def fit(cls, data: Windows, train: Array) -> "Anchor":
        """Solve on training windows that begin at rows `train`. Raises UserError as `Ridge.fit`."""
        index, weights = peers.find(data)
        told = dataclasses.replace(data, peers=(index, weights))
        rows, quarter = windows_to_fit(train, data.targets), len(train) * 3 // 4
        folds = [
            Fold(told, rows[: len(rows) * 3 // 4], spread_out(train[quarter:], HELD_WINDOWS)),
            Fold(told, rows, spread_out(data.rows("validation", 1), HELD_WINDOWS)),
        ]
        chosen = [fold.solve(hearing=False) for fold in folds]
        hearing = [fold.solve(hearing=True) for fold in folds] if weights.any() else []
        if _better(folds, hearing, chosen):
            chosen = hearing
        else:
            weights = np.zeros_like(weights)
        owned = [fold.own(ridge) for fold, ridge in zip(folds, chosen, strict=True)]
        if _better(folds, owned, chosen):
            chosen = owned
        ridge = best([chosen[-1]], folds[-1].held, chosen[-1])
        return cls(ridge, {"peers": index, "weights": weights, "peered": _peered(weights), "own": _table(ridge, data)})


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

    def own(self, ridge: Ridge) -> Ridge:
        """`ridge` with own weights; as it is where they would be too many."""
        made = _owned(ridge, _batches(self.data, self.rows), self.data.targets, self._beside.stop)
        return best(made, self.held, made[-1]) if made else ridge

    def off(self, ridge: Ridge) -> float:
        """Mean absolute error in each channel's spread."""
        n = self.data.targets
        errors = [np.abs(ridge.predict(b, n) - b["truth"]) / b["std"][:n] for b in self.held]
        points = sum(np.isfinite(e).sum() for e in errors)
        return float(sum(np.nansum(e) for e in errors) / max(points, 1))


def _better(folds: list[Fold], one: list[Ridge], other: list[Ridge]) -> bool:
    """Whether `one` has an error smaller by the margin in every fold: once may be luck."""
    return bool(one) and all(
        fold.off(a) < (1 - MARGIN) * fold.off(b) for fold, a, b in zip(folds, one, other, strict=True)
    )


def none(data: Windows) -> dict[str, Array]:
    """`Anchor.channels` of a model that has no such anchor."""
    n, k = len(data.columns), min(peers.PEERS, len(data.columns))
    index, weights = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    return {"peers": index, "weights": weights, "peered": _peered(weights), "own": np.zeros((n, 0, 0), np.float32)}


def of_bundle(data: Windows, folder: Path) -> dict[str, Array]:
    """`Anchor.channels` as a bundle has them for the channels it knows; strangers have no peers and no own weights."""
    theirs = [(c["sensor"], c["kind"]) for c in files.read_json(folder / "config.json")["channels"]]
    ours = {name: i for i, name in enumerate(zip(data.channel("sensor"), data.channel("kind"), strict=True))}
    to = np.array([ours.get(name, -1) for name in theirs], int)
    tables, known = load_file(folder / "tables.safetensors"), to >= 0
    made = {k: np.zeros((len(ours), *tables[k].shape[1:]), tables[k].dtype) for k in ("weights", "own")}
    index = np.zeros((len(ours), tables["peers"].shape[1]), np.int64)
    for name, table in made.items():
        table[to[known]] = tables[name][known]
    # A peer that is gone says nothing: its share is dropped, not handed to another channel.
    index[to[known]] = to[tables["peers"][known]]
    weights = np.where(index >= 0, made["weights"], np.float32(0))
    return {"peers": np.maximum(index, 0), "weights": weights, "peered": _peered(weights), "own": made["own"]}


def _peered(weights: Array) -> Array:
    return (weights.sum(1) > 0).astype(np.float32)


def _batches(data: Windows, rows: Array) -> Iterator[dict[str, Array]]:
    assert data.peers is not None
    for batch in data.batches(rows, SIZE):
        yield {**batch, "peered": _peered(data.peers[1])}


def _owned(ridge: Ridge, train: Iterator[dict[str, Array]], n: int, size: int) -> list[Ridge]:
    """`ridge` with own weights for its first `size` inputs under each penalty; none where they would be too many."""
    if n * len(ridge.bias) * size > MOST_OWN or n * size**2 > MOST_GRAM:
        return []
    sums = [Sums() for _ in range(n)]
    for batch in train:
        given, residual, seen, _ = by_window(batch, ridge.known, ridge.after)
        left = residual - given @ ridge.weight.T - ridge.bias
        for i, each in enumerate(sums):
            each.add(given[:, i, :size], left[:, i], seen[:, i])
    nothing = [np.zeros((size + 1, len(ridge.bias)))] * len(OWN_PENALTIES)
    solved = [each.solve(OWN_PENALTIES) if each.count else nothing for each in sums]
    tables = (np.stack([found[i][:-1].T for found in solved]) for i in range(len(OWN_PENALTIES)))
    return [dataclasses.replace(ridge, own=table.astype(np.float32)) for table in tables]


def _table(ridge: Ridge, data: Windows) -> Array:
    """`own` for all channels [N, H, G]: inputs have none."""
    if ridge.own is None:
        return np.zeros((len(data.columns), 0, 0), np.float32)
    out = np.zeros((len(data.columns), *ridge.own.shape[1:]), np.float32)
    out[: data.targets] = ridge.own
    return out
