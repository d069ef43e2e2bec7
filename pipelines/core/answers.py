"""What is done to a graph's answers, in training and in serving alike, and what a row of them holds."""

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
READING = {"time": "datetime", "sensor": "string", "kind": "string"}
"""What every row begins with: its step and its channel. Types are named as MLflow's signatures name them."""
MORE: dict[str, dict[str, str]] = {
    "forecast": {},
    "impute": {"filled": "float"},
    "classify": {"class": "string"},
    "anomaly": {"score": "float", "alarm": "boolean"},
}
"""What an objective's rows hold beside the answer itself, one float a name."""


def columns(objective: str, names: Iterable[str]) -> dict[str, str]:
    """Columns of a row answer and their types, in order; `names`: what stands on the answer's last axis."""
    return {**READING, **dict.fromkeys(names, "float"), **MORE[objective]}


def more(config: dict[str, Any], tables: dict[str, Array], answer: Array, given: Array) -> dict[str, Array]:
    """The columns of MORE for one window's calibrated answer [H, n, names] and readings there [H, n]; each [H, n].

    config, tables: the bundle's. `filled`: the reading, or the median where there is none. `class`: the likeliest
    after the decision's weights. `score`, `alarm`: of an anomaly's steps the last one's are the settled ones.
    """
    objective = config["objective"]
    if objective == "impute":
        return {"filled": np.where(np.isfinite(given), given, answer[..., 1]).astype(np.float32)}
    if objective == "classify":
        return {"class": np.array(config["names"])[(answer * tables["decision"]).argmax(-1)]}
    if objective == "anomaly":
        raw = misfit(answer[None], given[None], tables["misfit"])[0]
        score = smooth(raw, int(config["alarm"]["span"])).astype(np.float32)
        return {"score": score, "alarm": score > config["alarm"]["threshold"]}
    return {}


def calibrated(answer: Array, spread: Array | None) -> Array:
    """Stretch the outer quantiles of [B, H, n, 4 or more] by `spread` [2, H]; without it the answer passes."""
    if spread is None:
        return answer
    out = answer.copy()
    middle = answer[..., 1]
    out[..., 0] = middle - (middle - answer[..., 0]) * spread[0][None, :, None]
    out[..., 2] = middle + (answer[..., 2] - middle) * spread[1][None, :, None]
    return out


def misfit(answer: Array, values: Array, noise: Array) -> Array:
    """How far readings [B, H, n] lie from the reconstruction, in interval widths; NaN where nothing was read.

    noise [n]: the channel's usual misfit on validation, which keeps a too narrow interval from crying wolf. An answer
    with a fifth name tells what its code costs (`models.vae`), in nats a step: it counts as so much more misfit, as in
    the evidence lower bound, where z standard deviations cost z²/2.
    """
    error = values - answer[..., 1]
    below, above = answer[..., 1] - answer[..., 0], answer[..., 2] - answer[..., 1]
    out = np.abs(error) / (np.where(error < 0, below, above) + noise)
    return out if answer.shape[-1] < 5 else np.sqrt(out**2 + 2 * answer[..., 4] / QUANTILE**2)


QUANTILE = 1.2816
"""Standard deviations from the middle of a normal distribution to its 90th percentile."""


def smooth(score: Array, span: int) -> Array:
    """Mean of the latest `span` scores down the first axis of [T, n], missing ones left out."""
    seen = np.isfinite(score)
    total, count = np.cumsum(np.where(seen, score, 0), 0), np.cumsum(seen, 0)
    total[span:] -= total[:-span].copy()
    count[span:] -= count[:-span].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
