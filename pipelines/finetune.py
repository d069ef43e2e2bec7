"""backbone + joined → models/tasks/<task>/: adapt the backbone to a task and export the bundle."""

from pathlib import Path
from typing import Any

from pipelines.core import files, log, params
from pipelines.core.params import Source, Task
from pipelines.core.paths import Paths
from pipelines.models import beginning
from pipelines.models.made import Tuned
from pipelines.release import bundle
from pipelines.release.store import Store


def run(key: str, *, root: Path = Path()) -> None:
    """Fine-tune `key` from its backbone, or from the bundle that its `init`, or retrain.yaml, names.

    metrics/finetune/<key>.json tells, of a bundle gone on from, the errors before and after on its own training period
    (`old`: what was forgotten) and on validation (`new`), both with today's means, spreads and usual week.
    Raises UserError when backbone, bundle or joined data are missing or do not fit the task.
    """
    city, paths = params.load(root), Paths(root)
    task = city.trained(key)
    if task.modality != "series":
        return _pictures_or_messages(key, task, city.source(task.target.source), paths)
    with log.room("finetune", key) as told:
        data = beginning.task_windows(city, task, paths.learn(key))
        init = Store.of(paths).fetch(key, task.finetune.init) if task.finetune.init else None
        begin = beginning.Beginning.of(city, task, data, paths.backbone(task.backbone), init)

        from pipelines.models import earned, package
        from pipelines.models.adapt import Adaptation, Lessons

        def prepare(lessons: Lessons | None = None) -> Adaptation:
            return Adaptation.prepare(task, data, begin.config, begin.weights, begin.start, lessons)

        adapted = prepare()
        before = adapted.errors_by_period() if begin.start else {}
        keep = adapted.train(f"finetune {key}", paths)
        kept = earned.keep(adapted, prepare, f"finetune {key}, rehearsal")
        since = city.since(key)
        contents, chosen = package.contents(adapted, init)
        about = {
            "task": key,
            "department": task.department,
            "question": task.question,
            "target": task.target.model_dump(),
            "inputs": [more.model_dump() for more in task.inputs],
            "backbone": begin.backbone,
            "init": task.finetune.init,
            "training": {
                "until": beginning.training_end(data),
                "since": f"{since:%FT%T}" if since else None,
                "windows": len(adapted.lessons.new),
            },
            **chosen,
        }
        contents["config.json"] = files.to_json({**package.describe(adapted), **about})
        digest = bundle.write(paths.task(key), contents)
        report: dict[str, Any] = {
            "train": {"loss": keep.curve[-1]["train_loss"]},
            "validation": {"loss": keep.best, "loss_untrained": keep.curve[0]["validation_loss"]},
            "parameters": adapted.tuning.parameters,
            "trained_parameters": adapted.tuning.trained,
            "windows": len(adapted.lessons.new),
            "kept": kept,
            "steps": keep.curve[-1]["step"],
        }
        if begin.start:
            after = adapted.errors_by_period()
            report["continual"] = {name: {"before": before[name], "after": after[name]} for name in before}
            told["new_channels"] = begin.strangers
        files.write_json(paths.metrics("finetune", key), report)
        files.write_json(paths.plots("finetune", key) / "curve.json", keep.curve)
        keep.forget()
        told.update(digest=digest[:12], validation_loss=f"{keep.best:.4f}", steps=report["steps"])


def _pictures_or_messages(key: str, task: Task, source: Source, paths: Paths) -> None:
    with log.room("finetune", key) as told:
        init = Store.of(paths).fetch(key, task.finetune.init) if task.finetune.init else None
        start = None if task.finetune.scratch else paths.backbone(task.backbone)
        made: Tuned
        if task.modality == "image":
            from pipelines.models.image.tuning import finetune as look

            made = look(key, task, paths.learn(key), start, init, paths)
        else:
            from pipelines.models.text.tuning import finetune as read

            made = read(key, task, paths.learn(key), start, init, paths)
        about = {
            "task": key,
            "department": task.department,
            "question": task.question,
            "target": task.target.model_dump(),
            "init": task.finetune.init,
            **({"mask": source.privacy.mask} if task.modality == "text" else {}),  # as the model's texts were
        }
        digest = bundle.write(
            paths.task(key), {**made.contents, "config.json": files.to_json({**made.config, **about})}
        )
        files.write_json(paths.metrics("finetune", key), made.report)
        files.write_json(paths.plots("finetune", key) / "curve.json", made.curve)
        made.forget()
        told.update(digest=digest[:12], validation_loss=f"{made.report['validation']['loss']:.4f}")
