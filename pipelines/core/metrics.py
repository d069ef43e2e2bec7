"""Scores on numpy arrays. Missing truth (NaN) never counts; a missing answer to it makes the score NaN."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Value = Callable[[Array], Array]
"""Sums [..., K] over points → the metric they make [...]; NaN where nothing was summed."""


def mean_over(errors: Array, weight: Array) -> float:
    """Mean of `errors` where `weight` is 1; NaN when nothing counts."""
    total = float(weight.sum())
    return float((np.where(weight > 0, errors, 0) * weight).sum() / total) if total else float("nan")


def regression(answer: Array, truth: Array) -> dict[str, float]:
    """MAE and RMSE of point forecasts, any equal shapes."""
    seen = np.isfinite(truth)
    error = np.where(seen, answer - np.where(seen, truth, 0), 0)
    return {"mae": mean_over(np.abs(error), seen), "rmse": mean_over(error**2, seen) ** 0.5}


def pinball(quantiles: Array, truth: Array, levels: tuple[float, ...]) -> float:
    """Mean pinball loss of quantiles [..., Q] against truth [...]."""
    seen = np.isfinite(truth)
    error = np.where(seen, truth, 0)[..., None] - quantiles
    losses = np.stack([np.maximum(q * error[..., i], (q - 1) * error[..., i]) for i, q in enumerate(levels)], axis=-1)
    return mean_over(losses.mean(-1), seen)


def coverage(low: Array, high: Array, truth: Array) -> float:
    """Share of truth inside [low, high]."""
    seen = np.isfinite(truth)
    inside = (np.where(seen, truth, 0) >= low) & (np.where(seen, truth, 0) <= high)
    return mean_over(inside.astype(float), seen)


def calibration_error(probabilities: Array, truth: Array, bins: int = 15) -> float:
    """Expected calibration error of the likeliest class (Guo et al., 2017): gap of confidence and accuracy, by bin.

    probabilities [..., C], truth [...] of class numbers or NaN.
    """
    confidence, right, count = reliability(probabilities, truth, bins)
    return float(np.abs(confidence - right).sum() / count.sum()) if count.sum() else float("nan")


def reliability(probabilities: Array, truth: Array, bins: int = 15) -> tuple[Array, Array, Array]:
    """Sums by equal bins of the likeliest class's probability, each [bins]: probability, how often right, count."""
    seen = np.isfinite(truth)
    p = probabilities[seen]
    top = p.max(-1)
    where = np.clip((top * bins).astype(int), 0, bins - 1)
    right = p.argmax(-1) == truth[seen]
    return np.bincount(where, top, bins), np.bincount(where, right, bins), np.bincount(where, minlength=bins)


def classes(probabilities: Array, truth: Array, names: tuple[str, ...], chosen: Array) -> dict[str, float]:
    """Accuracy, macro F1 and F1 a class of `chosen` [...], and log loss; truth [...] of class numbers or NaN."""
    seen = np.isfinite(truth)
    p, y, guess = probabilities[seen], truth[seen].astype(int), chosen[seen]
    scores: dict[str, float] = {"accuracy": float((guess == y).mean())}
    each = []
    for c, name in enumerate(names):
        hit = int(((guess == c) & (y == c)).sum())
        size = int((guess == c).sum() + (y == c).sum())
        each.append(2 * hit / size if size else float("nan"))
        scores[f"f1_{name}"] = each[-1]
    scores["macro_f1"] = float(np.nanmean(each))
    scores["log_loss"] = float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-6, 1)).mean())
    scores["calibration_error"] = calibration_error(p, truth[seen])
    ranked = [ranking(p[:, c], y == c) for c in range(len(names))]  # one against the rest
    for metric in ("auroc", "average_precision"):
        found = [r[metric] for r in ranked if np.isfinite(r[metric])]
        scores[metric] = float(np.mean(found)) if found else float("nan")
    return scores


def ranking(score: Array, label: Array) -> dict[str, float]:
    """AUROC (Mann-Whitney, ties shared) and average precision of `score` [n] for binary `label` [n]."""
    label = label > 0.5
    positives, negatives = int(label.sum()), int((~label).sum())
    if not positives or not negatives:
        return {"auroc": float("nan"), "average_precision": float("nan")}
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    auroc = (ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(label[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # equal scores are one threshold
    precision, recall = hits[ends] / (ends + 1), hits[ends] / positives
    return {"auroc": float(auroc), "average_precision": float((np.diff(recall, prepend=0) * precision).sum())}


def alarms(alarm: Array, label: Array) -> dict[str, float]:
    """Precision, recall and F1 of boolean alarms [n] for binary label [n]."""
    label = label > 0.5
    hit = float((alarm & label).sum())
    precision = hit / alarm.sum() if alarm.any() else 0.0
    recall = hit / label.sum() if label.any() else float("nan")
    f1 = 2 * hit / (alarm.sum() + label.sum()) if alarm.any() or label.any() else float("nan")
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def ratio(sums: Array) -> Array:
    """Mean from [..., 2]: a sum and how many points it is over."""
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def macro_f1(sums: Array) -> Array:
    """Macro F1 from [..., C · C], a flattened table of true class (row) by given class; empty classes are left out."""
    classes = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], classes, classes)
    size = table.sum(-1) + table.sum(-2)
    f1 = 2 * np.diagonal(table, axis1=-2, axis2=-1) / np.where(size > 0, size, 1)
    there = (size > 0).sum(-1)
    return np.where(size > 0, f1, 0).sum(-1) / np.where(there > 0, there, np.nan)


def average_precision(sums: Array) -> Array:
    """Average precision from [..., 2 · K]: how many without and with the label at each of K scores, highest first."""
    table = sums.reshape(*sums.shape[:-1], 2, -1)
    hits, alarms = table[..., 1, :].cumsum(-1), table.sum(-2).cumsum(-1)
    precision = hits / np.where(alarms > 0, alarms, 1)
    return (table[..., 1, :] * precision).sum(-1) / np.where(hits[..., -1] > 0, hits[..., -1], np.nan)


def paired(a: Array, b: Array, value: Value, draws: int, seed: int = 0) -> dict[str, float]:
    """value(a) − value(b) with a 95 % interval; a, b: sums [blocks, K] of two methods over the same points.

    Whole blocks (days) are resampled, to respect autocorrelation (Kunsch, 1989, non-overlapping form). Below two
    blocks there is no interval: NaN.
    """
    n = len(a)
    difference = float(value(a.sum(0)) - value(b.sum(0)))
    if n < 2:
        return {"difference": difference, "low": float("nan"), "high": float("nan")}
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(float)
    drawn = value(times @ a) - value(times @ b)
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return {"difference": difference, "low": float(low), "high": float(high)}


def block_bootstrap(a: Array, b: Array, weight: Array, blocks: Array, draws: int, seed: int = 0) -> dict[str, float]:
    """Mean of a − b with a 95 % interval, see `paired`.

    a, b, weight: per forecast [n] sums of error and how many points each sums over; blocks: block number [n].
    """
    _, block = np.unique(blocks, return_inverse=True)
    sums = [np.stack([np.bincount(block, x), np.bincount(block, weight)], axis=-1) for x in (a, b)]
    return paired(sums[0], sums[1], ratio, draws, seed)
