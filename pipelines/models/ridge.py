"""Closed-form ridge over a window's readings and profile, pooled over channels: a baseline, and a model's anchor.

All in the window's own units, see `normalise`: the answer is the profile's shape at the window's level, plus a linear
map of the known readings [K], the profile there [K] and the profile of the asked steps [H]. What is known lies before
the asked steps, and for a gap after them as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


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

    With kinds known ahead, `ahead` [N, kinds] in the batch (see `Windows.drivers`), inputs are H more for each: its
    channels' mean over the asked steps, each in its own window's units.
    """
    around = np.r_[:known, known + horizon : known + horizon + after]
    values, profile, std = batch["values"][:, around, :n], batch["profile"][..., :n], batch["std"][:n]
    level, usual_level, scale = normalise(values, profile[:, around], len(around), std)
    usual = (profile[:, known : known + horizon] - usual_level) / scale
    given = np.concatenate([(values - level) / scale, (profile[:, around] - usual_level) / scale, usual], axis=1)
    ahead = batch.get("ahead")
    if ahead is not None and ahead.shape[1]:
        whole = normalise(batch["values"][:, :known], batch["profile"], known, batch["std"])
        later = (batch["values"][:, known : known + horizon] - whole[0]) / whole[2]
        driven = (later @ ahead).transpose(0, 2, 1).reshape(len(later), -1, 1)
        given = np.concatenate([given, np.broadcast_to(driven, (*driven.shape[:2], n))], axis=1)
    return given.transpose(0, 2, 1), usual.transpose(0, 2, 1), level.transpose(0, 2, 1), scale.transpose(0, 2, 1)


@dataclass(frozen=True)
class Ridge:
    """weight [H, 2K+H], bias [H], noise [H]: root mean squared error a step on validation, in scales."""

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
        gram: Any = 0.0
        cross: Any = 0.0
        told: Any = 0.0
        count = 0
        for batch in train:
            given, residual, seen, _ = _rows(batch, known, after)
            whole = seen.mean(-1) > 0.5
            z = np.concatenate([given[whole], np.ones((int(whole.sum()), 1))], axis=1)
            gram, cross, count = gram + z.T @ z, cross + z.T @ residual[whole], count + len(z)
            told = told + seen[whole].sum(0)
        if not count:
            raise UserError("no training window has half of its asked readings; see the target's coverage and dates")
        size = len(gram)
        value, vector = np.linalg.eigh(gram / count)
        # A step that was not read adds nothing to `cross`: each column is a mean over the rows that tell.
        turned = vector.T @ (cross / np.maximum(told, 1))
        solutions = [vector @ (turned / (np.maximum(value, 0) + penalty)[:, None]) for penalty in PENALTIES]
        squares, points = np.zeros((len(PENALTIES), cross.shape[1])), np.zeros(cross.shape[1])
        for batch in validation:
            given, residual, seen, unit = _rows(batch, known, after)
            z = np.concatenate([given, np.ones((len(given), 1))], axis=1)
            for i, solution in enumerate(solutions):
                squares[i] += (((z @ solution - residual) * unit) ** 2 * seen).sum(0)
            points += seen.sum(0)
        best = int(squares.sum(1).argmin()) if points.sum() else 2
        noise = np.ones(cross.shape[1])
        if points.sum():
            noise = np.sqrt(squares[best] / np.maximum(points, 1))
        solution = solutions[best]
        weight, bias = solution[: size - 1].T.astype(np.float32), solution[-1].astype(np.float32)
        return cls(weight, bias, noise.astype(np.float32), known, after)

    def predict(self, batch: dict[str, Array], n: int) -> Array:
        """Values of the next steps, [B, H, n], in the target's units."""
        given, usual, level, scale = features(batch, self.known, len(self.bias), n, self.after)
        return (level + scale * (given @ self.weight.T + self.bias + usual)).transpose(0, 2, 1)


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


def _rows(batch: dict[str, Array], known: int, after: int) -> tuple[Array, Array, Array, Array]:
    """A row a (window, channel): inputs, residual over the profile, whether seen, and scale ÷ usual scale."""
    truth = batch["truth"].transpose(0, 2, 1)
    b, n, horizon = truth.shape
    given, usual, level, scale = features(batch, known, horizon, n, after)
    seen = np.isfinite(truth)
    residual = np.where(seen, (np.where(seen, truth, 0) - level) / scale - usual, 0)
    unit = np.broadcast_to(scale / scale.mean(), (b, n, 1)).reshape(b * n, 1)
    return given.reshape(b * n, -1).astype(np.float64), residual.reshape(b * n, horizon), seen.reshape(b * n, -1), unit
