"""The report on a task that asks for later or missing steps: by step ahead, by slice, against each baseline."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.core import calendar, metrics
from pipelines.models.evaluation import points, slices
from pipelines.models.evaluation.frozen import Frozen
from pipelines.models.evaluation.methods import Answer, Method
from pipelines.models.evaluation.points import Points

Array = np.ndarray[Any, Any]
KNOTS = (15, 30, 60, 180, 360, 720, 1440, 2880, 10080)
"""Minutes ahead that the report tells by themselves, beside the last step."""
SILENCED = 512
"""Forecasts asked for again without a source of inputs."""


@dataclass(frozen=True)
class Judged:
    """A report and what the plots draw."""

    report: dict[str, Any]
    by_step: list[dict[str, Any]]
    by_hour: dict[str, Array]
    """The objective's mean error by local hour of the moment asked for, [24] a method."""
    reliability: tuple[Array, Array, Array] | None
    """Of class probabilities, see `metrics.reliability`."""


def judge(frozen: Frozen, objective: Any, methods: dict[str, Method], given: dict[str, Array], draws: int) -> Judged:
    """Score the answers `given` [B, H, n, names] of each method, the model's among them, once."""
    primary, higher = objective.PRIMARY, objective.HIGHER_IS_BETTER
    of = {name: points.of_answer(objective, a, frozen.truth, methods[name].aux) for name, a in given.items()}
    found = {name: objective.score(a, frozen.truth, methods[name].aux) for name, a in given.items()}
    rivals = [name for name in given if name != "model"]
    versus = {name: points.compare(of["model"], of[name], frozen.block, draws) for name in rivals}
    baseline = best({name: found[name][primary] for name in rivals}, higher)
    hour = calendar.local_seconds(frozen.times, frozen.data.spec.timezone) // 3600 % 24
    report = {"primary": primary, "higher_is_better": higher, "test": frozen.period(), **found}
    report |= interval(versus, baseline)
    report |= _ahead(frozen, of, draws, higher)
    inside = _inside(frozen, given["model"]) if "coverage80" in found["model"] else None
    report |= _slices(frozen, of["model"], of[baseline], baseline, draws, higher, inside)
    if inside is not None:
        report["coverage"] = _coverage(frozen, inside)
    return Judged(
        report,
        _by_step(frozen, objective, methods, given, of, baseline, draws),
        {name: _mean_error(objective, a, frozen, methods[name], hour) for name, a in given.items()},
        metrics.reliability(given["model"], frozen.truth) if "decision" in objective.CALIBRATION else None,
    )


def without(
    test: Frozen, objective: Any, model: Method, given: Array, silenced: dict[str, Answer], draws: int
) -> dict[str, dict[str, float]]:
    """By source of inputs: the primary metric of the same model while that source is silent, on at most SILENCED
    forecasts, and the model as it is minus that, with its interval.

    given: the model's answers to the whole test; silenced: how it answers without each source.
    """
    some = np.unique(np.linspace(0, len(test.rows) - 1, min(SILENCED, len(test.rows))).astype(int))
    part = replace(test, rows=test.rows[some], values=test.values[some], truth=test.truth[some])
    of = points.of_answer(objective, given[some], part.truth, model.aux)
    told = {}
    for source, answer in silenced.items():
        said = answer(part.rows)
        other = points.of_answer(objective, said, part.truth, model.aux)
        value = objective.score(said, part.truth, model.aux)[objective.PRIMARY]
        told[source] = {objective.PRIMARY: value, **points.compare(of, other, part.block, draws)}
    return told


def best(scores: dict[str, float], higher: bool) -> str:
    """The method with the best score; one without any is last."""
    return min(scores, key=lambda name: np.nan_to_num(-scores[name] if higher else scores[name], nan=np.inf))


def interval(versus: dict[str, dict[str, float]], baseline: str) -> dict[str, Any]:
    """Model minus each baseline in the primary metric, and again for the best one of them."""
    return {"interval": {"versus_best_baseline": {"baseline": baseline, **versus[baseline]}, "versus": versus}}


def _ahead(frozen: Frozen, of: dict[str, Points], draws: int, higher: bool) -> dict[str, Any]:
    """The primary metric at, and pooled up to, some steps ahead, with the interval against the best baseline there."""
    told: dict[str, Any] = {"at": {}, "up_to": {}}
    step, horizon = frozen.where[1], frozen.data.spec.horizon
    for h in knots(frozen.data.spec.step_s, horizon):
        name = span((h + 1) * frozen.data.spec.step_s)
        for how, inside in (("at", step == h), ("up_to", step <= h)):
            whole, block = np.where(inside, 0, -1), np.where(inside, frozen.block, -1)
            values = {m: float(p.value(p.sums(whole, 1))[0]) for m, p in of.items()}
            rival = best({m: v for m, v in values.items() if m != "model"}, higher)
            told[how][name] = {**values, "baseline": rival, **points.compare(of["model"], of[rival], block, draws)}
            told[how][name]["minutes"] = (h + 1) * frozen.data.spec.step_s / 60
    return told


def knots(step_s: int, horizon: int) -> list[int]:
    """Steps (from 0) that end at one of KNOTS, and the last."""
    chosen = {m * 60 // step_s - 1 for m in KNOTS if m * 60 % step_s == 0}
    return sorted({h for h in chosen if 0 <= h < horizon} | {horizon - 1})


def span(seconds: int) -> str:
    """15min, 60min, 24h, 7d."""
    for unit, size, from_s in (("d", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 0)):
        if seconds >= from_s and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def of_test(frozen: Frozen, model: Points, higher: bool) -> list[slices.Slice]:
    """The slices of a frozen test, the worst sensors being those of `model`."""
    data, (window, _, column) = frozen.data, frozen.where
    faulty = (slices.missing(data, frozen.rows) > slices.FAULTY)[window, column]
    return slices.every(data, model, frozen.times, column, faulty, frozen.values[frozen.where], higher)


def _slices(
    frozen: Frozen, model: Points, other: Points, baseline: str, draws: int, higher: bool, in_interval: Array | None
) -> dict[str, Any]:
    found = of_test(frozen, model, higher)
    told, out = slices.report(found, model, other, frozen.block, draws, ("model", baseline), in_interval)
    return {"slices": told, "slices_left_out": out}


def _inside(frozen: Frozen, answer: Array) -> Array:
    """Whether each point lies in its 80 % interval, [P]."""
    truth = frozen.truth[frozen.where]
    inside: Array = (truth >= answer[..., 0][frozen.where]) & (truth <= answer[..., 2][frozen.where])
    return inside


def _coverage(frozen: Frozen, inside: Array) -> dict[str, float]:
    """Of the 80 % interval: overall, and at the steps ahead where it strays furthest."""
    step = frozen.where[1]
    count = np.bincount(step)
    share = np.bincount(step, inside)[count > 0] / count[count > 0]
    return {"overall": float(inside.mean()), "lowest_step": float(share.min()), "highest_step": float(share.max())}


def _by_step(
    frozen: Frozen, objective: Any, methods: dict[str, Method], given: dict[str, Array], of: dict[str, Points],
    baseline: str, draws: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """All metrics by step and method; the model's rows tell its difference to the best baseline as well."""
    rows = []
    for h in range(frozen.data.spec.horizon):
        block = np.where(frozen.where[1] == h, frozen.block, -1)
        at = {"step": h + 1, "minutes": (h + 1) * frozen.data.spec.step_s // 60}
        if not (block >= 0).any():
            continue
        for name, answer in given.items():
            scores = objective.score(answer[:, h : h + 1], frozen.truth[:, h : h + 1], methods[name].aux)
            more = {}
            if name == "model":
                found = points.compare(of["model"], of[baseline], block, draws)
                more = {"baseline": baseline, **{k: found[k] for k in ("difference", "low", "high")}}
            rows.append({**at, "method": name, **scores, **more})
    return rows


def _mean_error(objective: Any, answer: Array, frozen: Frozen, method: Method, group: Array) -> Array:
    errors = points.Errors(objective.errors(answer, frozen.truth, method.aux)[frozen.where])
    return errors.value(errors.sums(group, 24))
