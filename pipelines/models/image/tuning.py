"""Adapting an image backbone to a department's question: what is trained, how it is judged, what the bundle holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import load_file
from safetensors.torch import save as save_torch
from torch import Tensor

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import lit
from pipelines.models.image import export, models
from pipelines.models.image.backbones import Config
from pipelines.models.image.pictures import Pictures, digest, shuffled
from pipelines.models.image.pieces import Pieces
from pipelines.models.made import Tuned
from pipelines.models.tuning import Tuning

Array = np.ndarray[Any, Any]
HELD = 1024
"""Validation pictures looked at while training, at most."""
SETTLED = 512
"""Pictures that batch norms' statistics are taken from once all is learnt."""
GOLDEN = 2
TIMES = (0.05, 20.0)
"""Between what a temperature may lie."""


def finetune(key: str, task: Task, joined: Path, backbone: Path | None, init: Path | None, paths: Paths) -> Tuned:
    """Learn `task` from `joined`, from the backbone in that folder (None: from scratch) or from the bundle in `init`.

    Raises UserError when data, backbone or bundle are missing or do not fit the task.
    """
    data, settings = Pictures.open(joined), task.finetune
    origin, config, state = _beginning(task, data, backbone, init, paths)
    torch.manual_seed(settings.seed)
    model = models.build(task.objective, config, data.size, len(data.names), None if init else state)
    if init:
        _load(model, state)
    tuning = Tuning.apply(model, settings, init is not None)
    lessons = Lessons.of(task, data, _since(init), model.piece)
    if isinstance(model, models.Classifier):
        model.weights = balance(data.classes[lessons.new], len(data.names))

    def loss(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        total, weight = model.loss(batch)
        return (total + weight * tuning.penalty() if torch.is_grad_enabled() else total), weight

    model.learning = True
    trained = lit.train(
        model, loss, lessons.draw, lessons.held(), tuning.settings, f"finetune {key}", paths=paths,
        data=digest(joined), after=tuning.after,
    )  # fmt: skip
    tuning.merge()
    model.learning = False
    settle(model.cpu(), lessons)
    told = _calibrate(model, data)
    rows = data.rows("validation")
    golden = np.ascontiguousarray(data.pixels[np.resize(rows, GOLDEN)])
    graph, answers = export.checked(model, golden)
    int8: dict[str, Any] | None = None
    if settings.int8:
        small, int8 = export.smaller(graph, lambda ask: _right(ask, data))
        if small is not None:
            graph, answers["answer"] = small, export.session(small)(golden)["probabilities"]
    contents = {
        "model.onnx": graph,
        "weights.safetensors": save_torch({k: v.contiguous() for k, v in sorted(model.state_dict().items())}),
        "golden.safetensors": save(answers),
    }
    about = {
        "modality": "image",
        "objective": task.objective,
        "names": data.names,
        "size": data.size,
        "temperature": told["temperature"],
        "decision": told["decision"],
        "backbone": {**config, **origin},
        "training": {"until": data.until(), "pictures": len(lessons.new)},
        **({"int8": int8} if int8 else {}),
    }
    report = {
        "train": {"loss": trained.curve[-1]["train_loss"]},
        "validation": {
            "loss": trained.best, "loss_untrained": trained.curve[0]["validation_loss"], **told["validation"]
        },
        "parameters": tuning.parameters,
        "trained_parameters": tuning.trained,
        "pictures": len(lessons.new),
        "steps": trained.curve[-1]["step"],
    }  # fmt: skip
    return Tuned(contents, about, report, trained.curve, trained.forget)


def _beginning(
    task: Task, data: Pictures, backbone: Path | None, init: Path | None, paths: Paths
) -> tuple[dict[str, Any], Config, dict[str, Tensor] | None]:
    """The backbone's name and `sha256` (of the pretrained weights, or `scratch`), its config, and weights to load."""
    if init:
        told = files.read_json(init / "config.json")
        where = f"finetune.init {init.name[:12]}"
        ours = {"modality": "image", "objective": task.objective, "names": data.names, "size": data.size}
        for name, value in ours.items():
            if told.get(name) != value:
                raise UserError(f"{where}: its {name} is {told.get(name)}, the task's {value}; leave init out")
        origin = {k: told["backbone"][k] for k in ("name", "sha256")}
        config = {k: v for k, v in told["backbone"].items() if k not in origin}
        return origin, config, load_file(init / "weights.safetensors")
    folder = backbone or paths.backbone(task.backbone)
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise UserError(f"{folder}: no backbone; run `cityloop pretrain {task.backbone}` first")
    config = files.read_json(folder / "config.json")
    if config.get("modality") != "image":
        raise UserError(f"{folder}: no backbone of pictures; run `cityloop pretrain {task.backbone}` again")
    if task.finetune.scratch or backbone is None:
        return {"name": task.backbone, "sha256": "scratch"}, config, None
    return {"name": task.backbone, "sha256": files.sha256_file(weights)}, config, load_file(weights)


def _load(model: models.Model, state: dict[str, Tensor] | None) -> None:
    try:
        model.load_state_dict(state or {})
    except RuntimeError as error:
        what = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise UserError(f"finetune.init: the bundle's weights are not this task's: {what}") from None


def _since(init: Path | None) -> str | None:
    return files.read_json(init / "config.json")["training"]["until"] if init else None


@dataclass(frozen=True)
class Lessons:
    """Rows to learn from: those after a bundle's training (all, without one), and those before, to replay."""

    task: Task
    data: Pictures
    new: Array
    old: Array
    pieces: Pieces | None = None
    """What a locator learns from."""

    @classmethod
    def of(cls, task: Task, data: Pictures, since: str | None = None, piece: int = 0) -> "Lessons":
        """piece: pixels of a side that a locator learns from at once.

        Raises UserError when there is nothing to learn from, or nothing to replay.
        """
        rows, settings = data.rows("train"), task.finetune
        if task.objective == "classify":
            rows = rows[data.classes[rows] >= 0]
        new, old = rows, rows[:0]
        if since and data.dated:
            times = data.items["time"]
            late = np.array([bool(times[i]) and times[i].strftime("%Y-%m-%dT%H:%M:%S") >= since for i in rows], bool)
            new, old = rows[late], rows[~late]
        if not len(new):
            raise UserError(f"{data.folder}: no picture to learn from; move the source's validation_from")
        if settings.replay and not len(old):
            raise UserError("finetune.replay: no training picture lies before what finetune.init was trained until")
        new = data.few(new, settings.labels, settings.seed)
        return cls(task, data, new, old, Pieces.of(*data.boxes, new, piece) if piece else None)

    def draw(self, step: int, part: int, parts: int) -> dict[str, Any]:
        """See `lit.Draw`."""
        settings = self.task.finetune
        size, again = settings.batch, 0
        if settings.replay and size > 1:
            again = min(max(1, round(settings.replay * size)), size - 1)
        rows = shuffled(self.new, settings.seed, step * (size - again), size - again)
        rng = np.random.default_rng([settings.seed, step])
        seed, box = int(rng.integers(2**31)), np.full(size, -1)
        if self.pieces:
            rows, box[: size - again] = self.pieces.choose(rows, rng)
        if again:
            rows = np.concatenate([rows, shuffled(self.old, settings.seed, step * again, again)])
        return self._batch(rows, seed, part, parts, box)

    def held(self) -> list[dict[str, Any]]:
        rows = self.data.rows("validation")
        if self.task.objective == "classify":
            rows = rows[self.data.classes[rows] >= 0]
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), HELD)).astype(int)]
        size = self.task.finetune.batch
        return [self._batch(part, 0) for part in np.array_split(rows, -(-len(rows) // size))]

    def some(self) -> list[dict[str, Any]]:
        """Pictures learnt from, in a few batches."""
        rows = self.new[np.linspace(0, len(self.new) - 1, min(len(self.new), SETTLED)).astype(int)]
        return [self._batch(part, 0) for part in np.array_split(rows, -(-len(rows) // 64))]

    def _batch(
        self, rows: Array, seed: int, part: int = 0, parts: int = 1, box: Array | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """box: what to learn from is cut about these boxes of the pictures; without, it is whole pictures."""
        mine, data = rows[part::parts], self.data
        if self.task.objective == "classify":
            made = {"values": data.pixels[mine], "truth": data.classes[mine]}
        elif self.pieces and box is not None:
            made = self.pieces.cut(data.pixels, mine, box[part::parts], seed, range(part, len(rows), parts))
        else:
            boxes, classes = data.boxes
            made = {"values": data.pixels[mine], "boxes": boxes[mine], "classes": classes[mine]}
        turn = {"seed": seed, "part": part, "parts": parts, "whole": len(rows)}
        told = {name: torch.from_numpy(array) for name, array in made.items()}
        return {**told, "turn": turn, "name": f"picture {int(rows[0])}"}


@torch.no_grad()
def settle(model: models.Model, lessons: Lessons) -> None:
    """Give batch norms the statistics of the weights that were kept, an average (Izmailov et al., 2018), and end."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.weight.requires_grad]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    model.train()
    for batch in lessons.some() if norms else ():
        model.loss(batch)
    model.eval()


def balance(classes: Array, count: int) -> Tensor:
    """What each class's pictures weigh, 1 in the mean: by the root of their rarity, which helps rare classes and leaves
    probabilities near what they were."""
    seen = np.bincount(classes, minlength=count).clip(1)
    weights = np.sqrt(len(classes) / (count * seen))
    return torch.from_numpy((weights * len(classes) / (weights * seen).sum()).astype(np.float32))


@torch.no_grad()
def _calibrate(model: models.Model, data: Pictures) -> dict[str, Any]:
    """Set by validation: a classifier's temperature, a locator's score from which on a box counts; and its metrics."""
    rows = data.rows("validation")
    if not isinstance(model, models.Classifier):
        return {"temperature": None, **_decide(model, data, rows)}
    rows = rows[data.classes[rows] >= 0]
    parts = (model.logits(model.see(torch.from_numpy(data.pixels[rows[i : i + 64]]))) for i in range(0, len(rows), 64))
    logits, truth = torch.cat(list(parts)).double(), torch.from_numpy(data.classes[rows])

    def missed(log: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / float(np.exp(log)), truth))

    from scipy.optimize import minimize_scalar

    best = minimize_scalar(missed, bounds=tuple(np.log(TIMES)), method="bounded")
    model.temperature.fill_(float(np.exp(best.x)))
    right = float((logits.argmax(1) == truth).double().mean())
    return {
        "temperature": round(float(model.temperature), 6), "decision": None,
        "validation": {"accuracy": right, "loss_calibrated": float(best.fun)},
    }  # fmt: skip


def _right(ask: Any, data: Pictures) -> float:
    """The share of validation that a session gets right."""
    rows = data.rows("validation")
    rows = rows[data.classes[rows] >= 0]
    parts = [next(iter(ask(data.pixels[rows[i : i + 64]]).values())) for i in range(0, len(rows), 64)]
    return float((np.concatenate(parts).argmax(1) == data.classes[rows]).mean())


def _decide(model: models.Model, data: Pictures, rows: Array) -> dict[str, Any]:
    """The score above which boxes are right (overlap of half) at the best F1."""
    boxes, classes = data.boxes
    scores: list[float] = []
    right: list[bool] = []
    for i in range(0, len(rows), 32):
        mine = rows[i : i + 32]
        found = [t.numpy() for t in model.answer(torch.from_numpy(data.pixels[mine]))]
        for j, row in enumerate(mine):
            there = classes[row] >= 0
            right += matched(found[0][j], found[2][j], boxes[row][there], classes[row][there])
            scores += found[1][j].tolist()
    order = np.argsort(-np.array(scores), kind="stable")
    good = np.cumsum(np.array(right)[order])
    f1 = 2 * good / (np.arange(len(order)) + 1 + max(1, int((classes[rows] >= 0).sum())))
    best = int(f1.argmax())
    return {"decision": round(float(np.array(scores)[order][best]), 6), "validation": {"f1": float(f1[best])}}


def matched(boxes: Array, labels: Array, wanted: Array, kinds: Array) -> list[bool]:
    """Whether each box, surest first, overlaps one of its kind that none before it took by half or more."""
    free, out = np.ones(len(wanted), bool), []
    for box, label in zip(boxes, labels, strict=True):
        ends = np.minimum(box[2:], wanted[:, 2:]) - np.maximum(box[:2], wanted[:, :2])
        both = ends.clip(0).prod(1)
        either = (box[2:] - box[:2]).prod() + (wanted[:, 2:] - wanted[:, :2]).prod(1) - both
        overlap = np.where(free & (kinds == label), both / np.maximum(either, 1e-9), 0)
        hit = bool(len(overlap)) and bool(overlap.max() >= 0.5)
        if hit:
            free[overlap.argmax()] = False
        out.append(hit)
    return out
