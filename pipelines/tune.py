"""A search for a task's fine-tuning settings, judged by validation alone. An effect: outside DVC, goes on when stopped.

Optuna tries learning rate, batch, steps, method and rank (TPE, Bergstra et al., 2011) and stops trials that are worse
than the median of the others at the same step. Nothing of a stage is written: the trials lie in the city's state, under
`tune/<task>-<metric>.json`, and in MLflow where that is installed. What was found is taken over by hand, or tried by
`dvc exp run`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Finetune, Task
from pipelines.core.paths import Paths
from pipelines.models import beginning, objectives
from pipelines.models.data import Windows
from pipelines.release.store import Store

BATCHES, STEPS, RANKS = (4, 8, 16, 32), (75, 150, 300, 600), (1, 2, 4)
METHODS = ("full", "lora")
FIRST = 5
"""Trials that are drawn at random, and not stopped early, before any is judged by others."""


def run(key: str, trials: int, metric: str, *, root: Path = Path()) -> str:
    """Search until `trials` have ended, those of earlier calls on the same data included; what tries the best of them.

    metric: `loss`, or the objective's own on validation windows. Raises UserError for another one.
    """
    city, paths = params.load(root), Paths(root)
    task = city.trained(key)
    if task.modality != "series":
        raise UserError(f"tasks.{key}: tune searches settings of series tasks; this one is of {task.modality}")
    own = objectives.of(task)
    names = ("loss",) if "alarm" in own.CALIBRATION else ("loss", own.PRIMARY)
    if metric not in names:
        raise UserError(f"--metric {metric}: {key} is judged on validation by {' or '.join(names)}")
    with log.room("tune", key) as told:
        data = beginning.task_windows(city, task, paths.learn(key))
        init = Store.of(paths).fetch(key, task.finetune.init) if task.finetune.init else None
        begin = beginning.Beginning.of(city, task, data, paths.backbone(task.backbone), init)
        name = f"{key}-{metric}-{_identity(task, begin, paths.learn(key), data.since)[:12]}"
        study = _study(paths, key, name, task.finetune)
        _search(study, trials, lambda trial: _try(trial, task, data, begin, metric))
        table = _table(study)
        files.write_json(
            paths.state / "tune" / f"{key}-{metric}.json", {"study": name, "metric": metric, "trials": table}
        )
        _publish(paths, key, name, metric, table)
        done = [t for t in study.trials if t.state.name == "COMPLETE"]
        if not done:
            raise UserError(f"tune {key}: no trial was finished; give more --trials")
        best = study.best_trial
        told.update(trials=len(study.trials), finished=len(done), best=f"{best.user_attrs['score']:.4f}", metric=metric)
    return f"dvc exp run --temp {_overrides(key, task, best.params)} evaluate@{key}"


def _overrides(key: str, task: Task, found: dict[str, Any]) -> str:
    """As `dvc exp run` takes them; a key that does not stand in params.yaml yet is added by a plus."""
    words = []
    for name, value in found.items():
        plus = "" if name in task.finetune.model_fields_set else "+"
        words.append(f"-S '{plus}tasks.{key}.finetune.{name}={f'{value:.3g}' if isinstance(value, float) else value}'")
    return " ".join(words)


def _identity(task: Task, begin: beginning.Beginning, joined: Path, since: int | None) -> str:
    """What makes trials comparable: the question, where training begins, and the data."""
    asked = task.model_dump(mode="json", exclude={"evaluate", "gate"})
    data = {p.relative_to(joined).as_posix(): files.sha256_file(p) for p in sorted(joined.rglob("*")) if p.is_file()}
    return files.sha256_json([asked, begin.backbone, data, since])


def _study(paths: Paths, key: str, name: str, base: Finetune) -> Any:
    """The trials so far; the first is of the settings as they stand."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = paths.state / "tune" / f"{key}.db"
    where.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=f"sqlite:///{where}", load_if_exists=True, direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=min(STEPS) // 2),
    )  # fmt: skip
    # One that goes on draws other numbers than it began with, and the same whenever it goes on from there.
    study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(study.trials), n_startup_trials=FIRST)
    if not study.trials:
        study.enqueue_trial({k: getattr(base, k) for k in ("learning_rate", "batch", "steps", "method", "rank")})
    return study


def _search(study: Any, trials: int, attempt: Callable[[Any], float]) -> None:
    """Until `trials` have ended; a trial that a killed process left behind does not count."""
    ended = [t for t in study.trials if t.state.is_finished()]
    with log.Progress(f"tune {study.study_name}", trials, "trials") as shown:
        shown.add(min(len(ended), trials))

        def tell(study: Any, trial: Any) -> None:
            score = trial.user_attrs.get("score")
            note = f"trial {trial.number} {trial.state.name.lower()}" + (f" {score:.4f}" if score is not None else "")
            shown.add(1, note)
            log.logger.info("%s: %s", note, ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                                                      for k, v in trial.params.items()))  # fmt: skip

        study.optimize(attempt, n_trials=max(0, trials - len(ended)), callbacks=[tell], catch=(UserError,))


def _try(trial: Any, task: Task, data: Windows, begin: beginning.Beginning, metric: str) -> float:
    """Train with what `trial` suggests; its validation error, lower is better."""
    import optuna

    from pipelines.models.adapt import Adaptation

    adapted = Adaptation.prepare(
        task.model_copy(update={"finetune": _suggest(trial, task.finetune)}),
        data, begin.config, begin.weights, begin.start,
    )  # fmt: skip
    pruned = False

    def enough(row: dict[str, float]) -> bool:
        nonlocal pruned
        trial.report(row["validation_loss"], int(row["step"]))
        pruned = bool(trial.should_prune())
        return pruned

    adapted.train(f"tune {trial.number}", enough=enough)
    # A training's own curve looks at channels and batches that its settings draw: here all are judged alike.
    score = adapted.errors_by_period()["new"][metric]
    trial.set_user_attr("score", score)
    if pruned:
        raise optuna.TrialPruned
    return -score if metric != "loss" and adapted.objective.HIGHER_IS_BETTER else score


def _suggest(trial: Any, base: Finetune) -> Finetune:
    """Settings beside those in params.yaml; `head`, `adalora` and scratch stay what they are."""
    more: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", base.learning_rate / 8, base.learning_rate * 8, log=True),
        "batch": trial.suggest_categorical("batch", sorted({*BATCHES, base.batch})),
        "steps": trial.suggest_categorical("steps", sorted({*STEPS, base.steps})),
    }
    if not base.scratch and base.method in METHODS:
        more["method"] = trial.suggest_categorical("method", METHODS)
    if more.get("method", base.method) in ("lora", "adalora"):
        more["rank"] = trial.suggest_categorical("rank", sorted({*RANKS, base.rank}))
    # One process a trial: what is tried is a small thing.
    return base.model_copy(update={**more, "devices": 1, "nodes": 1, "strategy": "auto"})


def _table(study: Any) -> list[dict[str, Any]]:
    """A row a trial, in order."""
    return [
        {
            "number": t.number,
            "state": t.state.name.lower(),
            "params": t.params,
            "score": t.user_attrs.get("score"),
            "curve": [{"step": s, "validation_loss": v} for s, v in sorted(t.intermediate_values.items())],
        }
        for t in study.trials
        if t.state.is_finished()
    ]


def _publish(paths: Paths, key: str, name: str, metric: str, table: list[dict[str, Any]]) -> None:
    """A run for the search and within it one a trial; where MLflow does not answer, the file has it all."""
    from pipelines.core.tracking import Point, connect

    try:
        with connect(paths) as tracking:
            experiment = tracking.experiment(f"cityloop/{key}-tune")
            parent = tracking.run(experiment, name, f"tune {key}")
            tracking.log(parent, {"task": key, "metric": metric}, [Point("trials", len(table), len(table))])
            for row in table:
                run = tracking.run(experiment, f"{name}-{row['number']}", f"trial {row['number']}")
                tracking.tag_run(run, {"mlflow.parentRunId": parent.info.run_id, "state": row["state"]})
                points = [Point("validation_loss", r["validation_loss"], r["step"]) for r in row["curve"]]
                score = [Point(f"validation_{metric}", row["score"])] if row["score"] is not None else []
                tracking.log(run, row["params"], points + score)
                tracking.finish(run)
            tracking.finish(parent)
    except UserError as error:
        log.logger.warning("tune %s: not in MLflow: %s", key, error)
