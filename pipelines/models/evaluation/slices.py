"""Where and when a model does well: per kind, district and sensor, by the hour, the sensor's state and the level."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines.models.data import Windows
from pipelines.models.evaluation import regimes
from pipelines.models.evaluation.points import Errors, Points, compare

Array = np.ndarray[Any, Any]
Slice = tuple[str, str, Array]
"""Group, name, and which points are in it, [P]."""
FEWEST, FEWEST_BLOCKS = 100, 3
"""Points and blocks a slice must have."""
WORST = 10
MOST = 40
"""Districts or kinds told one by one; beyond them the largest."""
FAULTY = 0.2
"""A sensor is faulty in a window if more of its own context than this is missing."""


def every(
    data: Windows, model: Points, times: Array, column: Array, faulty: Array, truth: Array, higher: bool
) -> list[Slice]:
    """All slices of P points: of which target each is, at which time (UTC), with a faulty sensor or not, what was read.

    Levels are of what was measured, and left out where the metric is no mean of errors.
    """
    found = [*channels(data, column), *hours(data, times), ("regime", "faulty_sensor", faulty)]
    if isinstance(model, Errors):
        found += levels(truth, column, data)
    return found + worst(model, column, data, higher)


def channels(data: Windows, column: Array) -> Iterator[Slice]:
    """Kinds and districts, where there is more than one; column [P]: the target that a point is of."""
    for group in ("kind", "district"):
        of = np.array([str(v or "") for v in data.channel(group)[: data.targets]])
        names, size = np.unique(of[of != ""], return_counts=True)
        if len(names) > 1:
            for name in sorted(names[np.argsort(-size, kind="stable")][:MOST]):
                yield group, str(name), (of == name)[column]


def hours(data: Windows, times: Array) -> Iterator[Slice]:
    """Rush hour and night of data finer than three hours, weekends and holidays; times [P] UTC of the asked steps."""
    moments, where = np.unique(times, return_inverse=True)
    for name, inside in regimes.of(moments, data.spec).items():
        yield "regime", name, inside[where]


def levels(truth: Array, column: Array, data: Windows) -> Iterator[Slice]:
    """Thirds of the truth [P], in standard deviations from its channel's training mean."""
    n = data.targets
    level = (truth - data.mean[:n][column]) / data.std[:n][column]
    low, high = np.quantile(level, [1 / 3, 2 / 3])
    yield "level", "low", level <= low
    yield "level", "middle", (level > low) & (level <= high)
    yield "level", "high", level > high


def missing(data: Windows, rows: Array, size: int = 256) -> Array:
    """Share of each target's own known steps that was not read (or quarantined), [B, targets]."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return np.concatenate([np.isnan(data.read(p, data.known)[..., : data.targets]).mean(1) for p in parts])


def report(
    found: list[Slice],
    model: Points,
    other: Points,
    block: Array,
    draws: int,
    names: tuple[str, str],
    in_interval: Array | None = None,
    fewest: int = FEWEST,
) -> tuple[dict[str, Any], dict[str, str]]:
    """By group and name: n, the primary metric of the model and of the baseline, their difference and its interval.

    names: what model and baseline are called in it; in_interval [P]: whether the model's interval held the truth;
    fewest: points a slice must have.
    Second: the slices left out, and why.
    """
    told: dict[str, Any] = {}
    out: dict[str, str] = {}
    for group, name, inside in found:
        here = np.where(inside, block, -1)
        blocks = len(np.unique(block[inside]))
        if inside.sum() < fewest or blocks < FEWEST_BLOCKS:
            out[f"{group}/{name}"] = f"{int(inside.sum())} points in {blocks} blocks; at least {fewest} in " + (
                f"{FEWEST_BLOCKS} are asked for"
            )
            continue
        whole = np.where(inside, 0, -1)
        values = {k: float(p.value(p.sums(whole, 1))[0]) for k, p in zip(names, (model, other), strict=True)}
        if not np.isfinite(list(values.values())).all():
            out[f"{group}/{name}"] = "the metric is not defined there"
            continue
        told.setdefault(group, {})[name] = {**values, **compare(model, other, here, draws)}
        if in_interval is not None:
            told[group][name]["coverage80"] = float(in_interval[inside].mean())
    return told, out


def worst(points: Points, column: Array, data: Windows, higher_is_better: bool) -> list[Slice]:
    """The sensors with the model's worst metric, among those with enough points; none where there are few sensors."""
    sensors = data.channel("sensor")[: data.targets]
    names = list(dict.fromkeys(sensors))
    if len(names) < 3:
        return []
    number = np.array([names.index(s) for s in sensors])[column]
    values = points.value(points.sums(number, len(names)))
    enough = (np.bincount(number, minlength=len(names)) >= FEWEST) & np.isfinite(values)
    order = np.argsort(np.where(enough, values if higher_is_better else -values, np.inf), kind="stable")
    return [("sensor", names[i], number == i) for i in order[:WORST] if enough[i]]
