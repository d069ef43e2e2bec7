"""Scores on numpy arrays. Missing truth (NaN) never counts; a missing answer to it makes the score NaN."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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


def block_bootstrap(a: Array, b: Array, weight: Array, blocks: Array, draws: int, seed: int = 0) -> dict[str, float]:
    """Mean of a − b with a 95 % interval, resampling whole blocks (days) to respect autocorrelation.

    a, b, weight: per forecast [n] sums of error and how many points each sums over; blocks: block number [n].
    Kunsch (1989), non-overlapping form.
    """
    _, block = np.unique(blocks, return_inverse=True)
    n = int(block.max()) + 1 if len(block) else 0
    difference, count = np.bincount(block, a - b, n), np.bincount(block, weight, n)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, n, (draws, n)) if n else np.zeros((draws, 0), int)
    drawn = difference[picks].sum(1) / np.maximum(count[picks].sum(1), 1e-9)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"difference": float(difference.sum() / max(count.sum(), 1e-9)), "low": float(low), "high": float(high)}
