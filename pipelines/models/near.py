"""Which channels a channel looks at: all of a small network, the nearest of a large one; graph as a bias where given.

Near is, in this order: the channel itself, its sensor's other kinds, neighbours on the road graph by weight, then by
distance; where places are unknown, by likeness of the week's profile.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.models.data import Windows

Array = np.ndarray[Any, Any]
FULL = 500
"""Up to so many channels all look at all."""
NEIGHBOURS = 16
KM = 4.0
"""The distance at which closeness has fallen to 1/e."""
BLOCK = 512


@dataclass(frozen=True)
class Near:
    """The channels of `data`; `among` says of some of them who is near whom."""

    data: Windows

    def among(self, columns: Array | None = None) -> dict[str, Array]:
        """`near` int64 and `close` float32 of the channels `columns`, numbered within them; see `tokens.Channels`.

        Above FULL channels both are [n, K], else `near` is [n, 0], and `close` [n, n] with a graph, [n, 0] without.
        """
        columns = np.arange(len(self.data.columns)) if columns is None else columns
        n = len(columns)
        nobody: dict[str, Array] = {"near": np.zeros((n, 0), np.int64), "close": np.zeros((n, 0), np.float32)}
        if len(self.data.columns) > FULL:
            parts = [self._nearest(columns[a : a + BLOCK], columns) for a in range(0, n, BLOCK)]
            best, close = zip(*parts, strict=True)
            return {"near": np.concatenate(best), "close": np.concatenate(close)}
        if self._edges is None:
            return nobody
        return {**nobody, "close": np.minimum(self._graph(columns, columns), 1)}

    def some_columns(self, rng: np.random.Generator, most: int) -> Array:
        """At most `most` channels to train on, as `Windows.some_columns`; of a large network near ones."""
        chosen = self.data.some_columns(rng, most)
        if len(self.data.columns) <= FULL:
            return chosen
        targets = int((chosen < self.data.targets).sum())
        middle = rng.integers(self.data.targets, size=1)
        around = np.argsort(-self._rank(middle, np.arange(self.data.targets))[0], kind="stable")[:targets]
        return np.sort(np.concatenate([around, chosen[targets:]]))

    def _rank(self, rows: Array, columns: Array) -> Array:
        """How near each of `columns` is to each of `rows`: graph before place."""
        graph = self._graph(rows, columns)
        return np.where(graph > 0, 1 + graph, self._places(rows, columns))

    def _nearest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        best = np.argsort(-self._rank(rows, columns), axis=1, kind="stable")[:, : min(NEIGHBOURS, len(columns))]
        close = np.minimum(self._graph(rows, columns), 1) if self._edges is not None else self._places(rows, columns)
        return best.astype(np.int64), np.take_along_axis(close, best, axis=1).astype(np.float32)

    def _graph(self, rows: Array, columns: Array) -> Array:
        """Weights of the graph, the largest being 1; 2 for a sensor's other kinds and 3 for the channel itself."""
        sensor = self._sensors
        out = np.where(sensor[rows][:, None] == sensor[columns][None], np.float32(2), np.float32(0))
        out[rows[:, None] == columns[None]] = 3
        if self._edges is not None:
            source, target, weight = self._edges
            row, column = (np.full(sensor.max() + 1, -1), np.full(sensor.max() + 1, -1))
            row[sensor[rows]], column[sensor[columns]] = np.arange(len(rows)), np.arange(len(columns))
            # A sensor of several kinds hands its edges to all of them below, by its last one here.
            a, b = row[source], column[target]
            both = (a >= 0) & (b >= 0)
            found = np.zeros((len(rows), len(columns)), np.float32)
            np.maximum.at(found, (a[both], b[both]), weight[both])
            out = np.maximum(out, found[row[sensor[rows]]][:, column[sensor[columns]]])
        return out

    def _places(self, rows: Array, columns: Array) -> Array:
        """Closeness in [0, 1] by distance, or by likeness of profiles where a place is unknown."""
        position, week = self._position, self._week
        apart = np.sqrt(((position[rows][:, None] - position[columns][None]) ** 2).sum(-1))
        alike = np.clip(week[rows] @ week[columns].T, 0, 1)
        return np.where(np.isfinite(apart), np.exp(-apart / KM), alike).astype(np.float32)

    @cached_property
    def _sensors(self) -> Array:
        return np.unique(np.array(self.data.channel("sensor")), return_inverse=True)[1]

    @cached_property
    def _edges(self) -> tuple[Array, Array, Array] | None:
        """Sensor numbers of both ends, each way, and weights; None without a graph among these channels."""
        table = self.data.series.edges
        if table is None:
            return None
        names = np.unique(np.array(self.data.channel("sensor")))
        number = {name: i for i, name in enumerate(names.tolist())}
        ends = [np.array([number.get(s, -1) for s in table[c].to_pylist()], int) for c in ("source", "target")]
        ours = (ends[0] >= 0) & (ends[1] >= 0)
        weight = np.abs(np.array(table["weight"].to_pylist(), np.float32))[ours]
        if not weight.any():
            return None
        weight = weight / weight.max()
        a, b = ends[0][ours], ends[1][ours]
        return np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([weight, weight])

    @cached_property
    def _position(self) -> Array:
        """Kilometres north and east, float32 [N, 2], NaN where unknown."""
        degrees = [[np.nan if v is None else v for v in self.data.channel(c)] for c in ("latitude", "longitude")]
        north, east = np.array(degrees, float)
        turn = np.cos(np.radians(np.nanmean(north))) if np.isfinite(north).any() else 1.0
        return (np.stack([north, east * turn], axis=-1) * 111.2).astype(np.float32)

    @cached_property
    def _week(self) -> Array:
        """Each channel's profile over the hours of the week as a vector of length 1, float32 [N, 168]."""
        profile = self.data.profile
        hours = (
            profile[: len(profile) // 168 * 168].reshape(168, -1, profile.shape[1]).mean(1)
            if len(profile) >= 168
            else profile
        )
        hours = hours - hours.mean(0)
        return (hours / np.maximum(np.sqrt((hours**2).sum(0)), 1e-6)).T.astype(np.float32)
