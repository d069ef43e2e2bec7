"""backbone + joined → models/tasks/<task>/: adapt the backbone to a task and export the bundle."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Task
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec
from pipelines.models import objectives
from pipelines.models.data import Windows
from pipelines.release import bundle

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Fine-tune `key`. Raises UserError when the backbone or the joined data are missing or do not fit the task."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    with log.room("finetune", key) as told:
        data = task_windows(city, task, paths.joined(key))
        folder, asked = paths.backbone(task.backbone), city.backbone(task.backbone)
        weights = folder / "weights.safetensors"
        if not weights.exists():
            raise UserError(f"{folder}: no backbone; run `cityloop pretrain {task.backbone}` first")
        config = files.read_json(folder / "config.json")
        is_, wants = (config["size"], config["family"]), (asked.size, asked.family)
        if is_ != wants:
            raise UserError(
                f"{folder}: this backbone is a {' '.join(is_)}, params.yaml asks for a {' '.join(wants)}; "
                f"run `cityloop pretrain {task.backbone}` again"
            )

        from pipelines.models import package
        from pipelines.models.adapt import Adaptation

        adapted = Adaptation.prepare(task, data, config, None if task.finetune.scratch else weights)
        keep = adapted.train(f"finetune {key}", paths)
        contents, chosen = package.contents(adapted)
        about = {
            "task": key,
            "department": task.department,
            "question": task.question,
            "target": task.target.model_dump(),
            "inputs": [more.model_dump() for more in task.inputs],
            "backbone": {
                **config,
                "name": task.backbone,
                "sha256": "scratch" if task.finetune.scratch else files.sha256_file(weights),
            },
            **chosen,
        }
        contents["config.json"] = files.to_json({**package.describe(adapted), **about})
        digest = bundle.write(paths.task(key), contents)
        report = {
            "train": {"loss": keep.curve[-1]["train_loss"]},
            "validation": {"loss": keep.best, "loss_untrained": keep.curve[0]["validation_loss"]},
            "parameters": adapted.parameters(),
            "trained_parameters": adapted.parameters(trained=True),
            "steps": keep.curve[-1]["step"],
        }
        files.write_json(paths.metrics("finetune", key), report)
        files.write_json(paths.plots("finetune", key) / "curve.json", keep.curve)
        keep.forget()
        told.update(digest=digest[:12], validation_loss=f"{keep.best:.4f}", steps=report["steps"])


def task_windows(city: Params, task: Task, folder: Path) -> Windows:
    """The task's target and input columns, cut as its context and horizon say."""
    if not (folder / "roles.json").exists():
        raise UserError(f"{folder}: no joined data; run `cityloop join {folder.name}` first")
    source = city.source(task.target.source)
    objective = objectives.of(task)
    spec = Spec.of(
        int(source.step.total_seconds()),
        task.context // source.step,
        task.horizon // source.step,
        city.timezone(task.target.source),
        city.city.holidays,
        objective.BOTH_SIDES,
    )
    if objective.RECONSTRUCT and spec.horizon != spec.future:
        hours = spec.patch * spec.step_s / 3600
        raise UserError(
            f"tasks.{folder.name}.horizon: give a multiple of {hours:g} h: readings are answered so many at once"
        )
    data = Windows.of_task(folder, spec, objective.RECONSTRUCT)
    if data.known < spec.patch or (objective.BOTH_SIDES and not spec.after):
        least = "three times" if objective.BOTH_SIDES else "twice"
        raise UserError(f"tasks.{folder.name}.context: too short for its horizon; give at least {least} the horizon")
    return data
