"""What is done to a graph's answers, in training and in serving alike."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def calibrated(answer: Array, spread: Array | None) -> Array:
    """Stretch the outer quantiles of [B, H, n, 4] by `spread` [2, H]; without it the answer passes."""
    if spread is None:
        return answer
    out = answer.copy()
    middle = answer[..., 1]
    out[..., 0] = middle - (middle - answer[..., 0]) * spread[0][None, :, None]
    out[..., 2] = middle + (answer[..., 2] - middle) * spread[1][None, :, None]
    return out


def misfit(answer: Array, values: Array, noise: Array) -> Array:
    """How far readings [B, H, n] lie from the reconstruction, in interval widths; NaN where nothing was read.

    noise [n]: the channel's usual misfit on validation, which keeps a too narrow interval from crying wolf.
    """
    error = values - answer[..., 1]
    below, above = answer[..., 1] - answer[..., 0], answer[..., 2] - answer[..., 1]
    return np.abs(error) / (np.where(error < 0, below, above) + noise)


def smooth(score: Array, span: int) -> Array:
    """Mean of the latest `span` scores down the first axis of [T, n], missing ones left out."""
    seen = np.isfinite(score)
    total, count = np.cumsum(np.where(seen, score, 0), 0), np.cumsum(seen, 0)
    total[span:] -= total[:-span].copy()
    count[span:] -= count[:-span].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
