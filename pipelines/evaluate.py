"""bundle + frozen test → metrics/evaluate/<task>.json and plots: the model beside every baseline."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import figures, objectives
from pipelines.models.data import Windows
from pipelines.models.evaluation import alarms, forecasts, frozen
from pipelines.models.evaluation.methods import Answer, Method, baselines
from pipelines.release.predictor import CHUNK, Predictor

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Score `key` on its test period, once. Raises UserError when the bundle is missing or there is no test data."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    with log.room("evaluate", key) as told:
        predictor = Predictor.load(paths.task(key))
        data = _windows(key, paths, predictor)
        aux = {**predictor.config["aux"], "reference": predictor.tables["reference"][: data.targets]}
        judge = _alarms if "alarm" in objectives.of(task).CALIBRATION else _forecasts
        report = {"task": key, **judge(task, predictor, data, aux, paths.plots("evaluate", key))}
        files.write_json(paths.metrics("evaluate", key), report)
        primary = report["primary"]
        rivals = {k: v[primary] for k, v in report.items() if isinstance(v, dict) and primary in v}
        told.update({name: f"{value:.4g}" for name, value in rivals.items()} | {"metric": primary})


def _windows(key: str, paths: Paths, predictor: Predictor) -> Windows:
    """The task's joined data in the bundle's own windows."""
    if not (paths.joined(key) / "roles.json").exists():
        raise UserError(f"{paths.joined(key)}: no joined data; run `cityloop join {key}` first")
    data = Windows.of_task(paths.joined(key), predictor.spec, predictor.reconstruct)
    have = list(zip(data.channel("sensor"), data.channel("kind"), strict=True))
    if have != [(c["sensor"], c["kind"]) for c in predictor.channels]:
        raise UserError(
            f"{paths.task(key)}: this bundle reads other channels than {paths.joined(key)}; run finetune again"
        )
    return data


def _answer(predictor: Predictor, data: Windows) -> Answer:
    """The bundle's own answers to windows that begin at given rows."""

    def answer(rows: Array) -> Array:
        parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
        return np.concatenate([predictor.predict(data.given(p), data.starts(p)) for p in parts])

    return answer


def _forecasts(task: Task, predictor: Predictor, data: Windows, aux: dict[str, Any], plots: Path) -> dict[str, Any]:
    objective, settings = objectives.of(task), task.evaluate
    stride = int(settings.stride.total_seconds() // data.spec.step_s) if settings.stride else data.spec.horizon
    test = frozen.Frozen.of(data, objective, aux, max(1, stride), settings.points)
    aux = {**aux, "naive": frozen.naive_error(data), "std": data.std[: data.targets]}
    model = Method(_answer(predictor, data), {**aux, "decision": predictor.tables.get("decision", 1)})
    methods = {"model": model, **baselines(data, objective, aux)}
    given = {name: method.answer(test.rows) for name, method in methods.items()}
    judged = forecasts.judge(test, objective, methods, given, settings.bootstrap)
    files.write_json(plots / "by_step.json", judged.by_step)
    figures.overview(plots / "0_overview.png", plots.name, judged)
    if "decision" in objective.CALIBRATION:
        chosen = objective.chosen(given["model"], model.aux)
        figures.confusion(plots / "confusion.png", chosen, test.truth, objective.names(aux))
    else:
        figures.example(plots / "example.png", given["model"], test.values, test.issued, data)
    return judged.report


def _alarms(task: Task, predictor: Predictor, data: Windows, aux: dict[str, Any], plots: Path) -> dict[str, Any]:
    objective, alarm = objectives.of(task), predictor.config["alarm"]
    methods = {"model": Method(_answer(predictor, data), aux), **baselines(data, objective, aux)}
    found = alarms.judge(data, objective, methods, predictor.tables["misfit"], alarm, task.evaluate.bootstrap)
    figures.alarms(plots / "alarms.png", found.scores["model"], found.label, alarm["threshold"], data)
    figures.overview_alarms(plots / "0_overview.png", plots.name, found)
    return found.report
