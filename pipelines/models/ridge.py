"""Closed-form ridge over a window's readings and profile, pooled over channels: a baseline, and a model's anchor.

All in the window's own units, see `normalise`: the answer is the profile's shape at the window's level, plus a linear
map of the known readings [K], the profile there [K] and the profile of the asked steps [H]. What is known lies before
the asked steps, and for a gap after them as well.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIT_WINDOWS, HELD_WINDOWS = 4000, 96
"""At most so many training windows to solve on, validation windows to choose by."""
FIT_ROWS = 500_000
"""Windows × channels to solve on."""


def normalise(values: Array, profile: Array, known: int, std: Array) -> tuple[Array, Array, Array]:
    """Level, the profile's level and scale of windows [B, T, N]; each [B, 1, N]. As `models.series.normalise`."""
    level = values[:, :known].mean(1, keepdims=True)
    usual_level = profile[:, :known].mean(1, keepdims=True)
    spread = ((values[:, :known] - level) ** 2).mean(1, keepdims=True)
    return level, usual_level, np.sqrt(0.5 * spread + 0.5 * std**2)


def features(
    batch: dict[str, Array], known: int, horizon: int, n: int, after: int = 0
) -> tuple[Array, Array, Array, Array]:
    """Inputs [B, n, 2K+H], profile asked [B, n, H], level and scale [B, n, 1] of the first `n` channels.

    With `beside` [B, L, N] (see `core.windows.beside`) and `peered` [N] in the batch, inputs are L more: what the
    channel's peers did. With kinds known ahead, `ahead` [N, kinds] in the batch (see `Windows.drivers`), they are H
    more for each: its channels' mean over the asked steps, each in its own window's units.
    """
    around = np.r_[:known, known + horizon : known + horizon + after]
    values, profile, std = batch["values"][:, around, :n], batch["profile"][..., :n], batch["std"][:n]
    level, usual_level, scale = normalise(values, profile[:, around], len(around), std)
    usual = (profile[:, known : known + horizon] - usual_level) / scale
    given = np.concatenate([(values - level) / scale, (profile[:, around] - usual_level) / scale, usual], axis=1)
    if "beside" in batch and batch["beside"].shape[1]:
        beside = (batch["beside"][..., :n] - (level - usual_level)) / scale * batch["peered"][:n]
        given = np.concatenate([given, beside], axis=1)
    ahead = batch.get("ahead")
    if ahead is not None and ahead.shape[1]:
        whole = normalise(batch["values"][:, :known], batch["profile"], known, batch["std"])
        later = (batch["values"][:, known : known + horizon] - whole[0]) / whole[2]
        driven = (later @ ahead).transpose(0, 2, 1).reshape(len(later), -1, 1)
        given = np.concatenate([given, np.broadcast_to(driven, (*driven.shape[:2], n))], axis=1)
    return given.transpose(0, 2, 1), usual.transpose(0, 2, 1), level.transpose(0, 2, 1), scale.transpose(0, 2, 1)


@dataclass(frozen=True)
class Ridge:
    """weight [H, F] and bias [H], pooled over channels.

    noise [H]: root mean squared error a step on validation, in scales. F is 2K+H, L more with `beside`, then the rest.
    """

    weight: Array
    bias: Array
    noise: Array
    known: int
    after: int = 0

    @classmethod
    def fit(
        cls, train: Iterable[dict[str, Array]], validation: Iterable[dict[str, Array]], known: int, after: int = 0
    ) -> "Ridge":
        """Solve on training batches; choose the penalty on validation.

        A batch has `values`, `profile`, `std` as in `core.windows.prepare`, and `truth` [B, H, n] with NaN for missing.
        Raises UserError when there is no training window to go by.
        """
        made = cls.solved(cls.sums(train, known, after), known, after)
        return best(made, list(validation), made[len(made) // 2])

    @staticmethod
    def sums(train: Iterable[dict[str, Array]], known: int, after: int) -> "Sums":
        """The normal equations of training batches. Raises UserError when no window is whole enough."""
        sums = Sums()
        for batch in train:
            given, residual, seen, _ = by_window(batch, known, after)
            sums.add(*(part.reshape(-1, part.shape[-1]) for part in (given, residual, seen)))
        if not sums.count:
            raise UserError("no training window has half of its asked readings; see the target's coverage and dates")
        return sums

    @classmethod
    def solved(cls, sums: "Sums", known: int, after: int, left_out: slice | None = None) -> "list[Ridge]":
        """A ridge for each penalty; the inputs `left_out` weigh nothing."""
        return [
            cls(w[:-1].T.astype(np.float32), w[-1].astype(np.float32), np.ones(w.shape[1], np.float32), known, after)
            for w in sums.solve(PENALTIES, left_out)
        ]

    def predict(self, batch: dict[str, Array], n: int) -> Array:
        """Values of the next steps, [B, H, n], in the target's units."""
        given, usual, level, scale = features(batch, self.known, len(self.bias), n, self.after)
        return (level + scale * (self._said(given) + usual)).transpose(0, 2, 1)

    def _said(self, given: Array) -> Array:
        return given @ self.weight.T + self.bias

    def errors(self, batches: Iterable[dict[str, Array]]) -> tuple[Array, Array]:
        """Sums of squared errors by step in scales ÷ the batch's mean scale, [H], and over how many points, [H]."""
        squares, points = np.zeros(len(self.bias)), np.zeros(len(self.bias))
        for batch in batches:
            given, residual, seen, unit = by_window(batch, self.known, self.after)
            squares += (((self._said(given) - residual) * unit) ** 2 * seen).sum((0, 1))
            points += seen.sum((0, 1))
        return squares, points


def best(made: Sequence[Ridge], validation: Sequence[dict[str, Array]], otherwise: Ridge) -> Ridge:
    """The one of least squared error on validation, with its `noise`; `otherwise` when nothing was read there."""
    told = [ridge.errors(validation) for ridge in made]
    points = told[0][1]
    if not points.sum():
        return otherwise
    chosen = int(np.argmin([squares.sum() for squares, _ in told]))
    noise = np.sqrt(told[chosen][0] / np.maximum(points, 1)).astype(np.float32)
    return dataclasses.replace(made[chosen], noise=noise)


class Sums:
    """The normal equations of a ridge with an intercept, added up in parts."""

    def __init__(self) -> None:
        self.gram: Any = 0.0
        self.cross: Any = 0.0
        self.told: Any = 0.0
        self.count = 0

    def add(self, given: Array, residual: Array, seen: Array) -> None:
        """Rows [R, F] and what they should say [R, H], of which `seen` counts; rows seen for less than half do not."""
        whole = seen.mean(-1) > 0.5
        z = np.concatenate([given[whole], np.ones((int(whole.sum()), 1))], axis=1)
        self.gram, self.cross = self.gram + z.T @ z, self.cross + z.T @ (residual[whole] * seen[whole])
        self.count, self.told = self.count + len(z), self.told + seen[whole].sum(0)

    def solve(self, penalties: Iterable[float], left_out: slice | None = None) -> list[Array]:
        """Weights [F+1, H] for each penalty, the intercept last; 0 for the inputs `left_out`."""
        kept = np.delete(np.arange(len(self.gram)), left_out) if left_out else np.arange(len(self.gram))
        value, vector = np.linalg.eigh(self.gram[np.ix_(kept, kept)] / self.count)
        # A step that was not read adds nothing to `cross`: each column is a mean over the rows that tell.
        turned = vector.T @ (self.cross[kept] / np.maximum(self.told, 1))
        made = []
        for penalty in penalties:
            whole = np.zeros_like(self.cross)
            whole[kept] = vector @ (turned / (np.maximum(value, 0) + penalty)[:, None])
            made.append(whole)
        return made


def windows_to_fit(rows: Array, channels: int) -> Array:
    """Of training windows' first rows, those a ridge over so many channels is solved on."""
    most = max(256, min(FIT_WINDOWS, FIT_ROWS // channels))
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def profile_noise(validation: Iterable[dict[str, Array]], known: int) -> Array:
    """Root mean squared error a step of the profile itself, in each channel's long-run spread, float32 [H].

    What `Ridge.noise` is for the ridge, for a model whose anchor is the profile. 1 where no step was read.
    """
    squares: Any = 0.0
    points: Any = 0.0
    for batch in validation:
        truth = batch["truth"]
        horizon, n = truth.shape[1:]
        error = (truth - batch["profile"][:, known : known + horizon, :n]) / batch["std"][:n]
        squares = squares + np.nansum(error**2, axis=(0, 2))
        points = points + np.isfinite(error).sum((0, 2))
    return np.where(points > 0, np.sqrt(squares / np.maximum(points, 1)), 1).astype(np.float32)


def by_window(batch: dict[str, Array], known: int, after: int) -> tuple[Array, Array, Array, Array]:
    """Of each (window, channel) inputs, residual over the profile, whether seen, scale ÷ usual scale; [B, n, …]."""
    truth = batch["truth"].transpose(0, 2, 1)
    b, n, horizon = truth.shape
    given, usual, level, scale = features(batch, known, horizon, n, after)
    seen = np.isfinite(truth)
    residual = np.where(seen, (np.where(seen, truth, 0) - level) / scale - usual, 0)
    return given.astype(np.float64), residual, seen, np.broadcast_to(scale / scale.mean(), (b, n, 1))
