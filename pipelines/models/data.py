"""Windows of a grid, gathered by row number: what training, calibration and evaluation draw from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, windows
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.windows import Spec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Windows:
    """The chosen columns of a grid, cut into windows that begin at given rows.

    The first `targets` columns are what is asked for; of the last `ahead` the values are known ahead, over the asked
    steps too. `reconstruct`: the asked steps are the window's last ones.
    """

    series: Series
    spec: Spec
    columns: tuple[int, ...]
    targets: int
    reconstruct: bool = False
    labels: tuple[int, ...] = ()
    """anomaly: the grid column of each target's label, -1 for none."""
    ahead: int = 0
    peers: tuple[Array, Array] | None = None
    """Peers and weights [N, K] of each channel, see `models.peers`; None leaves `beside` out of batches."""
    since: int | None = None
    """The row of the training period from which on the city is another one: the usual week is straightened to what
    was read since. Means and spreads are of the whole training period: a few days do not tell them."""

    @classmethod
    def of_task(cls, folder: Path, spec: Spec, reconstruct: bool) -> "Windows":
        """The target and input columns of data/joined/<task>, those known ahead last."""
        roles = files.read_json(folder / "roles.json")
        target, inputs, ahead = roles["target"], roles["input"], roles.get("ahead", (0, 0))
        columns = (*range(*target), *range(*inputs), *range(*ahead))
        series = Series.open(folder)
        sensors = series.channels["sensor"].to_pylist()
        label = {sensors[i]: i for i in range(*roles["label"])}
        labels = tuple(label.get(sensors[i], -1) for i in range(*target)) if label else ()
        return cls(series, spec, columns, target[1] - target[0], reconstruct, labels, ahead[1] - ahead[0])

    @cached_property
    def own_steps(self) -> list[int]:
        """Seconds between the readings of each chosen channel where it was measured."""
        steps = files.read_json(self.series.folder / "steps.json")
        return [steps[i] for i in self.columns]

    @cached_property
    def _columns(self) -> tuple[Array, Array | None]:
        """The chosen columns of the grid, ascending, and where each chosen one lies among them (None: as chosen)."""
        columns = np.array(self.columns, int)
        found, where = np.unique(columns, return_inverse=True)
        return found, None if np.array_equal(found, columns) else where

    @cached_property
    def week(self) -> windows.Week:
        """What the chosen channels' training readings add up to."""
        return windows.Week.of(self.series, self.spec).take(list(self.columns))

    @cached_property
    def profile(self) -> Array:
        """float32 [slots, N]."""
        if self.since is None:
            return self.week.profile
        lo, hi = self.series.splits["train"]
        spans = ((lo, self.since), (self.since, hi))
        old, new = (windows.Week.of(self.series, self.spec, span).take(list(self.columns)) for span in spans)
        return windows.straightened(old.profile, new)

    @property
    def mean(self) -> Array:
        """float32 [N], over the training split."""
        return self.series.scalers[0, list(self.columns)]

    @property
    def std(self) -> Array:
        """float32 [N], over the training split."""
        return self.series.scalers[1, list(self.columns)]

    @property
    def known(self) -> int:
        return windows.known_steps(self.spec, self.reconstruct)

    @cached_property
    def drivers(self) -> Array:
        """Of the kinds known ahead, each channel's part in the kind's mean, float32 [N, kinds]."""
        kinds = np.array(self.channel("kind")[len(self.columns) - self.ahead :], dtype=str)
        out = np.zeros((len(self.columns), len(set(kinds.tolist()))), np.float32)
        for i, kind in enumerate(sorted(set(kinds.tolist()))):
            out[len(out) - self.ahead :, i] = (kinds == kind) / (kinds == kind).sum()
        return out

    def channel(self, name: str) -> list[Any]:
        """A column of the channels table for the chosen channels."""
        values = self.series.channels[name].to_pylist()
        return [values[i] for i in self.columns]

    def label(self, lo: int, hi: int) -> Array | None:
        """Labels of rows [lo, hi) as [hi-lo, targets], NaN where there is none; None when the task has no label."""
        return self._label(np.arange(lo, hi)) if self.labels else None

    def labelled(self, rows: Array) -> Array:
        """Labels of the asked steps of windows that begin at `rows`, [B, H, targets]; only for a task with a label."""
        return self._label((rows + self.known)[:, None] + np.arange(self.spec.horizon))

    def _label(self, rows: Array) -> Array:
        columns, where = np.unique(np.maximum(self.labels, 0), return_inverse=True)
        values = self.series.gather(rows, columns)[..., where]
        return np.where(np.array(self.labels) >= 0, values, np.float32(np.nan))

    def rows(self, split: str, stride: int) -> Array:
        """First rows of windows whose asked and later steps lie in `split`, `stride` steps apart.

        Raises UserError if there is none.
        """
        lo, hi = self.series.splits[split]
        first, last = lo - self.known, hi - self.known - self.spec.horizon - self.spec.after
        if split == "train":
            # A window may begin before the data does, but half of it must be there.
            first = max(first, -self.known // 2)
        rows = np.arange(first, last + 1, stride)
        if not len(rows):
            have = (hi - lo) * self.spec.step_s / 3600
            raise UserError(
                f"{self.series.folder}: the {split} period has {have:.0f} h, too short for a horizon of "
                f"{(self.spec.horizon + self.spec.after) * self.spec.step_s / 3600:.0f} h; move the source's dates or "
                "shorten the horizon"
            )
        return rows

    def read(self, rows: Array, length: int, columns: Array | None = None) -> Array:
        """Raw readings [B, length, N] from each of `rows` on; outside the grid NaN. `columns`: as `batch` says."""
        found, where = self._columns
        if columns is not None and where is None:
            found = found[columns]
        values = self.series.gather(rows[:, None] + np.arange(length), found)
        if where is None:
            return values
        return values[..., where if columns is None else where[columns]]

    def given(self, rows: Array) -> Array:
        """What a model may see of the windows from each of `rows` on: raw readings [B, context, N], or with inputs
        known ahead [B, context + future, N], where all else is NaN after the context."""
        raw = self.read(rows, self.spec.context + (self.spec.future if self.ahead else 0))
        return self._hide(raw, np.arange(len(self.columns)))

    def _hide(self, raw: Array, columns: Array) -> Array:
        if not self.ahead:
            return raw[:, : self.spec.context]
        own = columns >= len(self.columns) - self.ahead
        late = np.arange(raw.shape[1]) >= self.spec.context
        return np.where(late[:, None] & ~own, np.float32(np.nan), raw)

    def starts(self, rows: Array) -> Array:
        """When windows begin, datetime64[s] [B]."""
        return self.series.start + rows * self.series.step

    def batch(self, rows: Array, columns: Array | None = None) -> dict[str, Array]:
        """`core.windows.prepare` of the windows, with `mean`, `std` [N], `ahead` [N, kinds], which are `drivers`, and
        `truth` [B, H, targets] (NaN = missing).

        columns: use only these of the chosen channels, ascending, so that the targets among them still come first.
        """
        columns = np.arange(len(self.columns)) if columns is None else columns
        targets = int((columns < self.targets).sum())
        raw = self.read(rows, self.spec.context + self.spec.future, columns)
        starts, usual = self.starts(rows), self.usual(rows, raw, columns)
        batch = windows.prepare(self._hide(raw, columns), starts, usual, self.spec, self.known)
        truth = raw[:, self.known : self.known + self.spec.horizon, :targets]
        if self.peers is not None:
            batch["beside"] = self._beside(rows, columns)
        each = {"mean": self.mean[columns], "std": self.std[columns], "ahead": self.drivers[columns]}
        return {**batch, **each, "truth": truth}

    def _beside(self, rows: Array, columns: Array) -> Array:
        assert self.peers is not None
        peers, weights = (part[columns] for part in self.peers)
        steps = windows.beside_steps(self.spec, self.reconstruct)
        needed, number = np.unique(np.concatenate([columns, peers.reshape(-1)]), return_inverse=True)
        first = rows + self.known - steps
        raw = self.read(first, steps, needed)
        usual = self.usual(first, raw, needed)
        own, others = number[: len(columns)], number[len(columns) :].reshape(peers.shape)
        whole = np.zeros((len(needed), peers.shape[1]), np.int64)
        share = np.zeros(whole.shape, np.float32)
        whole[own], share[own] = others, weights
        return windows.beside(raw, usual, self.std[needed], whole, share)[..., own]

    def usual(self, rows: Array, raw: Array, columns: Array) -> Array:
        """What the profile says of each step of windows that read `raw` [B, T, K], float32 [B, T, K]: in the training
        period that of the other weeks, see `core.windows.Week.without`. A straightened one owes little to any reading.
        """
        index = rows[:, None] + np.arange(raw.shape[1])
        times = self.series.start + index * self.series.step
        lo, hi = self.series.splits["train"]
        inside = (index >= lo) & (index < hi)
        if self.since is not None or not inside.any():
            return windows.profile_at(self.profile, times, self.spec)[..., columns]
        return self.week.without(times, np.where(inside[..., None], raw, np.float32(np.nan)), self.spec, columns)

    def batches(self, rows: Array, size: int) -> Iterator[dict[str, Array]]:
        """`rows` in order, `size` windows at a time."""
        for i in range(0, len(rows), size):
            yield self.batch(rows[i : i + size])

    def some_columns(self, rng: np.random.Generator, most: int) -> Array:
        """At most `most` of the channels, ascending: three quarters of them targets where there are that many."""
        inputs = len(self.columns) - self.targets
        of_targets = min(self.targets, max(most - inputs, most * 3 // 4))
        targets = rng.permutation(self.targets)[:of_targets]
        others = self.targets + rng.permutation(inputs)[: most - of_targets]
        return np.sort(np.concatenate([targets, others]))


def strangers(rng: np.random.Generator, sensor: Array) -> Array:
    """`sensor` numbers [N] with half of them made 0 (unknown), so that in serving a new sensor is no surprise."""
    return np.where(rng.random(len(sensor)) < 0.5, sensor, 0)


def spread_out(rows: Array, most: int) -> Array:
    """At most `most` of `rows`, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
