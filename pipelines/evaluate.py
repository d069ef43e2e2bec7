"""bundle + frozen test → metrics/evaluate/<task>.json and plots: the model beside last value, profile and ridge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import answers as core_answers
from pipelines.core import files, log, metrics, params
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import detect, figures, objectives
from pipelines.models.data import Windows, spread_out
from pipelines.models.ridge import Ridge
from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
Answer = Callable[[Array], Array]
METHODS = ("model", "last_value", "profile", "ridge")
FIT_WINDOWS, HELD_WINDOWS = 1500, 96


def run(key: str, *, root: Path = Path()) -> None:
    """Score `key` on its test period, once. Raises UserError when the bundle is missing or there is no test data."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    with log.room("evaluate", key) as told:
        predictor = Predictor.load(paths.task(key))
        if not (paths.joined(key) / "roles.json").exists():
            raise UserError(f"{paths.joined(key)}: no joined data; run `cityloop join {key}` first")
        data = Windows.of_task(paths.joined(key), predictor.spec, predictor.reconstruct)
        have = list(zip(data.channel("sensor"), data.channel("kind"), strict=True))
        if have != [(c["sensor"], c["kind"]) for c in predictor.channels]:
            raise UserError(
                f"{paths.task(key)}: this bundle reads other channels than {paths.joined(key)}; run finetune again"
            )
        answers = _answers(task, predictor, data)
        judge = _anomaly if "alarm" in objectives.of(task).CALIBRATION else _forecast
        report = judge(key, task, predictor, data, answers, paths.plots("evaluate", key))
        files.write_json(paths.metrics("evaluate", key), report)
        primary = report["primary"]
        told.update({name: f"{report[name][primary]:.4g}" for name in METHODS} | {"metric": primary})


def _answers(task: Task, predictor: Predictor, data: Windows) -> dict[str, Answer]:
    """What each method answers for windows that begin at given rows, [B, H, targets, names]."""
    objective, n = objectives.load(task.objective), data.targets
    aux = _aux(predictor, n)
    train, held = data.rows("train", 1), data.rows("validation", 1)
    ridge = Ridge.fit(
        data.batches(spread_out(train, FIT_WINDOWS), 64),
        list(data.batches(spread_out(held, HELD_WINDOWS), 64)),
        data.known,
        data.spec.after,
    )

    def in_parts(one: Callable[[dict[str, Array]], Array]) -> Answer:
        def answer(rows: Array) -> Array:
            return np.concatenate([objective.from_values(one(b), aux) for b in data.batches(rows, 64)])

        return answer

    def model(rows: Array) -> Array:
        parts = [rows[i : i + 64] for i in range(0, len(rows), 64)]
        return np.concatenate([predictor.predict(data.read(p, data.spec.context), data.starts(p)) for p in parts])

    return {
        "model": model,
        "last_value": in_parts(lambda b: objective.baselines(b, data.spec, data.known, n)["last_value"]),
        "profile": in_parts(lambda b: objective.baselines(b, data.spec, data.known, n)["profile"]),
        "ridge": in_parts(lambda b: ridge.predict(b, n)),
    }


def _aux(predictor: Predictor, n: int) -> dict[str, Any]:
    return {**predictor.config["aux"], "reference": predictor.tables["reference"][:n]}


def _silent(data: Windows) -> UserError:
    return UserError(f"{data.series.folder}: no target was read in the test period; move the window's end or the dates")


def _period(data: Windows, forecasts: int, points: int) -> dict[str, Any]:
    lo, hi = data.series.splits["test"]
    first, last = data.series.times(lo, lo + 1)[0], data.series.times(hi, hi + 1)[0]
    return {"from": str(first), "until": str(last), "forecasts": forecasts, "points": points}


def _forecast(
    key: str, task: Task, predictor: Predictor, data: Windows, answers: dict[str, Answer], plots: Path
) -> dict[str, Any]:
    objective = objectives.load(task.objective)
    aux = _aux(predictor, data.targets)
    step = data.spec.step_s
    stride = int(task.evaluate.stride.total_seconds() // step) if task.evaluate.stride else data.spec.horizon
    rows = data.rows("test", max(1, stride))
    values = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    truth = objective.truth(values, aux)
    if not np.isfinite(truth).any():
        raise _silent(data)
    given = {name: answers[name](rows) for name in METHODS}
    issued = data.starts(rows + data.known)
    report: dict[str, Any] = {
        "task": key,
        "primary": objective.PRIMARY,
        "higher_is_better": objective.HIGHER_IS_BETTER,
        "test": _period(data, len(rows), int(np.isfinite(truth).sum())),
    }
    by_step = []
    with_decision = {**aux, "decision": predictor.tables.get("decision", 1)}
    of = {name: with_decision if name == "model" else aux for name in METHODS}
    for name, answer in given.items():
        left_out = () if name == "model" else objective.MODEL_ONLY
        scores = objective.score(answer, truth, of[name])
        report[name] = {k: v for k, v in scores.items() if k not in left_out}
        for h in range(data.spec.horizon):
            scores = objective.score(answer[:, h : h + 1], truth[:, h : h + 1], of[name])
            scores = {k: v for k, v in scores.items() if k not in left_out}
            by_step.append({"step": h + 1, "minutes": (h + 1) * step // 60, "method": name, **scores})
    errors = {name: objective.errors(answer, truth, of[name]) for name, answer in given.items()}
    report["interval"] = {"versus_best_baseline": _versus(report, errors, issued, task.evaluate.bootstrap)}
    files.write_json(plots / "by_step.json", by_step)
    figures.by_step(plots / "by_step.png", by_step, objective.PRIMARY)
    figures.by_hour(plots / "by_hour.png", errors, issued, data)
    if "decision" not in objective.CALIBRATION:
        figures.example(plots / "example.png", given["model"], values, issued, data)
    else:
        figures.confusion(
            plots / "confusion.png", objective.chosen(given["model"], of["model"]), truth, objective.names(aux)
        )
    return report


def _versus(report: dict[str, Any], errors: dict[str, Array], issued: Array, draws: int) -> dict[str, Any]:
    """The model's mean error less that of the baseline with the best primary metric, interval over whole days."""
    sign = -1 if report["higher_is_better"] else 1
    baseline = min(METHODS[1:], key=lambda name: sign * report[name][report["primary"]])
    seen = np.isfinite(errors["model"]) & np.isfinite(errors[baseline])
    model, other = (np.where(seen, errors[name], 0).sum((1, 2)) for name in ("model", baseline))
    days = issued.astype("datetime64[D]").astype(int)
    return {"baseline": baseline, **metrics.block_bootstrap(model, other, seen.sum((1, 2)).astype(float), days, draws)}


def _anomaly(
    key: str, task: Task, predictor: Predictor, data: Windows, answers: dict[str, Answer], plots: Path
) -> dict[str, Any]:
    objective = objectives.load("anomaly")
    report: dict[str, Any] = {
        "task": key,
        "primary": objective.PRIMARY if data.labels else "alarm_rate",
        "higher_is_better": bool(data.labels),
    }
    curves = {}
    for name in METHODS:
        if name == "model":
            noise, chosen = predictor.tables["misfit"], predictor.config["alarm"]
        else:
            noise = detect.usual(answers[name], data)
            chosen = detect.tune(*detect.scores(answers[name], data, "validation", noise), data.spec.horizon)
        score, label = detect.scores(answers[name], data, "test", noise)
        if not np.isfinite(score).any():
            raise _silent(data)
        smooth = core_answers.smooth(score, int(chosen["span"]))
        rate = float((smooth[np.isfinite(smooth)] > chosen["threshold"]).mean())
        report[name] = {"alarm_rate": rate}
        if label is not None:
            report[name] |= objective.score(smooth, label, chosen["threshold"])
        curves[name] = smooth
    report["test"] = _period(data, len(score) // data.spec.patch, int(np.isfinite(curves["model"]).sum()))
    if label is not None:
        report["test"]["positives"] = int((label > 0.5).sum())
    figures.alarms(plots / "alarms.png", curves["model"], label, predictor.config["alarm"]["threshold"], data)
    if label is not None:
        figures.precision_recall(plots / "precision_recall.png", curves, label)
    return report
