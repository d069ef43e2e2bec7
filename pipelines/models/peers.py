"""Which other channels tell early what a channel will do: an input of the closed-form anchor.

Chosen on the training period from lagged correlations, without a map: a jam's head reaches the detector upstream later.
"""

from typing import Any

import numpy as np

from pipelines.models.data import Windows

Array = np.ndarray[Any, Any]
PEERS = 8
PAIRS = 20_000
"""Moments looked at; fewer where there are many channels."""
MOST = 2048
"""Networks of more channels than this go without: everyone would have to be compared with everyone."""


def find(data: Windows) -> tuple[Array, Array]:
    """Peers int64 [N, K] of each channel and their weights float32 [N, K], which sum to 1, or to 0 for no peers.

    A peer's deviation from its profile is correlated with the channel's coming change, over a quarter of the horizon,
    once what the channel's own deviation says is taken out of both.
    """
    n, k = len(data.columns), min(PEERS, len(data.columns))
    if n < 2 or n > MOST or data.reconstruct:
        return np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    now, later = _deviations(data, max(1, data.spec.horizon // 4))
    alike = _early(now, later - now)
    alike[data.targets :] = 0
    best = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    weight = np.maximum(np.take_along_axis(alike, best, axis=1), 0)
    return best.astype(np.int64), (weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)).astype(np.float32)


def _deviations(data: Windows, lead: int) -> tuple[Array, Array]:
    """Deviations from the profile in each channel's spread, float32 [M, N], now and `lead` steps later; gaps are 0."""
    lo, hi = data.series.splits["train"]
    most = max(256, min(PAIRS, 20_000_000 // len(data.columns)))
    rows = np.unique(np.linspace(lo, max(lo, hi - lead - 1), most).astype(int))
    found: list[list[Array]] = [[], []]
    for part in np.array_split(rows, -(-len(rows) // 512)):
        for side, at in zip(found, (part, part + lead), strict=True):
            raw = data.read(at, 1)
            away = (raw - data.usual(at, raw, np.arange(raw.shape[2])))[:, 0] / data.std
            side.append(np.nan_to_num(away).astype(np.float32))
    return np.concatenate(found[0]), np.concatenate(found[1])


def _early(now: Array, change: Array) -> Array:
    """Correlation [N, N] of row's `change` [M, N] with column's `now`, the row's own `now` taken out of both."""
    among, told = (now.T @ now).astype(np.float64), (change.T @ now).astype(np.float64)
    size = np.diag(among) + 1e-9
    own = np.diag(told)
    both = told - own[:, None] * among / size[:, None]
    left = np.maximum(size[None] - among**2 / size[:, None], 1e-9)
    moved = np.maximum((change**2).sum(0) - own**2 / size, 1e-9)
    out = both / np.sqrt(moved[:, None] * left)
    np.fill_diagonal(out, 0)
    return out
