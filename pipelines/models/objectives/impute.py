"""What would have been measured in a gap: quantiles and mean of hidden steps with readings on both sides.

The asked steps lie in the middle of the window. A channel's own readings there are never looked at, its neighbours'
are; so what stands in a gap and what was hidden for scoring are answered alike.
"""

from typing import Any

import numpy as np

from pipelines.core.windows import Spec
from pipelines.models.objectives import forecast

PRIMARY, HIGHER_IS_BETTER = forecast.PRIMARY, forecast.HIGHER_IS_BETTER
ACT, WHEN = "fills gaps of", "for a gap of up to"
RECONSTRUCT, BOTH_SIDES, ANCHOR = True, True, "ridge"
CALIBRATION: tuple[str, ...] = ("spread",)
Array = np.ndarray[Any, Any]

names, outputs, answer, loss = forecast.names, forecast.outputs, forecast.answer, forecast.loss
APART, misses = forecast.APART, forecast.misses
truth, from_values, score, errors = forecast.truth, forecast.from_values, forecast.score, forecast.errors


def baselines(batch: dict[str, Array], spec: Spec, known: int, n: int) -> dict[str, Array]:
    """The last value before the gap, a straight line across it, and the profile shifted along that line's like."""
    values, usual, end = batch["values"][..., :n], batch["profile"][..., :n], known + spec.future
    share = ((np.arange(spec.horizon) + 1) / (spec.future + 1)).astype(np.float32)[None, :, None]

    def across(before: Array, after: Array) -> Array:
        return before[:, None] * (1 - share) + after[:, None] * share

    first, last = values[:, known - 1], values[:, end]
    shift = across(first - usual[:, known - 1], last - usual[:, end])
    return {
        "last_value": np.repeat(first[:, None], spec.horizon, axis=1),
        "linear": across(first, last),
        "profile": usual[:, known : known + spec.horizon] + shift,
    }
