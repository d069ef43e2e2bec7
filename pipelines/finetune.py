"""backbone + joined → models/tasks/<task>/: adapt the backbone to a task and export the bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Task
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec
from pipelines.models import detect, objectives, vocabulary
from pipelines.models.data import Windows, spread_out
from pipelines.models.ridge import Ridge
from pipelines.release import bundle
from pipelines.release.predictor import calibrated

Array = np.ndarray[Any, Any]
FIT_WINDOWS, HELD_WINDOWS, GOLDEN = 1500, 96, 2


def run(key: str, *, root: Path = Path()) -> None:
    """Fine-tune `key`. Raises UserError when the backbone or the joined data are missing or do not fit the task."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    with log.room("finetune", key) as told:
        data = task_windows(city, task, paths.joined(key))
        contents, report, curve = _fit(key, city, task, data, paths)
        digest = bundle.write(paths.task(key), contents)
        files.write_json(paths.metrics("finetune", key), report)
        files.write_json(paths.plots("finetune", key) / "curve.json", curve)
        told.update(digest=digest[:12], validation_loss=f"{report['validation']['loss']:.4f}", steps=report["steps"])


def task_windows(city: Params, task: Task, folder: Path) -> Windows:
    """The task's target and input columns, cut as its context and horizon say."""
    if not (folder / "roles.json").exists():
        raise UserError(f"{folder}: no joined data; run `cityloop join {folder.name}` first")
    source = city.source(task.target.source)
    zone = city.timezone(task.target.source)
    spec = Spec.of(
        int(source.step.total_seconds()),
        task.context // source.step,
        task.horizon // source.step,
        zone,
        city.city.holidays,
    )
    data = Windows.of_task(folder, spec, task.objective == "anomaly")
    if data.known < spec.patch:
        raise UserError(f"tasks.{folder.name}.context: too short for its horizon; give at least twice the horizon")
    return data


def auxiliary(task: Task, data: Windows) -> dict[str, Any]:
    """What the objective needs beside readings: the channels' reference, and class names and edges."""
    rows = np.unique(np.linspace(*_bounds(data), 20_000).astype(int))
    sample = np.concatenate([data.read(rows[i : i + 2000], 1)[:, 0] for i in range(0, len(rows), 2000)])
    seen = np.isfinite(sample).any(0)
    reference = np.ones(sample.shape[1], np.float32)
    reference[seen] = np.nanquantile(sample[:, seen], 0.9, axis=0)
    aux: dict[str, Any] = {"reference": np.where(np.abs(reference) > 1e-6, reference, 1).astype(np.float32)}
    if task.classes:
        aux |= {"names": list(task.classes.names), "edges": list(task.classes.edges)}
    return aux


def _bounds(data: Windows) -> tuple[int, int]:
    lo, hi = data.series.splits["train"]
    return lo, hi - 1


def _fit(
    key: str, city: Params, task: Task, data: Windows, paths: Paths
) -> tuple[dict[str, bytes], dict[str, Any], list[Any]]:
    import torch
    from safetensors.numpy import save

    from pipelines.models import export, lit
    from pipelines.models.series import Config, TaskModel

    objective = objectives.load(task.objective)
    settings = task.finetune
    torch.manual_seed(settings.seed)
    backbone, origin = _backbone(paths.backbone(task.backbone), settings.scratch, city.backbone(task.backbone).size)
    config: Config = backbone.config
    numbers = vocabulary.numbers(data, config.kinds, config.sensors, config.centre)
    aux = auxiliary(task, data)

    train_rows, held_rows = data.rows("train", 1), data.rows("validation", 1)
    held = list(data.batches(spread_out(held_rows, HELD_WINDOWS), settings.batch))
    ridge = Ridge.fit(data.batches(spread_out(train_rows, FIT_WINDOWS), 64), held, data.known)
    aux["noise"] = ridge.noise
    n = data.targets
    target = {**aux, "reference": aux["reference"][:n]}
    if task.classes:
        drawn = data.batches(spread_out(train_rows, 256), 64)
        truth = np.concatenate([objective.truth(b["truth"], target) for b in drawn])
        counts = np.bincount(truth[np.isfinite(truth)].astype(int), minlength=len(aux["names"]))
        weights = 1 / np.sqrt(np.maximum(counts, 1) / counts.sum())
        aux["weights"] = (weights / weights.mean()).astype(np.float32)

    model = TaskModel(backbone, data.spec, objective.outputs(aux), data.reconstruct)
    with torch.no_grad():
        model.anchor.weight.copy_(torch.from_numpy(ridge.weight))
        model.anchor.bias.copy_(torch.from_numpy(ridge.bias))
    # The anchor is already the best of its kind; a few noisy steps would only spoil it.
    model.anchor.requires_grad_(False)
    if settings.method == "head":
        backbone.requires_grad_(False)

    tensors = {k: torch.from_numpy(v) for k, v in numbers.items()}
    torch_aux = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in aux.items()}
    unit = torch.from_numpy(_units(data)[:n])
    target_aux = {**torch_aux, "reference": torch_aux["reference"][:n]}

    def to_torch(batch: dict[str, Array]) -> dict[str, Any]:
        truth = objective.truth(batch["truth"], target)
        # A class is only known where something was measured; a value where it was.
        whole = {**batch, "truth": np.nan_to_num(truth), "seen": np.isfinite(truth).astype(np.float32)}
        return {k: torch.from_numpy(np.ascontiguousarray(v, np.float32)) for k, v in whole.items()}

    def draw(step: int, rank: int) -> dict[str, Any]:
        rng = np.random.default_rng([settings.seed, step, rank])
        return to_torch(data.batch(rng.choice(train_rows, settings.batch)))

    def loss(batch: dict[str, Any]) -> torch.Tensor:
        anchor, raw, scale = model(
            batch["values"], batch["observed"], batch["profile"], batch["calendar"], batch["mean"], batch["std"],
            tensors["place"], tensors["kind"], tensors["sensor"],
        )  # fmt: skip
        answer = objective.answer(anchor[..., :n], raw[:, :, :n], scale[..., :n], target_aux)
        return objective.loss(answer, batch["truth"], batch["seen"], unit, target_aux)

    keep = lit.train(model, loss, draw, [to_torch(b) for b in held], settings, f"finetune {key}")

    served = export.Served(model, objective, torch_aux)
    golden = {
        **data.batch(spread_out(held_rows, GOLDEN)), **numbers, "reference": aux["reference"],
    }  # fmt: skip
    golden = {k: np.ascontiguousarray(golden[k]) for k in export.INPUTS}
    graph = export.to_onnx(served, golden)
    with torch.no_grad():
        expected = served(*(torch.from_numpy(golden[k]) for k in export.INPUTS)).numpy()
    answer = _golden_answer(graph, golden, expected)
    tables = {"profile": data.profile, "mean": data.mean, "std": data.std, "reference": aux["reference"], **numbers}
    more, alarm = _calibrate(graph, tables, data, task, held_rows)
    tables |= more
    contents = {
        "model.onnx": graph,
        "weights.safetensors": _save(model),
        "tables.safetensors": save({k: np.ascontiguousarray(v) for k, v in tables.items()}),
        "golden.safetensors": save({**{f"input.{k}": v for k, v in golden.items()}, "answer": answer}),
        "config.json": files.to_json(_config(key, task, data, objective, aux, origin, config) | {"alarm": alarm}),
    }
    report = {
        "train": {"loss": keep.curve[-1]["train_loss"]},
        "validation": {"loss": keep.best, "loss_untrained": keep.curve[0]["validation_loss"]},
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "steps": keep.curve[-1]["step"],
    }
    return contents, report, keep.curve


def _save(model: Any) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in model.state_dict().items()})


def _backbone(folder: Path, scratch: bool, size: str) -> tuple[Any, str]:
    """The pretrained backbone and the SHA-256 of its weights; with `scratch` its shape only, newly initialised."""
    from safetensors.torch import load_file

    from pipelines.models.series import Backbone, Config

    if not (folder / "weights.safetensors").exists():
        raise UserError(f"{folder}: no backbone; run `cityloop pretrain {folder.name}` first")
    config = Config.from_json(files.read_json(folder / "config.json"))
    if config.size != size:
        raise UserError(f"{folder}: this backbone is {config.size}, params.yaml asks for {size}; pretrain it again")
    model = Backbone(config)
    if scratch:
        return model, "scratch"
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model, files.sha256_file(folder / "weights.safetensors")


def _units(data: Windows) -> Array:
    """The usual spread of each channel's kind, float32 [N]: what errors are divided by, so that kinds count alike."""
    kinds = np.array(data.channel("kind"))
    return np.array([data.std[kinds == k].mean() for k in kinds], np.float32)


def _golden_answer(graph: bytes, golden: dict[str, Array], expected: Array) -> Array:
    """The graph's answer to the golden inputs. Raises RuntimeError when it differs from torch's."""
    from pipelines.models import export

    answer = _ask(graph)(golden)
    off = export.parity(answer, expected)
    if off > export.PARITY:
        raise RuntimeError(f"the exported graph differs from torch by {off:.1e} relative, allowed {export.PARITY:.0e}")
    return answer


def _ask(graph: bytes) -> Callable[[dict[str, Array]], Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]
    return lambda inputs: session.run(None, {k: inputs[k] for k in wanted})[0]


def _calibrate(
    graph: bytes, tables: dict[str, Array], data: Windows, task: Task, held_rows: Array
) -> tuple[dict[str, Array], dict[str, float] | None]:
    """Chosen on validation, with the exported graph: interval stretch, and for anomalies usual misfit and alarm."""
    if task.objective == "classify":
        return {}, None
    ask = _ask(graph)

    def plain(rows: Array) -> Array:
        return np.concatenate([ask({**tables, **b})[:, :, : data.targets] for b in data.batches(rows, 64)])

    rows = spread_out(held_rows, 2 * HELD_WINDOWS)
    spread = conformal(plain(rows), np.concatenate([b["truth"] for b in data.batches(rows, 64)]))
    if task.objective != "anomaly":
        return {"spread": spread}, None

    def answer(rows: Array) -> Array:
        return calibrated(plain(rows), spread)

    misfit = detect.usual(answer, data).astype(np.float32)
    return {"spread": spread, "misfit": misfit}, detect.tune(*detect.scores(answer, data, "validation", misfit))


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


def _config(
    key: str, task: Task, data: Windows, objective: Any, aux: dict[str, Any], origin: str, backbone: Any
) -> dict[str, Any]:
    roles = ["target"] * data.targets + ["input"] * (len(data.columns) - data.targets)
    names = ("sensor", "kind", "unit", "latitude", "longitude", "district")
    columns = [data.channel(name) for name in names]
    return {
        "task": key,
        "objective": task.objective,
        "department": task.department,
        "question": task.question,
        "spec": data.spec.to_json(),
        "reconstruct": data.reconstruct,
        "targets": data.targets,
        "target": task.target.model_dump(),
        "inputs": [s.model_dump() for s in task.inputs],
        "names": list(objective.names(aux)),
        "aux": {k: aux[k] for k in ("names", "edges") if k in aux},
        "backbone": {"name": task.backbone, "sha256": origin, **backbone.to_json()},
        "channels": [dict(zip((*names, "role"), row, strict=True)) for row in zip(*columns, roles, strict=True)],
    }
