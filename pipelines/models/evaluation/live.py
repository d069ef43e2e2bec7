"""Answers that were given, and the truth that came: sums by group, which any files and days add up to, and figures.

The figures are those of the frozen test (`objectives.forecast.score` and its siblings), of the same names.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipelines.core import calendar, metrics
from pipelines.core.grid import Series
from pipelines.core.windows import Spec
from pipelines.models import objectives
from pipelines.models.objectives.forecast import LEVELS

Array = np.ndarray[Any, Any]
Key = tuple[str, str, int]
"""Role, kind and step of a group."""
COUNTS = ("rows", "waiting", "missing", "unanswered", "unsettled", "scored")
"""What became of each row; the later five add up to the first. waiting: its step has not ended. missing: it has, and
nothing was read. unanswered: the answer itself is missing. unsettled: of an anomaly, before the window's last patch."""
RIVALS = ("last_value", "profile")
BINS = 15
HASHED = 256
"""Rows of the grid that are hashed at once."""


class Sum(NamedTuple):
    """A sum over points: `weight` [P] (None: 1 each) into `cell` [P] of `size` (None: there is one cell)."""

    size: int
    cell: Array | None = None
    weight: Array | None = None


class Words(NamedTuple):
    """A column of few different words: which of `words` each row has, int [P]."""

    codes: Array
    words: list[str]


class Rows(NamedTuple):
    """Logged answers by one release."""

    role: Words
    sensor: Words
    kind: Words
    time: Array
    """When the step begins, UTC datetime64[us] [P]."""
    step: Array
    """1 for the first asked."""
    answer: dict[str, Array]
    """The other columns, float64 or bool [P]; `class` as the number of the class."""


@dataclass(frozen=True)
class Truth:
    """What was read of the channels `columns` (ascending) in steps that have ended by row `end` of the grid."""

    series: Series
    columns: Array
    end: int

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        found = self.series.channels.take(self.columns)
        return list(zip(found["sensor"].to_pylist(), found["kind"].to_pylist(), strict=True))

    @cached_property
    def _where(self) -> dict[tuple[str, str], int]:
        return {name: i for i, name in enumerate(self.names)}

    def place(self, sensor: Words, kind: Words, label: str | None = None) -> Array:
        """Which of the columns tells the truth about each row, int [P]; −1: none. label: the kind that does."""
        return placed(sensor, kind, {(s, k): self._where.get((s, label or k), -1) for s, k in pairs(sensor, kind)})

    def sha256(self, spans: Iterable[tuple[str, str]]) -> str:
        """Of all that was read from one moment to another, of each of the spans. A channel that is silent adds nothing:
        a sensor that comes later changes no earlier day."""
        sha = hashlib.sha256()
        for a, b in spans:
            lo, hi = (int((np.datetime64(t) - self.series.start) // self.series.step) for t in (a, b))
            for i in range(lo, hi, HASHED):
                values = self.series.read(i, min(i + HASHED, hi), self.columns)
                there = np.flatnonzero(np.isfinite(values).any(0))
                sha.update(repr((a, i - lo, [self.names[j] for j in there])).encode())
                sha.update(np.ascontiguousarray(values[:, there]).tobytes())
        return sha.hexdigest()

    def spans(self, rows: Array) -> list[tuple[str, str]]:
        """Rows of the grid, ascending, as moments from and until."""
        parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
        ends = [(part[0], part[-1] + 1) for part in parts]
        start, step = self.series.start, self.series.step
        return [(str(start + a * step), str(start + b * step)) for a, b in ends]


@dataclass(frozen=True)
class Release:
    """What scoring needs to know of a bundle. `label`: the kind that says what was an anomaly."""

    config: dict[str, Any]
    tables: dict[str, Array]
    label: str | None = None

    @cached_property
    def objective(self) -> Any:
        return objectives.of_bundle(self.config)

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(self.config["spec"])

    @property
    def alarms(self) -> bool:
        return "alarm" in self.objective.CALIBRATION

    @property
    def classes(self) -> list[str]:
        """Their names; none of another kind of question."""
        return self.config["names"] if "decision" in self.objective.CALIBRATION else []

    @cached_property
    def _channel(self) -> dict[tuple[str, str], int]:
        targets = self.config["channels"][: self.config["targets"]]
        return {(c["sensor"], c["kind"]): i for i, c in enumerate(targets)}

    def channel(self, rows: Rows) -> Array:
        """Which of the release's targets each row is of, int [P]; −1: one that joined when it was asked."""
        return placed(rows.sensor, rows.kind, {p: self._channel.get(p, -1) for p in pairs(rows.sensor, rows.kind)})

    def usual(self, times: Array, channel: Array) -> Array:
        """The profile at each moment [P]; NaN where the release does not know the channel."""
        moments, at = np.unique(times, return_inverse=True)
        slots = calendar.slot_of_week(moments, self.spec.timezone, self.spec.holidays, self.spec.step_s)
        return np.where(channel < 0, np.nan, self.tables["profile"][slots[at], channel])

    def truth(self, values: Array, channel: Array) -> Array:
        """What was asked [P], from readings [P]."""
        reference = np.where(channel < 0, np.nan, self.tables["reference"][channel])
        found: Array = self.objective.truth(values, {**self.config["aux"], "reference": reference})
        return found


@dataclass
class Scored:
    """Sums of one release's answers: a row of numbers a group, laid out as `layout` says: (name, how many)."""

    layout: list[tuple[str, int]] = field(default_factory=list)
    groups: dict[Key, Array] = field(default_factory=dict)

    def add(self, other: "Scored") -> None:
        self.layout = other.layout or self.layout
        for key, values in other.groups.items():
            self.groups[key] = self.groups[key] + values if key in self.groups else values


def score(release: Release, rows: Rows, truth: Truth) -> tuple[Scored, Array]:
    """The rows' sums by role, kind and step; and the grid's rows that these rest on, ascending."""
    series, step = truth.series, rows.step.astype(np.int64)
    away = (rows.time - series.start).astype("timedelta64[us]").astype(np.int64)
    row, offset = np.divmod(away, series.step_s * 1_000_000)
    before = row - step  # the step before the first asked one
    ended = away + series.step_s * 1_000_000 <= truth.end * series.step_s * 1_000_000
    unsettled = release.alarms & (step <= release.spec.horizon - release.spec.patch)
    due = ended & ~unsettled
    inside = due & (offset == 0) & (row >= 0)
    plain = not release.alarms
    known = np.unique(np.concatenate([row[inside], before[inside & (before >= 0)] if plain else row[:0]]))
    read = series.gather(known, truth.columns).astype(np.float64)
    column = truth.place(rows.sensor, rows.kind, release.label if release.alarms else None)

    def at(where: Array, wanted: Array) -> Array:
        """What was read at rows of the grid, where it is wanted; else NaN."""
        out, some = np.full(len(where), np.nan), wanted & (column >= 0)
        out[some] = read[np.searchsorted(known, where[some]), column[some]]
        return out

    if plain:
        channel = release.channel(rows)
        real = release.truth(at(row, inside), channel)
        last, then = at(before, inside & (before >= 0)), release.usual(rows.time - step * series.step, channel)
        rivals = {
            "last_value": np.where(np.isfinite(last), last, then),
            "profile": release.usual(rows.time, channel),
        }
    else:
        channel, rivals = column, {}
        real = at(row, inside) if release.label else np.where(due, 0.0, np.nan)
    answered = _answered(release, rows)
    missing = due & ~np.isfinite(real)
    good = due & ~missing & answered
    states = (np.ones(len(step), bool), ~ended & ~unsettled, missing, due & ~missing & ~answered, unsettled, good)
    group, keys = _groups(rows, step)
    blocks = [(name, np.bincount(group[s], minlength=len(keys))[:, None].astype(float))
              for name, s in zip(COUNTS, states, strict=True)]  # fmt: skip
    some = np.flatnonzero(good)
    given = {k: v[some] for k, v in rows.answer.items()}
    others = {k: v[some] for k, v in rivals.items()}
    for name, told in _sums(release, given, real[some], others, channel[some]).items():
        cell = group[some] * told.size + (0 if told.cell is None else told.cell)
        found = np.bincount(cell, told.weight, len(keys) * told.size)
        blocks.append((name, found.reshape(-1, told.size).astype(float)))
    table = np.concatenate([values for _, values in blocks], axis=1)
    layout = [(name, values.shape[1]) for name, values in blocks]
    return Scored(layout, dict(zip(keys, table, strict=True))), known


def _groups(rows: Rows, step: Array) -> tuple[Array, list[Key]]:
    """The number of each row's group [P], and the groups."""
    steps, kinds = int(step.max()) + 1, len(rows.kind.words)
    code = (rows.role.codes.astype(np.int64) * kinds + rows.kind.codes) * steps + step
    found, group = np.unique(code, return_inverse=True)
    parts = [(c // steps // kinds, c // steps % kinds, c % steps) for c in found.tolist()]
    return group, [(rows.role.words[r], rows.kind.words[k], s) for r, k, s in parts]


def _answered(release: Release, rows: Rows) -> Array:
    names = ["score"] if release.alarms else release.config["names"]
    return np.logical_and.reduce([np.isfinite(rows.answer[name]) for name in names])


def _sums(
    release: Release, given: dict[str, Array], real: Array, rivals: dict[str, Array], channel: Array
) -> dict[str, Sum]:
    """Of points with truth `real` [P]."""
    if release.alarms:
        return {"table": Sum(4, (real > 0.5) * 2 + given["alarm"].astype(np.int64))}
    if release.classes:
        return _of_classes(release, given, real, rivals, channel)
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
    }
    for name, value in rivals.items():
        known = np.isfinite(value)
        off = np.where(known, np.abs(real - value), 0)
        sums |= {f"{name}.scored": Sum(1, weight=known.astype(float)), f"{name}.absolute": Sum(1, weight=off),
                 f"{name}.square": Sum(1, weight=off**2)}  # fmt: skip
    return sums


def _of_classes(
    release: Release, given: dict[str, Array], real: Array, rivals: dict[str, Array], channel: Array
) -> dict[str, Sum]:
    count = len(release.classes)
    true = real.astype(np.int64)
    p = np.stack([given[name] for name in release.classes], axis=-1)
    top, own = p.max(-1), np.take_along_axis(p, true[:, None], axis=-1)[:, 0]
    of = np.clip((top * BINS).astype(int), 0, BINS - 1)
    sums = {
        "table": Sum(count**2, true * count + given["class"].astype(np.int64)),
        "log_loss": Sum(1, weight=-np.log(np.clip(own, 1e-6, 1))),
        "confidence": Sum(BINS, of, top),
        "right": Sum(BINS, of, (p.argmax(-1) == true).astype(float)),
    }
    for name, value in rivals.items():
        said = release.truth(value, channel)
        known = np.isfinite(said)
        cell = true * count + np.where(known, said, 0).astype(np.int64)
        sums[f"{name}.table"] = Sum(count**2, cell, known.astype(float))
    return sums


def figures(sums: Mapping[str, Array], classes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What sums make, laid out as in `Scored`: counts, then by method the frozen test's figures.

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
    return found


def _of_table(table: Array, names: tuple[str, ...]) -> dict[str, float]:
    square = table.reshape(round(len(table) ** 0.5), -1)
    size = square.sum(0) + square.sum(1)
    found = {"accuracy": _ratio(np.trace(square), square.sum()), "macro_f1": float(metrics.macro_f1(table))}
    each = names if len(names) == len(square) else tuple(map(str, range(len(square))))
    return found | {f"f1_{name}": _ratio(2 * square[c, c], size[c]) for c, name in enumerate(each)}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def pairs(sensor: Words, kind: Words) -> list[tuple[str, str]]:
    """Every sensor with every kind, in the order `placed` counts them."""
    return [(s, k) for s in sensor.words for k in kind.words]


def placed(sensor: Words, kind: Words, number: Mapping[tuple[str, str], int]) -> Array:
    """The number of each row's channel, int [P]."""
    table = np.array([number[pair] for pair in pairs(sensor, kind)], np.int64)
    found: Array = table[sensor.codes.astype(np.int64) * len(kind.words) + kind.codes]
    return found
