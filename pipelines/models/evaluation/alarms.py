"""The report on a task that raises alarms: ranking and alarm metrics, by slice, against each baseline."""

from dataclasses import dataclass
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


def judge(
    data: Windows,
    objective: Any,
    methods: dict[str, Method],
    noise: Array,
    alarm: dict[str, float],
    draws: int,
) -> Alarms:
    """Score every reading of the test once. noise [n], alarm: the bundle's own; a baseline's are set on validation.

    Raises UserError when no target was read in the test period.
    """
    scores: dict[str, Array] = {}
    threshold: dict[str, float] = {}
    for name, method in methods.items():
        usual, chosen = (noise, alarm) if name == "model" else _settled(method, data)
        raw, label = detect.scores(method.answer, data, "test", usual)
        if not np.isfinite(raw).any():
            raise frozen.silent(data)
        scores[name] = answers.smooth(raw, int(chosen["span"]))
        threshold[name] = float(chosen["threshold"])
    seen = np.all([np.isfinite(s) for s in scores.values()], axis=0)
    if label is not None:
        seen &= np.isfinite(label)
    found = {name: {"alarm_rate": float((s[seen] > threshold[name]).mean())} for name, s in scores.items()}
    hours = frozen.block_hours(data, overlap=True)
    first = data.series.splits["test"][0]
    row, column = np.nonzero(seen)
    times = data.series.times(first, first + len(seen))
    block = frozen.blocks(times, data, hours)[row]
    test = {**frozen.period(data), "forecasts": len(seen) // data.spec.patch, "points": len(row)}
    test |= {"block_hours": hours, "blocks": len(np.unique(block))}
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
        report |= _against(found, of, objective.PRIMARY, block, draws)
        rival = report["interval"]["versus_best_baseline"]["baseline"]
        faulty = slices.missing(data, first + np.arange(len(seen)) - data.known) > slices.FAULTY
        where = [*slices.channels(data, column), *slices.hours(data, times[row])]
        where += [("regime", "faulty_sensor", faulty[row, column]), *slices.worst(of["model"], column, data, True)]
        told, out = slices.report(where, of["model"], of[rival], block, draws, ("model", rival))
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
