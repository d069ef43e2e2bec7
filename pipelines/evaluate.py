"""bundle + frozen test → metrics/evaluate/<task>.json and plots: the model beside every baseline.

Timings go to metrics/latency/<task>.json, which no stage depends on, for they differ from run to run.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Task
from pipelines.core.paths import Paths
from pipelines.models import figures, objectives, probes
from pipelines.models.data import Windows, spread_out
from pipelines.models.evaluation import alarms, forecasts, frozen
from pipelines.models.evaluation.methods import Alone, Answer, Method, baselines, fit_ridge
from pipelines.models.items import drawn, explained, judge, questions
from pipelines.models.items.held import Items
from pipelines.models.ridge import Ridge
from pipelines.release import items, latency
from pipelines.release.predictor import CHUNK, Predictor

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Score `key` on its test period, once. Raises UserError when the bundle is missing or there is no test data."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    with log.room("evaluate", key) as told:
        judge = _series if task.modality == "series" else _items
        report = {"task": key, **judge(city, key, paths)}
        files.write_json(paths.metrics("latency", key), _timings(paths.task(key)))
        files.write_json(paths.metrics("evaluate", key), report)
        primary = report["primary"]
        rivals = {k: v[primary] for k, v in report.items() if isinstance(v, dict) and primary in v}
        told.update({name: f"{value:.4g}" for name, value in rivals.items()} | {"metric": primary})


def _series(city: Params, key: str, paths: Paths) -> dict[str, Any]:
    task, predictor, plots = city.task(key), Predictor.load(paths.task(key)), paths.plots("evaluate", key)
    data = _windows(key, paths, predictor)
    aux = {**predictor.config["aux"], "reference": predictor.tables["reference"][: data.targets]}
    ridge = fit_ridge(data)
    if "alarm" in objectives.of_bundle(predictor.config).CALIBRATION:
        report = _alarms(task, predictor, data, aux, ridge, plots)
    else:
        inputs: dict[str, tuple[str, ...]] = {}
        for chosen in task.inputs:  # a source may be named more than once
            inputs[chosen.source] = inputs.get(chosen.source, ()) + city.kinds(chosen)
        report = _forecasts(task, predictor, data, aux, ridge, plots, inputs)
    return report | _probed(predictor, data, ridge, paths.task(key), plots)


def _items(city: Params, key: str, paths: Paths) -> dict[str, Any]:
    """Of pictures or messages."""
    task, plots = city.task(key), paths.plots("evaluate", key)
    objective = questions.load(task.objective)
    predictor, joined = items.load(paths.task(key)), Items.open(paths.joined(key), key)
    joined.fits(predictor.config, paths.task(key))
    test = judge.asked(objective, joined, "test")
    asks = {"model": objective.ask(predictor), **judge.baselines(objective, joined)}
    judged = judge.judge(objective, test, asks, city.timezone(task.target.source), task.evaluate.bootstrap)
    drawn.draw(plots, key, objective, judged, predictor.config.get("decision") or items.DECISION)
    explained.draw(plots, paths.task(key), predictor.config, judged)
    return {**judged.report, "data": judge.told(objective, joined)}


def _windows(key: str, paths: Paths, predictor: Predictor) -> Windows:
    """The task's joined data in the bundle's own windows, with the channels that it reads."""
    if not (paths.joined(key) / "roles.json").exists():
        raise UserError(f"{paths.joined(key)}: no joined data; run `cityloop join {key}` first")
    data = Windows.of_task(paths.joined(key), predictor.spec, predictor.reconstruct)
    at = {name: i for i, name in enumerate(zip(data.channel("sensor"), data.channel("kind"), strict=True))}
    there = [at.get((c["sensor"], c["kind"]), -1) for c in predictor.channels]
    targets = sum(c["role"] == "target" for c in predictor.channels)
    if -1 in there or max(there[:targets]) >= data.targets:
        raise UserError(
            f"{paths.task(key)}: this bundle reads other channels than {paths.joined(key)}; run finetune again"
        )
    # What has come since the training is not what this bundle is about.
    return replace(
        data,
        columns=tuple(data.columns[i] for i in there),
        targets=targets,
        labels=tuple(data.labels[i] for i in there[:targets]) if data.labels else (),
        ahead=sum(c["role"] == "ahead" for c in predictor.channels),
    )


def _answer(predictor: Predictor, data: Windows, silent: Array | None = None) -> Answer:
    """The bundle's own answers to windows that begin at given rows; `silent`, bool [N]: channels that are missing."""

    def given(rows: Array) -> Array:
        values = data.given(rows)
        return values if silent is None else np.where(silent, np.float32(np.nan), values)

    def answer(rows: Array) -> Array:
        parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
        return np.concatenate([predictor.predict(given(p), data.starts(p)) for p in parts])

    return answer


def _forecasts(
    task: Task,
    predictor: Predictor,
    data: Windows,
    aux: dict[str, Any],
    ridge: Ridge,
    plots: Path,
    inputs: dict[str, tuple[str, ...]],
) -> dict[str, Any]:
    objective, settings = objectives.of_bundle(predictor.config), task.evaluate
    stride = int(settings.stride.total_seconds() // data.spec.step_s) if settings.stride else data.spec.horizon
    test = frozen.Frozen.of(data, objective, aux, max(1, stride), settings.points)
    aux = {**aux, "naive": frozen.naive_error(data), "std": data.std[: data.targets]}
    model = Method(_answer(predictor, data), {**aux, "decision": predictor.tables.get("decision", 1)})
    methods = {"model": model, **baselines(data, objective, aux, ridge)}
    given = {name: method.answer(test.rows) for name, method in methods.items()}
    judged = forecasts.judge(test, objective, methods, given, settings.bootstrap)
    files.write_json(plots / "by_step.json", judged.by_step)
    figures.overview(plots / "0_overview.png", plots.name, judged)
    if "decision" in objective.CALIBRATION:
        chosen = objective.chosen(given["model"], model.aux)
        figures.confusion(plots / "confusion.png", chosen, test.truth, objective.names(aux))
    else:
        figures.example(plots / "example.png", given["model"], test.values, test.issued, data)
    silenced = {source: _answer(predictor, data, _channels(predictor, kinds)) for source, kinds in inputs.items()}
    without = forecasts.without(test, objective, model, given["model"], silenced, settings.bootstrap)
    return judged.report | ({"without_inputs": without} if without else {})


def _channels(predictor: Predictor, kinds: tuple[str, ...]) -> Array:
    """Which channels are inputs of these kinds, bool [N]."""
    return np.array([c["role"] != "target" and c["kind"] in kinds for c in predictor.channels])


def _alarms(
    task: Task, predictor: Predictor, data: Windows, aux: dict[str, Any], ridge: Ridge, plots: Path
) -> dict[str, Any]:
    objective, alarm = objectives.of_bundle(predictor.config), predictor.config["alarm"]
    methods = {"model": Method(_answer(predictor, data), aux), **baselines(data, objective, aux, ridge)}
    found = alarms.judge(data, objective, methods, predictor.tables["misfit"], alarm, task.evaluate.bootstrap)
    figures.alarms(plots / "alarms.png", found.scores["model"], found.label, alarm["threshold"], data)
    figures.overview_alarms(plots / "0_overview.png", plots.name, found)
    return found.report


def _probed(predictor: Predictor, data: Windows, ridge: Ridge, folder: Path, plots: Path) -> dict[str, Any]:
    """How the answers suffer when readings are damaged, and what one of them rests on."""
    from pipelines.models import package

    rows = spread_out(data.rows("test", data.spec.horizon), probes.WINDOWS)
    truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    values, starts, objective = data.given(rows), data.starts(rows), objectives.of_bundle(predictor.config)
    middle, target = len(rows) // 2, int(np.isfinite(truth).sum((0, 1)).argmax())
    one = slice(middle, middle + 1)
    found = probes.explain(package.load(folder), predictor, values[one], starts[one], target)
    probes.plot(plots / "explanation.png", found, predictor)
    return {
        "robustness": probes.robustness(predictor, objective, Alone(ridge), values, starts, truth),
        "explanation": {"of": found.what, "gap": found.gap, "by_kind": found.by(data.channel("kind"))},
    }


def _timings(folder: Path) -> dict[str, Any]:
    """Latency and size of the bundle, and of its smaller variant where it has one."""
    variants = ("float", "int8") if (folder / "model.int8.onnx").exists() else ("float",)
    return {variant: latency.measure(folder, variant) for variant in variants}
