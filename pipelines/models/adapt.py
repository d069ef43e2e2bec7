"""Adapting a backbone to one task: ridge anchor and training; `package` makes a bundle of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import export, families, lit, objectives, vocabulary
from pipelines.models.data import Windows, spread_out, strangers
from pipelines.models.near import Near
from pipelines.models.ridge import Ridge, profile_noise
from pipelines.models.series import TaskModel
from pipelines.models.tokens import Config

Array = np.ndarray[Any, Any]
FIT_WINDOWS = 1500
"""Training windows that the ridge is solved on."""
HELD_WINDOWS = 96
"""Validation windows looked at while training."""
CHANNELS = 64
"""At most so many channels in a training window: the others wait for another draw."""
PER_CHANNEL = ("mean", "std", "place", "kind", "sensor", "unit_id", "near", "close", "ahead", "reference", "unit")


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

    @cached_property
    def near(self) -> Near:
        return Near(self.data)

    @classmethod
    def prepare(cls, task: Task, data: Windows, config: dict[str, Any], weights: Path | None) -> "Adaptation":
        """The model before training: it answers as its anchor does, see `TaskModel`. `weights` None: a new backbone."""
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
        train, held = data.rows("train", 1), data.rows("validation", 1)
        held_batches = list(data.batches(spread_out(held, HELD_WINDOWS), 64))
        ridge = None
        if objective.ANCHOR == "ridge":
            fit = data.batches(spread_out(train, FIT_WINDOWS), 64)
            ridge = Ridge.fit(fit, held_batches, data.known, data.spec.after)
        aux: dict[str, Any] = {"noise": ridge.noise if ridge else profile_noise(held_batches, data.known)}
        if task.classes:
            aux |= {"names": list(task.classes.names), "edges": list(task.classes.edges)}
        if hasattr(objective, "network"):
            model = objective.network(backbone, data.spec, aux)
        else:
            model = TaskModel(backbone, data.spec, objective.outputs(aux), data.reconstruct, data.drivers.shape[1])
            # The anchor is already the best of its kind; a few noisy steps would only spoil it.
            for anchor in (model.anchor, model.drivers):
                if anchor is not None:
                    anchor.requires_grad_(False)
        if ridge:
            model.anchor_on(ridge.weight, ridge.bias)
        if task.finetune.method == "head":
            backbone.requires_grad_(False)
        return cls(task, data, objective, model, aux, channels)

    def train(self, what: str, paths: Paths | None = None) -> lit.Trained:
        """Train in place; the model keeps its best weights, the untrained ones included."""
        settings, data = self.task.finetune, self.data
        rows = data.rows("train", 1)

        def draw(step: int, part: int, parts: int) -> dict[str, Tensor]:
            rng = np.random.default_rng([settings.seed, step])
            chosen = rng.choice(rows, settings.batch)
            batch = self._batch(chosen[part::parts], rng, training=True)
            if hasattr(self.objective, "draw"):
                epsilon = self.objective.draw(rng, self.model, settings.batch, batch["values"].shape[-1])
                batch["epsilon"] = torch.from_numpy(epsilon[part::parts])
            return batch

        held_rows = spread_out(data.rows("validation", 1), HELD_WINDOWS)
        rng = np.random.default_rng(settings.seed)
        held = [self._batch(held_rows[i :: len(held_rows) // settings.batch or 1], rng)
                for i in range(len(held_rows) // settings.batch or 1)]  # fmt: skip
        return lit.train(self.model, self._loss, draw, held, settings, what, paths=paths)

    def _batch(self, rows: Array, rng: np.random.Generator, training: bool = False) -> dict[str, Tensor]:
        columns = self.data.some_columns(rng, CHANNELS)
        batch = self.data.batch(rows, columns)
        batch |= {k: v[columns] for k, v in self.channels.items() if k not in ("near", "close")}
        batch |= self.near.among(columns)
        if training:
            batch["sensor"] = strangers(rng, batch["sensor"])
        n = batch["truth"].shape[-1]
        truth = self.objective.truth(batch["truth"], {**self.aux, "reference": batch["reference"][:n]})
        seen = np.isfinite(truth)
        if self.data.labels:  # what is normal is learnt from what nobody labelled as an anomaly
            seen &= ~(self.data.labelled(rows)[..., columns[:n]] > 0.5)
        batch |= {"truth": np.nan_to_num(truth).astype(np.float32), "seen": seen.astype(np.float32)}
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in batch.items()}

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        n = batch["truth"].shape[-1]
        noise = {"epsilon": batch["epsilon"]} if "epsilon" in batch else {}
        anchor, raw, scale = self.model(*(batch[k] for k in export.INPUTS if k != "reference"), **noise)
        aux = {**self.torch_aux(), "reference": batch["reference"][:n]}
        answer = self.objective.answer(anchor[..., :n], raw[:, :, :n], scale[..., :n], aux)
        loss: tuple[Tensor, Tensor] = self.objective.loss(answer, batch["truth"], batch["seen"], batch["unit"][:n], aux)
        return loss

    def torch_aux(self) -> dict[str, Any]:
        """`aux` as tensors, where the model is."""
        device = next(self.model.parameters()).device
        return {k: torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v for k, v in self.aux.items()}

    def parameters(self, *, trained: bool = False) -> int:
        """How many numbers the model has, or how many of them training may change."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or not trained)


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
