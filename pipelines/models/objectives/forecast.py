"""What will be measured: quantiles and mean of each later step, in the target's units."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import metrics
from pipelines.core.windows import Spec

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = (0.1, 0.5, 0.9)
COUNTS = (0.5, 2.0, 0.5)
"""How much each level's loss counts in training."""
NAMES = ("q0.1", "q0.5", "q0.9", "mean")
PRIMARY, HIGHER_IS_BETTER = "mae", False
ACT, WHEN = "forecasts", "for the next"
RECONSTRUCT, BOTH_SIDES, ANCHOR = False, False, "ridge"
CALIBRATION: tuple[str, ...] = ("spread",)
APART = (slice(0, 3), slice(3, 4))
Array = np.ndarray[Any, Any]


def names(aux: dict[str, Any]) -> tuple[str, ...]:
    """Columns of an answer."""
    return NAMES


def outputs(aux: dict[str, Any]) -> int:
    """Corrections to median and mean, and the distances to the outer quantiles."""
    return 4


def answer(anchor: "Tensor", raw: "Tensor", scale: "Tensor", aux: dict[str, Any]) -> "Tensor":
    """Quantiles that cannot cross: the outer ones lie a positive distance from the median.

    anchor [B, H, n] in units, raw [B, H, n, 4], scale [B, 1, n]; the distance begins as the ridge's own error
    (aux["noise"] [H], in scales).
    """
    import torch
    from torch.nn.functional import softplus

    begin = torch.log(torch.expm1(1.2816 * aux["noise"].clamp(min=1e-3)))[:, None]
    middle = anchor + scale * raw[..., 0]
    low = middle - scale * softplus(raw[..., 1] + begin)
    high = middle + scale * softplus(raw[..., 2] + begin)
    return torch.stack([low, middle, high, anchor + scale * raw[..., 3]], dim=-1)


def loss(
    answer: "Tensor", truth: "Tensor", seen: "Tensor", unit: "Tensor", aux: dict[str, Any]
) -> tuple["Tensor", "Tensor"]:
    """Pinball loss of the quantiles and a Huber loss of the mean, in units of each kind's usual spread [n].

    The median counts most: the early stop looks at this sum, and it is the median that is judged; the outer quantiles
    are calibrated afterwards.
    """
    import torch
    from torch.nn.functional import huber_loss

    error = (truth[..., None] - answer) / unit[:, None]
    quantile = _pinball(error)
    mean = huber_loss(error[..., 3], torch.zeros_like(error[..., 3]), reduction="none")
    return ((quantile + 0.5 * mean) * seen).sum(), seen.sum()


def misses(answer: "Tensor", truth: "Tensor", unit: "Tensor", aux: dict[str, Any]) -> "Tensor":
    """Pinball loss of the quantiles; squared error of the mean, which is what a mean is judged by."""
    import torch

    error = (truth[..., None] - answer) / unit[:, None]
    return torch.stack([_pinball(error), error[..., 3] ** 2], dim=-1)


def _pinball(error: "Tensor") -> "Tensor":
    import torch

    levels = error.new_tensor(LEVELS)
    return torch.maximum(levels * error[..., :3], (levels - 1) * error[..., :3]) @ error.new_tensor(COUNTS)


def truth(values: Array, aux: dict[str, Any]) -> Array:
    """The readings themselves."""
    return values


def from_values(values: Array, aux: dict[str, Any]) -> Array:
    """All columns equal to the value."""
    return np.repeat(values[..., None], len(NAMES), axis=-1)


def baselines(batch: dict[str, Array], spec: Spec, known: int, n: int) -> dict[str, Array]:
    """The last value, which a gap before it brings up to date (`core.windows.fill`), and the profile; [B, H, n]."""
    return {
        "last_value": np.repeat(batch["values"][:, known - 1 : known, :n], spec.horizon, axis=1),
        "profile": batch["profile"][:, known : known + spec.horizon, :n],
    }


def score(answer: Array, truth: Array, aux: dict[str, Any]) -> dict[str, float]:
    """MAE of the median, RMSE of the mean, pinball loss; coverage and mean width of the 80 % interval.

    With aux["naive"] [n], the mean error of the seasonal naive forecast over the training period, MASE (Hyndman and
    Koehler, 2006); with aux["std"] [n], errors on values divided by the training period's spread, as benchmarks report.
    """
    found = {
        "mae": metrics.regression(answer[..., 1], truth)["mae"],
        "rmse": metrics.regression(answer[..., 3], truth)["rmse"],
        "pinball": metrics.pinball(answer[..., :3], truth, LEVELS),
        "coverage80": metrics.coverage(answer[..., 0], answer[..., 2], truth),
        "width80": metrics.mean_over(answer[..., 2] - answer[..., 0], np.isfinite(truth)),
    }
    if "naive" in aux:
        known = np.where(np.isfinite(aux["naive"]), truth, np.nan)
        found["mase"] = metrics.regression(answer[..., 1] / aux["naive"], known / aux["naive"])["mae"]
    if "std" in aux:
        found["mae_standardised"] = metrics.regression(answer[..., 1] / aux["std"], truth / aux["std"])["mae"]
        found["mse_standardised"] = metrics.regression(answer[..., 3] / aux["std"], truth / aux["std"])["rmse"] ** 2
    return found


def errors(answer: Array, truth: Array, aux: dict[str, Any]) -> Array:
    """Absolute error of each point, NaN where there is no truth; lower is better."""
    return np.abs(answer[..., 1] - truth)
