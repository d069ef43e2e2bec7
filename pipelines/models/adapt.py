"""Adapting a backbone to one task: ridge anchor, training, calibration on validation, export."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import load_file
from safetensors.torch import save as save_torch
from torch import Tensor

from pipelines.core.answers import calibrated
from pipelines.core.params import Task
from pipelines.models import detect, export, lit, objectives, vocabulary
from pipelines.models.data import Windows, spread_out, strangers
from pipelines.models.ridge import Ridge
from pipelines.models.series import Backbone, Config, TaskModel

Array = np.ndarray[Any, Any]
FIT_WINDOWS = 1500
"""Training windows that the ridge is solved on."""
HELD_WINDOWS = 96
"""Validation windows looked at while training; twice as many calibrate."""
CHANNELS = 64
"""At most so many channels in a training window: the others wait for another draw."""
GOLDEN = 2
PER_CHANNEL = ("mean", "std", "place", "kind", "sensor", "reference", "unit")


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

    @classmethod
    def prepare(cls, task: Task, data: Windows, config: dict[str, Any], weights: Path | None) -> "Adaptation":
        """The model before training: it answers as its anchor does, see `TaskModel`. `weights` None: a new backbone."""
        objective = objectives.load(task.objective)
        torch.manual_seed(task.finetune.seed)
        backbone = Backbone(Config.from_json(config))
        if weights is not None:
            backbone.load_state_dict(load_file(weights))
        known = backbone.config
        channels = {
            "mean": data.mean,
            "std": data.std,
            **vocabulary.numbers(data, known.kinds, known.sensors, known.centre),
            "reference": reference(data),
            "unit": units(data),
        }
        train, held = data.rows("train", 1), data.rows("validation", 1)
        ridge = Ridge.fit(
            data.batches(spread_out(train, FIT_WINDOWS), 64),
            list(data.batches(spread_out(held, HELD_WINDOWS), 64)),
            data.known,
        )
        aux: dict[str, Any] = {"noise": ridge.noise}
        if task.classes:
            aux |= {"names": list(task.classes.names), "edges": list(task.classes.edges)}
        model = TaskModel(backbone, data.spec, objective.outputs(aux), data.reconstruct)
        if not data.reconstruct:
            with torch.no_grad():
                model.anchor.weight.copy_(torch.from_numpy(ridge.weight))
                model.anchor.bias.copy_(torch.from_numpy(ridge.bias))
        # The anchor is already the best of its kind; a few noisy steps would only spoil it.
        model.anchor.requires_grad_(False)
        if task.finetune.method == "head":
            backbone.requires_grad_(False)
        return cls(task, data, objective, model, aux, channels)

    def train(self, what: str) -> lit.KeepBest:
        """Train in place; the model keeps its best weights, the untrained ones included."""
        settings, data = self.task.finetune, self.data
        rows = data.rows("train", 1)

        def draw(step: int, part: int, parts: int) -> dict[str, Tensor]:
            rng = np.random.default_rng([settings.seed, step])
            chosen = rng.choice(rows, settings.batch)
            return self._batch(chosen[part::parts], rng, training=True)

        held_rows = spread_out(data.rows("validation", 1), HELD_WINDOWS)
        rng = np.random.default_rng(settings.seed)
        held = [self._batch(held_rows[i :: len(held_rows) // settings.batch or 1], rng)
                for i in range(len(held_rows) // settings.batch or 1)]  # fmt: skip
        return lit.train(self.model, self._loss, draw, held, settings, what)

    def _batch(self, rows: Array, rng: np.random.Generator, training: bool = False) -> dict[str, Tensor]:
        columns = self.data.some_columns(rng, CHANNELS)
        batch = self.data.batch(rows, columns)
        batch |= {k: v[columns] for k, v in self.channels.items()}
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
        anchor, raw, scale = self.model(*(batch[k] for k in export.INPUTS if k != "reference"))
        aux = {**self._torch_aux(), "reference": batch["reference"][:n]}
        answer = self.objective.answer(anchor[..., :n], raw[:, :, :n], scale[..., :n], aux)
        loss: tuple[Tensor, Tensor] = self.objective.loss(answer, batch["truth"], batch["seen"], batch["unit"][:n], aux)
        return loss

    def _torch_aux(self) -> dict[str, Any]:
        device = self.model.head.weight.device
        return {k: torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v for k, v in self.aux.items()}

    def parameters(self, *, trained: bool = False) -> int:
        """How many numbers the model has, or how many of them training may change."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or not trained)

    def export(self) -> tuple[dict[str, bytes], dict[str, float] | None]:
        """The bundle's files but for its config, and the alarm settings of an anomaly task.

        Raises RuntimeError when ONNX Runtime and torch disagree on the golden inputs.
        """
        self.model.cpu()
        rows = spread_out(self.data.rows("validation", 1), GOLDEN)
        inputs = {**self.data.batch(rows), **self.channels}
        golden = {k: np.ascontiguousarray(inputs[k]) for k in export.INPUTS}
        served = export.Served(self.model, self.objective, self._torch_aux())
        graph = export.to_onnx(served, golden)
        with torch.no_grad():
            expected = served(*(torch.from_numpy(golden[k]) for k in export.INPUTS)).numpy()
        ask = export.session(graph)
        answer = ask(golden)
        off = export.parity(answer, expected)
        if off > export.PARITY:
            raise RuntimeError(
                f"the exported graph differs from torch by {off:.1e} relative; allowed {export.PARITY:.0e}"
            )
        chosen, alarm = self._calibrate(ask)
        tables = {"profile": self.data.profile, **{k: v for k, v in self.channels.items() if k != "unit"}, **chosen}
        contents = {
            "model.onnx": graph,
            "weights.safetensors": save_torch({k: v.contiguous() for k, v in self.model.state_dict().items()}),
            "tables.safetensors": save({k: np.ascontiguousarray(v) for k, v in tables.items()}),
            "golden.safetensors": save({**{f"input.{k}": v for k, v in golden.items()}, "answer": answer}),
        }
        return contents, alarm

    def _calibrate(self, ask: Callable[[dict[str, Array]], Array]) -> tuple[dict[str, Array], dict[str, float] | None]:
        """Chosen on validation with the exported graph: interval stretch; for anomalies usual misfit and alarm too."""
        data = self.data

        def plain(rows: Array) -> Array:
            parts = (ask({**self.channels, **b})[:, :, : data.targets] for b in data.batches(rows, 64))
            return np.concatenate(list(parts))

        rows = spread_out(data.rows("validation", 1), 2 * HELD_WINDOWS)
        truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
        if self.task.objective == "classify":
            aux = {**self.aux, "reference": self.channels["reference"][: data.targets]}
            return {"decision": self.objective.decide(plain(rows), self.objective.truth(truth, aux))}, None
        spread = conformal(plain(rows), truth)
        if self.task.objective != "anomaly":
            return {"spread": spread}, None

        def answer(rows: Array) -> Array:
            return calibrated(plain(rows), spread)

        misfit = detect.usual(answer, data).astype(np.float32)
        return {"spread": spread, "misfit": misfit}, detect.tune(
            *detect.scores(answer, data, "validation", misfit), data.spec.horizon
        )

    def describe(self) -> dict[str, Any]:
        """What a predictor must know besides the tables."""
        data = self.data
        names = ("sensor", "kind", "unit", "latitude", "longitude", "district")
        roles = ["target"] * data.targets + ["input"] * (len(data.columns) - data.targets)
        columns = [*(data.channel(name) for name in names), data.own_steps, data.channel("aggregate")]
        return {
            "objective": self.task.objective,
            "spec": data.spec.to_json(),
            "reconstruct": data.reconstruct,
            "targets": data.targets,
            "names": list(self.objective.names(self.aux)),
            "aux": {k: self.aux[k] for k in ("names", "edges") if k in self.aux},
            "channels": [
                dict(zip((*names, "step_s", "aggregate", "role"), row, strict=True))
                for row in zip(*columns, roles, strict=True)
            ],
        }


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


def conformal(answer: Array, truth: Array) -> Array:
    """How far to stretch the outer quantiles of [B, H, n, 4] so that 10 % of the truth lies beyond each, [2, H].

    Split-conformal in form (Romano et al., 2019), with the error measured in distances to the quantile itself.
    """
    middle = answer[..., 1]
    sides = ((middle - truth) / (middle - answer[..., 0]), (truth - middle) / (answer[..., 2] - middle))
    out = np.ones((2, answer.shape[1]), np.float32)
    for side, ratio in enumerate(sides):
        for h in range(answer.shape[1]):
            seen = ratio[:, h][np.isfinite(ratio[:, h])]
            if len(seen) >= 20:
                out[side, h] = np.clip(np.quantile(seen, 0.9), 0.2, 5)
    return out
