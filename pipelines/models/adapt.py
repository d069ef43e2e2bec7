"""Adapting a backbone to one task: ridge anchor and training; `package` makes a bundle of it.

With few labels (`labels`), answers are learnt from the latest windows of the training period alone, by the anchor as by
the gradients: a department that has just begun to ask has a recent stretch. What needs no answer to be known still
comes from the whole training period: each channel's mean, spread, usual week and reference, and the readings before
the first answer. Validation is as ever.

Training may go on from a bundle (`Start`): then its anchor, head and backbone are where it starts, and it learns from
windows whose answers came after that bundle's own training. Where the city changed (`Windows.since`), nothing is learnt
from answers of before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from torch import Tensor

from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import anchor, export, families, lit, objectives, vocabulary
from pipelines.models.anchor import Anchor
from pipelines.models.beginning import Start, training_end
from pipelines.models.data import Windows, spread_out, strangers
from pipelines.models.near import Near
from pipelines.models.ridge import profile_noise
from pipelines.models.series import TaskModel
from pipelines.models.tokens import Config
from pipelines.models.tuning import Tuning

Array = np.ndarray[Any, Any]
CHANNELS = 64
"""At most so many channels in a training window: the others wait for another draw."""
HELD_WINDOWS = 96
"""Validation windows looked at while training."""
PER_CHANNEL = ("mean", "std", "place", "kind", "sensor", "unit_id", "near", "close", "ahead", "peers", "weights",
               "peered", "reference", "unit")  # fmt: skip


@dataclass(frozen=True)
class Lessons:
    """First rows of the windows to learn from: those after a bundle's training (all, without one), and those before.

    held: of the windows to judge by while learning.
    """

    new: Array
    old: Array
    held: Array

    @classmethod
    def of(cls, data: Windows, labels: float, since: np.datetime64 | None = None) -> "Lessons":
        """The latest `labels` (a share up to 1, or a count) of the training windows whose answers begin at `since`.

        Raises UserError when there are none, or fewer than the count.
        """
        rows = data.rows("train", 1)
        new, old = rows, rows[:0]
        if since is not None:
            first = math.ceil((since - data.series.start) / data.series.step) - data.known
            new, old = rows[rows >= first], rows[rows + data.spec.horizon + data.spec.after <= first]
        if not len(new):
            raise UserError(
                f"{data.series.folder}: training ends at {training_end(data)}, and finetune.init was trained until "
                f"{since}: nothing new to learn; move the source's validation_from, or leave init out"
            )
        count = math.ceil(labels * len(new)) if labels <= 1 else int(labels)
        if count > len(new):
            raise UserError(f"finetune.labels: {count} windows, but only {len(new)} may be learnt from; ask for fewer")
        return cls(new[len(new) - count :], old, data.rows("validation", 1))

    def rehearsal(self, data: Windows) -> "Lessons | None":
        """To learn from the first three quarters and be judged by the last one, as later by validation.

        None when either would hold no window that is read for half of what is asked.
        """
        cut, asked = len(self.new) * 3 // 4, data.spec.horizon + data.spec.after
        # What a judged window asks for, no window learnt from may tell.
        parts = self.new[: max(0, cut - asked + 1)], self.new[cut:]
        if not all(_tell(data, rows) for rows in parts):
            return None
        return Lessons(parts[0], self.old, parts[1])

    def draw(self, rng: np.random.Generator, size: int, replay: float) -> Array:
        """`size` rows, the share `replay` of them old ones (at least one, and never all)."""
        again = min(max(1, round(replay * size)), size - 1) if replay and size > 1 else 0
        return np.concatenate(
            [rng.choice(self.new, size - again), rng.choice(self.old, again) if again else self.old[:0]]
        )


@dataclass
class Adaptation:
    """A task's data, its untrained or trained model, and what belongs to each channel."""

    task: Task
    data: Windows
    objective: Any
    model: TaskModel
    aux: dict[str, Any]
    """Class names and edges; `noise` [H]."""
    channels: dict[str, Array]
    """PER_CHANNEL arrays, each [N, …]."""
    lessons: Lessons
    tuning: Tuning
    fitted: bool
    """Whether the anchor is a ridge solved on the windows learnt from."""

    @cached_property
    def near(self) -> Near:
        return Near(self.data)

    @classmethod
    def prepare(
        cls, task: Task, data: Windows, config: dict[str, Any], weights: Path | None, start: Start | None = None,
        lessons: Lessons | None = None,
    ) -> "Adaptation":  # fmt: skip
        """The model before training: it answers as its anchor does, see `TaskModel`, or as `start` did.

        `weights` None: a new backbone, drawn from the task's seed, with the same anchor and the same zero head as a
        pretrained one has: as good a start as scratch can have. `lessons` None: all that the task's settings allow.
        """
        objective = objectives.of(task)
        torch.manual_seed(task.finetune.seed)
        backbone = families.build(Config.from_json(config))
        if weights is not None:
            backbone.load_state_dict(load_file(weights))
        channels = {
            "mean": data.mean,
            "std": data.std,
            **vocabulary.numbers(data, backbone.config),
            **Near(data).among(),
            "ahead": data.drivers,
            "reference": reference(data),
            "unit": units(data),
        }
        after = [start.until] if start else []
        after += [] if data.since is None else [data.series.start + data.since * data.series.step]
        lessons = lessons or Lessons.of(data, task.finetune.labels, max(after, default=None))
        if task.finetune.replay and not len(lessons.old):
            raise UserError("finetune.replay: no training window lies before what finetune.init was trained until")
        fitted = Anchor.fit(data, lessons.new, lessons.held) if objective.ANCHOR == "ridge" and not start else None
        if fitted:
            channels |= fitted.channels
        else:
            channels |= anchor.of_bundle(data, start.folder) if start else anchor.none(data)
        data = replace(data, peers=(channels["peers"], channels["weights"]))
        aux: dict[str, Any] = {"noise": fitted.ridge.noise if fitted else _noise(data, start)}
        if task.classes:
            aux |= {"names": list(task.classes.names), "edges": list(task.classes.edges)}
        if hasattr(objective, "network"):
            model = objective.network(backbone, data.spec, aux)
        else:
            model = TaskModel(backbone, data.spec, objective.outputs(aux), data.reconstruct, data.drivers.shape[1])
            # The anchor is already the best of its kind; a few noisy steps would only spoil it.
            for layer in (model.anchor, model.drivers):
                if layer is not None:
                    layer.requires_grad_(False)
        if fitted:
            model.anchor_on(fitted.ridge.weight, fitted.ridge.bias)
        if start:
            _load(model, start.folder / "weights.safetensors")
        tuning = Tuning.apply(model, task.finetune, start is not None)
        return cls(task, data, objective, model, aux, channels, lessons, tuning, fitted is not None)

    def train(
        self, what: str, paths: Paths | None = None, enough: lit.Enough | None = None, alone: bool = False
    ) -> lit.Trained:
        """Train in place; the model keeps its best weights, the untrained ones included.

        `enough`, `alone`: see `lit.train`.
        """
        settings = self.tuning.settings

        def draw(step: int, part: int, parts: int) -> dict[str, Tensor]:
            rng = np.random.default_rng([settings.seed, step])
            chosen = self.lessons.draw(rng, settings.batch, settings.replay)
            batch = self._batch(chosen[part::parts], rng, training=True)
            if hasattr(self.objective, "draw"):
                epsilon = self.objective.draw(rng, self.model, settings.batch, batch["values"].shape[-1])
                batch["epsilon"] = torch.from_numpy(epsilon[part::parts])
            return batch

        held_rows = spread_out(self.lessons.held, HELD_WINDOWS)
        rng = np.random.default_rng(settings.seed)
        held = [self._batch(held_rows[i :: len(held_rows) // settings.batch or 1], rng)
                for i in range(len(held_rows) // settings.batch or 1)]  # fmt: skip
        trained = lit.train(
            self.model, self._training_loss, draw, held, settings, what, paths=paths, after=self.tuning.after,
            enough=enough, alone=alone,
        )  # fmt: skip
        self.tuning.merge()
        return trained

    def _batch(self, rows: Array, rng: np.random.Generator | None, training: bool = False) -> dict[str, Tensor]:
        """`rng` None: with all channels."""
        columns = self.near.some_columns(rng, CHANNELS) if rng else np.arange(len(self.data.columns))
        batch = self.data.batch(rows, columns)
        batch |= {k: v[columns] for k, v in self.channels.items() if k not in ("near", "close")}
        batch |= self.near.among(columns)
        if rng and training:
            batch["sensor"] = strangers(rng, batch["sensor"])
        n = batch["truth"].shape[-1]
        truth = self.objective.truth(batch["truth"], {**self.aux, "reference": batch["reference"][:n]})
        seen = np.isfinite(truth)
        if self.data.labels:  # what is normal is learnt from what nobody labelled as an anomaly
            seen &= ~(self.data.labelled(rows)[..., columns[:n]] > 0.5)
        batch |= {"truth": np.nan_to_num(truth).astype(np.float32), "seen": seen.astype(np.float32)}
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in batch.items()}

    def _parts(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Anchor, raw head outputs and scale of the targets, and their `aux`."""
        n = batch["truth"].shape[-1]
        noise = {"epsilon": batch["epsilon"]} if "epsilon" in batch else {}
        anchor, raw, scale = self.model(*(batch[k] for k in export.INPUTS if k != "reference"), **noise)
        aux = {**self.torch_aux(), "reference": batch["reference"][:n]}
        return anchor[..., :n], raw[:, :, :n], scale[..., :n], aux

    def _answer(self, batch: dict[str, Tensor]) -> Tensor:
        answer: Tensor = self.objective.answer(*self._parts(batch))
        return answer

    @torch.no_grad()
    def misses(self, rows: Array, shares: Sequence[float]) -> Array:
        """Of windows that begin at `rows`, what each part of the answer that is judged apart misses with each of
        `shares` of the head's correction, [shares, parts]: sums over the same points."""
        total: Any = 0.0
        for i in range(0, len(rows), 16):
            batch = self._batch(rows[i : i + 16], None)
            anchor, raw, scale, aux = self._parts(batch)
            told = (batch["truth"], batch["unit"][: batch["truth"].shape[-1]], aux)
            missed = [self.objective.misses(self.objective.answer(anchor, raw * s, scale, aux), *told) for s in shares]
            total = total + (torch.stack(missed) * batch["seen"][..., None]).sum((1, 2, 3)).double().numpy()
        found: Array = total
        return found

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        n, answer = batch["truth"].shape[-1], self._answer(batch)
        aux = {**self.torch_aux(), "reference": batch["reference"][:n]}
        loss: tuple[Tensor, Tensor] = self.objective.loss(answer, batch["truth"], batch["seen"], batch["unit"][:n], aux)
        return loss

    def _training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """With what the method adds, where gradients are asked for: validation is without."""
        total, weight = self._loss(batch)
        return (total + weight * self.tuning.penalty() if torch.is_grad_enabled() else total), weight

    def errors_by_period(self) -> dict[str, dict[str, float]]:
        """`errors` of windows spread over what a bundle gone on from was trained on, and over validation."""
        rows = {"old": self.lessons.old, "new": self.data.rows("validation", 1)}
        return {name: self.errors(spread_out(r, HELD_WINDOWS)) for name, r in rows.items() if len(r)}

    def errors(self, rows: Array) -> dict[str, float]:
        """Loss of windows that begin at `rows`, and the objective's main metric where a window tells it.

        Answers are the model's own, without calibration.
        """
        total, weight, answers, truths = 0.0, 0.0, [], []
        aux = {**self.aux, "reference": self.channels["reference"][: self.data.targets]}
        with torch.no_grad():
            for i in range(0, len(rows), 16):
                batch = self._batch(rows[i : i + 16], None)
                answer, (part, points) = self._answer(batch), self._loss(batch)
                total, weight = total + float(part), weight + float(points)
                answers.append(answer.numpy())
                truths.append(np.where(batch["seen"].numpy() > 0, batch["truth"].numpy(), np.nan))
        found = {"loss": total / max(weight, 1e-6)}
        if "alarm" not in self.objective.CALIBRATION:
            name = self.objective.PRIMARY
            found[name] = self.objective.score(np.concatenate(answers), np.concatenate(truths), aux)[name]
        return found

    def torch_aux(self) -> dict[str, Any]:
        """`aux` as tensors, where the model is."""
        device = next(self.model.parameters()).device
        return {k: torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v for k, v in self.aux.items()}


def _tell(data: Windows, rows: Array) -> bool:
    """Whether any of windows that begin at `rows` is read for more than half of what is asked of some target."""
    batches = data.batches(spread_out(rows, HELD_WINDOWS), 16)
    return any(bool((np.isfinite(b["truth"]).mean(1) > 0.5).any()) for b in batches)


def _noise(data: Windows, start: Start | None) -> Array:
    if start:
        return load_arrays(start.folder / "tables.safetensors")["noise"]
    return profile_noise(data.batches(spread_out(data.rows("validation", 1), HELD_WINDOWS), 64), data.known)


def _load(model: Any, weights: Path) -> None:
    """A bundle's weights. Raises UserError when the task's model has other ones."""
    try:
        model.load_state_dict(load_file(weights))
    except RuntimeError as error:
        what = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise UserError(f"finetune.init: the bundle's weights are not this task's: {what}") from None


def reference(data: Windows) -> Array:
    """90th percentile of each channel over the training period, float32 [N]; 1 where there is nothing to go by."""
    lo, hi = data.series.splits["train"]
    rows = np.unique(np.linspace(lo, hi - 1, 20_000).astype(int))
    sample = np.concatenate([data.read(rows[i : i + 2000], 1)[:, 0] for i in range(0, len(rows), 2000)])
    seen = np.isfinite(sample).any(0)
    out = np.ones(sample.shape[1], np.float32)
    out[seen] = np.nanquantile(sample[:, seen], 0.9, axis=0)
    return np.where(np.abs(out) > 1e-6, out, 1).astype(np.float32)


def units(data: Windows) -> Array:
    """The usual spread of each channel's kind, float32 [N]: what errors are divided by, so that kinds count alike."""
    kinds = np.array(data.channel("kind"))
    return np.array([data.std[kinds == k].mean() for k in kinds], np.float32)
