"""The closed-form anchor of a task's model: a ridge that hears a channel's peers and has weights of each channel's own.

A channel's own weights correct the pooled ones: solved on what those leave, shrunk towards none (random slopes, as in a
mixed model; Laird and Ware, 1982). Whether peers and own weights are used at all is decided on validation.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
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
        rows = windows_to_fit(train, data.targets)
        held = list(_batches(told, spread_out(data.rows("validation", 1), HELD_WINDOWS)))
        sums = Ridge.sums(_batches(told, rows), data.known, data.spec.after)
        steps = beside_steps(data.spec, data.reconstruct)
        own = 2 * (data.known + data.spec.after) + data.spec.horizon
        alone = Ridge.solved(sums, data.known, data.spec.after, slice(own, own + steps))
        hearing = Ridge.solved(sums, data.known, data.spec.after) if weights.any() else []
        ridge = best([*alone, *hearing], held, alone[len(alone) // 2])
        if not ridge.weight[:, own : own + steps].any():
            weights = np.zeros_like(weights)
        owned = _owned(ridge, _batches(told, rows), data.targets, own + steps)
        ridge = best([ridge, *owned], held, ridge)
        return cls(ridge, {"peers": index, "weights": weights, "peered": _peered(weights), "own": _table(ridge, data)})


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
