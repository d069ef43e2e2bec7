"""The report on a task that raises alarms: ranking and alarm metrics, by slice, against each baseline."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.core import answers
from pipelines.models import detect
from pipelines.models.data import Windows
from pipelines.models.evaluation import frozen, points, slices
from pipelines.models.evaluation.forecasts import best, interval
from pipelines.models.evaluation.methods import Method

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Alarms:
    """A report and what the plots draw: smoothed scores [T, n] a method, labels [T, n] if there are any."""

    report: dict[str, Any]
    scores: dict[str, Array]
    label: Array | None
    seen: Array
    """Where every method has a score and there is a label, if there are labels: the P points."""


@dataclass(frozen=True)
class Heard:
    """Smoothed scores [T, n] of each reading of the test, and the threshold of an alarm, by method; labels [T, n]."""

    scores: dict[str, Array]
    threshold: dict[str, float]
    label: Array | None

    @property
    def seen(self) -> Array:
        """Where every method has a score and there is a label, if there are labels, bool [T, n]."""
        seen: Array = np.all([np.isfinite(s) for s in self.scores.values()], axis=0)
        return seen if self.label is None else seen & np.isfinite(self.label)


def hear(data: Windows, methods: dict[str, Method], noise: Array, alarm: dict[str, float]) -> Heard:
    """Score every reading of the test. noise [n], alarm: the bundle's own, for `model`; others' are set on validation.

    Raises UserError when no target was read in the test period.
    """
    scores: dict[str, Array] = {}
    threshold: dict[str, float] = {}
    label = None
    for name, method in methods.items():
        usual, chosen = (noise, alarm) if name == "model" else _settled(method, data)
        raw, label = detect.scores(method.answer, data, "test", usual)
        if not np.isfinite(raw).any():
            raise frozen.silent(data)
        scores[name] = answers.smooth(raw, int(chosen["span"]))
        threshold[name] = float(chosen["threshold"])
    return Heard(scores, threshold, label)


@dataclass(frozen=True)
class Readings:
    """The P readings of the test where `seen` [T, n], in order."""

    data: Windows
    seen: Array

    @cached_property
    def where(self) -> tuple[Array, Array]:
        """Row of the test and target of each point, [P] each."""
        row, column = np.nonzero(self.seen)
        return row, column

    @property
    def first(self) -> int:
        return self.data.series.splits["test"][0]

    @cached_property
    def times(self) -> Array:
        """When each row begins, UTC [T]."""
        return self.data.series.times(self.first, self.first + len(self.seen))

    @property
    def hours(self) -> int:
        """Hours resampled together."""
        return frozen.block_hours(self.data, overlap=True)

    @cached_property
    def block(self) -> Array:
        """The block of time each point lies in, [P]."""
        return frozen.blocks(self.times, self.data, self.hours)[self.where[0]]

    def slices(self, model: points.Points) -> list[slices.Slice]:
        """As `forecasts.of_test`, for readings."""
        row, column = self.where
        rows = self.first + np.arange(len(self.seen)) - self.data.known
        faulty = (slices.missing(self.data, rows) > slices.FAULTY)[row, column]
        return slices.every(self.data, model, self.times[row], column, faulty, np.zeros(0), True)


def judge(
    data: Windows,
    objective: Any,
    methods: dict[str, Method],
    noise: Array,
    alarm: dict[str, float],
    draws: int,
) -> Alarms:
    """Score every reading of the test once; see `hear`."""
    heard = hear(data, methods, noise, alarm)
    scores, threshold, label, seen = heard.scores, heard.threshold, heard.label, heard.seen
    found = {name: {"alarm_rate": float((s[seen] > threshold[name]).mean())} for name, s in scores.items()}
    read = Readings(data, seen)
    test = {**frozen.period(data), "forecasts": len(seen) // data.spec.patch, "points": len(read.block)}
    test |= {"block_hours": read.hours, "blocks": len(np.unique(read.block))}
    labelled = label is not None
    report: dict[str, Any] = {
        "primary": objective.PRIMARY if labelled else "alarm_rate",
        "higher_is_better": labelled,
        "test": test,
    }
    if label is not None:
        test["positives"] = int((label[seen] > 0.5).sum())
        found = {k: v | objective.score(scores[k][seen], label[seen], threshold[k]) for k, v in found.items()}
        of = {name: points.of_scores(s[seen], label[seen]) for name, s in scores.items()}
        report |= _against(found, of, objective.PRIMARY, read.block, draws)
        rival = report["interval"]["versus_best_baseline"]["baseline"]
        where = read.slices(of["model"])
        told, out = slices.report(where, of["model"], of[rival], read.block, draws, ("model", rival))
        report |= {"slices": told, "slices_left_out": out}
    return Alarms({**report, **found}, scores, label, seen)


def _settled(method: Method, data: Windows) -> tuple[Array, dict[str, float]]:
    usual = detect.usual(method.answer, data)
    return usual, detect.tune(*detect.scores(method.answer, data, "validation", usual), data.spec.horizon)


def _against(
    found: dict[str, dict[str, float]], of: dict[str, points.Points], primary: str, block: Array, draws: int
) -> dict[str, Any]:
    """The sums tell fewer scores apart than there are, so the difference itself is that of the exact figures."""
    versus = {name: points.compare(of["model"], of[name], block, draws) for name in of if name != "model"}
    for name, told in versus.items():
        told["difference"] = found["model"][primary] - found[name][primary]
    return interval(versus, best({name: found[name][primary] for name in versus}, True))
