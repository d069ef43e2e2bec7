"""What fine-tuning begins with: a task's windows, and a backbone or a bundle that fits them. No torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Task
from pipelines.core.windows import Spec
from pipelines.models import objectives
from pipelines.models.data import Windows


@dataclass(frozen=True)
class Start:
    """A bundle to go on from, and when its training period ended."""

    folder: Path
    until: np.datetime64


@dataclass(frozen=True)
class Beginning:
    """`backbone`: its config, name and origin (`sha256` of the pretrained weights, or `scratch`)."""

    backbone: dict[str, Any]
    weights: Path | None
    start: Start | None
    strangers: int = 0
    """Channels that the bundle gone on from did not read."""

    @property
    def config(self) -> dict[str, Any]:
        """What it takes to build the backbone again."""
        return {k: v for k, v in self.backbone.items() if k not in ("name", "sha256")}

    @classmethod
    def of(cls, city: Params, task: Task, data: Windows, folder: Path, init: Path | None) -> "Beginning":
        """From the backbone in `folder`, or the verified bundle in `init`.

        Raises UserError when there is none, it is of another size or family than params.yaml asks for, or its answers
        have another shape than the task's.
        """
        if init is not None:
            return _from_bundle(city, task, data, init)
        weights = folder / "weights.safetensors"
        if not weights.exists():
            raise UserError(f"{folder}: no backbone; run `cityloop pretrain {task.backbone}` first")
        config = files.read_json(folder / "config.json")
        _is_asked(str(folder), config, city, task, f"run `cityloop pretrain {task.backbone}` again")
        sha256 = "scratch" if task.finetune.scratch else files.sha256_file(weights)
        origin = {**config, "name": task.backbone, "sha256": sha256}
        return cls(origin, None if task.finetune.scratch else weights, None)


def _is_asked(where: str, config: dict[str, Any], city: Params, task: Task, remedy: str) -> None:
    asked = city.backbone(task.backbone)
    found, wanted = f"{config['size']} {config['family']}", f"{asked.size} {asked.family}"
    if found != wanted:
        raise UserError(f"{where}: this backbone is a {found}, params.yaml asks for a {wanted}; {remedy}")


def _from_bundle(city: Params, task: Task, data: Windows, init: Path) -> Beginning:
    where = f"finetune.init {init.name[:12]}"
    config = files.read_json(init / "config.json")
    if "until" not in config.get("training", {}):
        raise UserError(f"{where}: this bundle does not tell when its training ended; make it again with this version")
    _is_asked(where, config["backbone"], city, task, "leave init out, or name a bundle of that backbone")
    spec = data.spec.to_json()
    ours = {"objective": task.objective, "reconstruct": data.reconstruct, **{k: spec[k] for k in _SHAPE if k in spec}}
    if task.classes:
        ours["names"] = list(task.classes.names)
    theirs = {**config["spec"], **{k: config[k] for k in ("objective", "reconstruct", "names")}}
    for key, value in ours.items():
        if theirs[key] != value:
            raise UserError(
                f"{where}: its {key} is {theirs[key]}, the task's {value}; leave init out, or make them agree"
            )
    have = {(c["sensor"], c["kind"]) for c in config["channels"]}
    new = sum(name not in have for name in zip(data.channel("sensor"), data.channel("kind"), strict=True))
    return Beginning(config["backbone"], None, Start(init, np.datetime64(config["training"]["until"])), new)


_SHAPE = ("step_s", "context", "horizon", "after")


def training_end(data: Windows) -> str:
    """When the training period ends, ISO 8601, UTC: where validation begins."""
    return str((data.series.start + data.series.splits["train"][1] * data.series.step).astype("datetime64[s]"))


def task_windows(city: Params, task: Task, folder: Path) -> Windows:
    """The target and input columns of the task that `folder` is named after, cut as its context and horizon say."""
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
    if (changed := city.since(folder.name)) is not None and (since := data.series.row(changed)) > 0:
        data = replace(data, since=since)
    if data.known < spec.patch or (objective.BOTH_SIDES and not spec.after):
        least = "three times" if objective.BOTH_SIDES else "twice"
        raise UserError(f"tasks.{folder.name}.context: too short for its horizon; give at least {least} the horizon")
    lo, hi = data.series.splits["train"]
    asked = spec.horizon + spec.after
    if hi - lo >= asked and hi - asked - data.known < -data.known // 2:  # see Windows.rows
        most, given = (steps * spec.step_s / 3600 for steps in (2 * (hi - asked), spec.context))
        raise UserError(
            f"tasks.{folder.name}.context: {given:g} h, and half of it must be there before an answer in the training "
            f"period, which allows {most:g} h at most; shorten it, or move the source's dates"
        )
    return data
