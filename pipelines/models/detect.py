"""Anomaly scores along a period: each reading is judged by the latest steps of the window that ends with it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.core import answers
from pipelines.models.data import Windows
from pipelines.models.objectives import anomaly

Array = np.ndarray[Any, Any]
Answer = Callable[[Array], Array]
"""First rows of windows → answers [B, H, targets, 4]."""
SPANS = (1, 2, 4, 8, 16)
"""Over how many steps a score may be averaged; validation chooses."""


def scores(answer: Answer, data: Windows, split: str, noise: Array) -> tuple[Array, Array | None]:
    """Raw misfit of each reading of `split`, [T, targets], and its labels if the task has any.

    Windows end a patch apart and only their last patch is judged, as it would be when readings arrive.
    """
    lo, hi = data.series.splits[split]
    patch, horizon = data.spec.patch, data.spec.horizon
    ends = np.arange(lo + patch, hi + 1, patch)
    out = np.full((len(ends) * patch, data.targets), np.nan)
    for i in range(0, len(ends), 64):
        rows = ends[i : i + 64] - data.known - horizon
        values = data.batch(rows)["truth"]
        misfit = answers.misfit(answer(rows), values, noise)[:, -patch:]
        out[i * patch : (i + len(rows)) * patch] = misfit.reshape(-1, data.targets)
    return out, data.label(lo, lo + len(out))


def usual(answer: Answer, data: Windows) -> Array:
    """Median absolute misfit of each target on validation, [targets]."""
    rows = data.rows("validation", data.spec.horizon)
    truth = np.concatenate([data.batch(rows[i : i + 64])["truth"] for i in range(0, len(rows), 64)])
    with np.errstate(all="ignore"):
        error = np.abs(truth - answer(rows)[..., 1]).reshape(-1, data.targets)
        return np.nan_to_num(np.nanmedian(error, axis=0), nan=1.0) + 1e-6


def tune(score: Array, label: Array | None, horizon: int) -> dict[str, float]:
    """Span and threshold of best F1 on validation; without labels no averaging, and an alarm for 1 in 200 readings.

    No span is longer than the horizon: a single window must be enough to judge its last reading.
    """
    if label is None or not (label > 0.5).any():
        return {"span": 1, "threshold": anomaly.choose(score, None)}
    tried = []
    for span in (s for s in SPANS if s <= horizon):
        smooth = answers.smooth(score, span)
        threshold = anomaly.choose(smooth, label)
        tried.append((anomaly.score(smooth, label, threshold)["f1"], span, threshold))
    _, span, threshold = max(tried)
    return {"span": span, "threshold": threshold}
