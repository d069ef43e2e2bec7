"""Sums over points of answers and of what was read, which any files and days add up to; and the figures they make.

The figures are those of the frozen test (`objectives.forecast.score` and its siblings), of the same names.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pipelines.core import metrics
from pipelines.models.objectives.forecast import LEVELS

Array = np.ndarray[Any, Any]
QUARANTINED = ("other_unit", "off_grid", "future", "hindsight")
"""other_unit: what was read is in another unit than the release's. off_grid: the step is none of the grid's. future:
more was known than there was when it was answered. hindsight: it was answered when all of it had long been read."""
COUNTS = ("rows", *QUARANTINED, "unsettled", "waiting", "missing", "unanswered", "scored")
"""What became of each row; the later ones add up to the first. unsettled: of an anomaly, before the window's last
patch. waiting: its step has not ended. missing: it has, and nothing was read. unanswered: the answer is missing."""
RIVALS = ("last_value", "profile")
BINS = 15
AWAY_BINS, AWAY_FIRST, AWAY_OCTAVE = 49, 0.25, 8
"""How far a reading is from the profile, in standard deviations: a bin up to the first edge, then eight an octave."""


ROUNDED = 0.02
"""What a request says is what was read, if it differs by so many standard deviations at most."""


class Sum(NamedTuple):
    """A sum over points: `weight` [P] (None: 1 each) into `cell` [P] of `size` (None: there is one cell)."""

    size: int
    cell: Array | None = None
    weight: Array | None = None


def of_values(given: Mapping[str, Array], real: Array, rivals: Mapping[str, Array]) -> dict[str, Sum]:
    """Of quantiles and mean `given` for what became `real`, all [P]."""
    error = real - given["mean"]
    quantiles = [(real - given[f"q{q}"], q) for q in LEVELS]
    pinball = np.mean([np.maximum(q * e, (q - 1) * e) for e, q in quantiles], axis=0)
    inside = (real >= given["q0.1"]) & (real <= given["q0.9"])
    sums = {
        "absolute": Sum(1, weight=np.abs(real - given["q0.5"])),
        "square": Sum(1, weight=error**2),
        "pinball": Sum(1, weight=pinball),
        "inside": Sum(1, weight=inside.astype(float)),
        "width": Sum(1, weight=given["q0.9"] - given["q0.1"]),
        "bias": Sum(1, weight=-error),
    }
    for name, value in rivals.items():
        known = np.isfinite(value)
        off = np.where(known, np.abs(real - value), 0)
        sums |= {f"{name}.scored": Sum(1, weight=known.astype(float)), f"{name}.absolute": Sum(1, weight=off),
                 f"{name}.square": Sum(1, weight=off**2)}  # fmt: skip
    return sums


def of_requests(first: Array, said: Array, read: Array, spread: Array) -> dict[str, Sum]:
    """Of what requests said before the first asked step and what was read then, all [P]: how many can be compared, and
    how many differ by more than ROUNDED spreads."""
    both = first & np.isfinite(said) & np.isfinite(read)
    off = both & (np.abs(np.where(both, said - read, 0)) > ROUNDED * spread)
    return {"given": Sum(1, weight=both.astype(float)), "given.off": Sum(1, weight=off.astype(float))}


def of_classes(
    given: Mapping[str, Array], real: Array, rivals: Mapping[str, Array], names: list[str]
) -> dict[str, Sum]:
    """Of probabilities by name and `class`; `real` and `rivals` are classes too, all [P]."""
    count = len(names)
    true = real.astype(np.int64)
    p = np.stack([given[name] for name in names], axis=-1)
    top, own = p.max(-1), np.take_along_axis(p, true[:, None], axis=-1)[:, 0]
    of = np.clip((top * BINS).astype(int), 0, BINS - 1)
    sums = {
        "table": Sum(count**2, true * count + given["class"].astype(np.int64)),
        "log_loss": Sum(1, weight=-np.log(np.clip(own, 1e-6, 1))),
        "confidence": Sum(BINS, of, top),
        "right": Sum(BINS, of, (p.argmax(-1) == true).astype(float)),
    }
    for name, value in rivals.items():
        known = np.isfinite(value)
        cell = true * count + np.where(known, value, 0).astype(np.int64)
        sums[f"{name}.table"] = Sum(count**2, cell, known.astype(float))
    return sums


def of_alarms(given: Mapping[str, Array], real: Array, away: Array | None) -> dict[str, Sum]:
    """Of `alarm`, and of labels `real`; away: how far each reading was from the profile, for what is told by labels."""
    told = {"table": Sum(4, (real > 0.5) * 2 + given["alarm"].astype(np.int64))}
    if away is not None:
        octaves = np.log2(np.maximum(np.nan_to_num(away), AWAY_FIRST) / AWAY_FIRST)
        cell = np.minimum(np.ceil(octaves * AWAY_OCTAVE), AWAY_BINS - 1).astype(np.int64)
        told["away"] = Sum(2 * AWAY_BINS, cell * 2 + (real > 0.5))
    return told


def figures(sums: Mapping[str, Array], classes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What sums by name make: counts, then by method the frozen test's figures.

    classes: their names. A figure of nothing is NaN.
    """
    found: dict[str, Any] = {name: int(sums[name][0]) for name in COUNTS}
    found["coverage"] = _ratio(sums["scored"][0], sums["rows"][0] - sums["waiting"][0] - sums["unsettled"][0])
    if "absolute" in sums:
        n = sums["scored"][0]
        told = {"mae": "absolute", "pinball": "pinball", "coverage80": "inside", "width80": "width"}
        found["model"] = {name: _ratio(sums[of][0], n) for name, of in told.items()}
        found["model"]["rmse"] = _ratio(sums["square"][0], n) ** 0.5
        for name in RIVALS:
            n = sums[f"{name}.scored"][0]
            found[name] = {"mae": _ratio(sums[f"{name}.absolute"][0], n), "scored": int(n),
                           "rmse": _ratio(sums[f"{name}.square"][0], n) ** 0.5}  # fmt: skip
    elif "log_loss" in sums:
        n = sums["scored"][0]
        gap = float(np.abs(sums["confidence"] - sums["right"]).sum())
        found["model"] = {**_of_table(sums["table"], classes), "log_loss": _ratio(sums["log_loss"][0], n),
                          "calibration_error": _ratio(gap, n)}  # fmt: skip
        found |= {name: _of_table(sums[f"{name}.table"], classes) for name in RIVALS}
    else:
        silent, false, missed, hit = sums["table"].tolist()
        found["model"] = {"alarm_rate": _ratio(false + hit, silent + false + missed + hit)}
        found["model"] |= {"precision": _ratio(hit, hit + false), "recall": _ratio(hit, hit + missed),
                           "f1": _ratio(2 * hit, 2 * hit + false + missed), "positives": int(hit + missed)}  # fmt: skip
        if "away" in sums:
            found["profile"] = _as_many(sums["away"].reshape(AWAY_BINS, 2), hit + false)
    return found


def _as_many(bins: Array, alarms: float) -> dict[str, float]:
    """Of who raises so many alarms about the readings farthest from the profile. bins: without and with a label."""
    size = bins.sum(1)[::-1]
    part = np.clip(alarms - (np.cumsum(size) - size), 0, size) / np.where(size > 0, size, 1)
    hit, positives = float((part * bins[::-1, 1]).sum()), bins[:, 1].sum()
    return {"alarm_rate": _ratio(min(alarms, size.sum()), size.sum()), "precision": _ratio(hit, alarms),
            "recall": _ratio(hit, positives), "f1": _ratio(2 * hit, alarms + positives)}  # fmt: skip


def _of_table(table: Array, names: tuple[str, ...]) -> dict[str, float]:
    square = table.reshape(round(len(table) ** 0.5), -1)
    size = square.sum(0) + square.sum(1)
    found = {"accuracy": _ratio(np.trace(square), square.sum()), "macro_f1": float(metrics.macro_f1(table))}
    each = names if len(names) == len(square) else tuple(map(str, range(len(square))))
    return found | {f"f1_{name}": _ratio(2 * square[c, c], size[c]) for c, name in enumerate(each)}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
