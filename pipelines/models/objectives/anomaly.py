"""Whether readings are what the network would make them read: the misfit of a masked reconstruction.

The answer is the reconstruction's quantiles; the score of a reading is how far it lies outside them, smoothed over
the latest steps; an alarm is a score above the threshold chosen on validation.
"""

from typing import Any

import numpy as np

from pipelines.core import metrics
from pipelines.models.objectives import forecast

PRIMARY, HIGHER_IS_BETTER = "average_precision", True
ACT, WHEN = "raises an alarm about", "over the latest"
RECONSTRUCT, BOTH_SIDES, ANCHOR = True, False, "profile"
CALIBRATION: tuple[str, ...] = ("spread", "alarm")
Array = np.ndarray[Any, Any]

names, outputs, answer, loss = forecast.names, forecast.outputs, forecast.answer, forecast.loss
truth, from_values, baselines = forecast.truth, forecast.from_values, forecast.baselines


def choose(score: Array, label: Array | None, rate: float = 0.005) -> float:
    """A threshold from validation scores: the one of best F1 against labels, else the one exceeded at `rate`."""
    seen = np.isfinite(score)
    score = score[seen]
    if label is None or not (label[seen] > 0.5).any():
        return float(np.quantile(score, 1 - rate)) if score.size else 0.0
    candidates = np.quantile(score, np.linspace(0.5, 0.9995, 200))
    f1 = [metrics.alarms(score > c, label[seen])["f1"] for c in candidates]
    return float(candidates[int(np.argmax(f1))])


def score(score: Array, label: Array, threshold: float) -> dict[str, float]:
    """Ranking and alarm metrics of scores [T, n] against labels [T, n]."""
    seen = np.isfinite(score) & np.isfinite(label)
    return {**metrics.ranking(score[seen], label[seen]), **metrics.alarms(score[seen] > threshold, label[seen])}
