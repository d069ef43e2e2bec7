"""Adapting a text backbone to a department's question: what is trained, how it is judged, what the bundle holds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import load_file
from safetensors.torch import save as save_torch
from torch import Tensor, nn

from pipelines.core import files, tokens
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.core.paths import Paths
from pipelines.models import lit
from pipelines.models.made import Tuned
from pipelines.models.text import backbone as backbones
from pipelines.models.text import export, model
from pipelines.models.text.lessons import NONE, Lessons
from pipelines.models.text.prior import Prior, bags, balance
from pipelines.models.tuning import Tuning

Array = np.ndarray[Any, Any]
SMOOTH = 0.05
"""Label smoothing."""
TIMES = (0.2, 5.0)
"""Between what a temperature may lie."""


def finetune(key: str, task: Task, joined: Path, backbone: Path | None, init: Path | None, paths: Paths) -> Tuned:
    """Learn `task` from `joined`, from the backbone in that folder (None: from scratch) or from the bundle in `init`.

    Scratch has the backbone's shape and tokenizer, and neither its weights nor its words' rarity in the corpus.
    Raises UserError when data, backbone or bundle are missing or do not fit the task.
    """
    settings = task.finetune
    folder = init or backbone or paths.backbone(task.backbone)
    config, origin = _config(task, folder, init, backbone)
    made = (folder / "tokenizer.json").read_bytes()
    tokenizer = tokens.load(made)
    since = files.read_json(folder / "config.json")["training"]["until"] if init else None
    lessons = Lessons.of(key, task, joined, tokenizer, config["max_tokens"], since)
    names = list(lessons.items.names)
    torch.manual_seed(settings.seed)
    base = backbones.build(config)
    whole = model.of(task.objective, base, len(names))
    if init:
        _load(whole, init, lessons, names)
    elif origin["sha256"] != "scratch":
        base.load_state_dict(load_file(folder / "weights.safetensors"))
    else:
        base.words.learn((lessons.rows[i] for i in lessons.new), tokenizer)
    chosen = _start(whole, lessons, tokenizer, settings.labels >= 1, init is not None)
    tuning = Tuning.apply(whole, settings, init is not None)
    weigh = torch.from_numpy(_weights(lessons, 1 + 2 * len(names) if task.objective == "tag" else len(names)))

    def loss(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        total, weight = _loss(whole, batch, weigh)
        return (total + weight * tuning.penalty() if torch.is_grad_enabled() else total), weight

    held = lessons.validation(settings.batch)
    trained = lit.train(
        whole, loss, lambda *at: lessons.draw(tuning.settings, *at), held, tuning.settings, f"finetune {key}",
        paths=paths, data=[files.sha256_file(joined / "items.parquet"), names], after=tuning.after,
    )  # fmt: skip
    tuning.merge()
    whole.cpu().eval()
    temperature, told = _calibrate(whole, held)
    some = [lessons.items.columns["text"][i] for i in dict.fromkeys(lessons.item[lessons.held].tolist())][:2]
    graph, golden = export.checked(
        model.Served(whole, temperature), *tokens.encode(tokenizer, [*some, *some][:2], config["max_tokens"])
    )
    contents = {
        "model.onnx": graph,
        "weights.safetensors": save_torch({k: v.contiguous() for k, v in sorted(whole.state_dict().items())}),
        "golden.safetensors": save(golden),
        "tokenizer.json": made,
    }
    messages = len(np.unique(lessons.item[lessons.new]))
    about = {
        "modality": "text",
        "objective": task.objective,
        "names": names,
        "max_tokens": config["max_tokens"],
        "temperature": temperature,
        "decision": None,
        "backbone": {**config, **origin},
        "training": {"until": lessons.until(), "messages": messages},
    }
    report = {
        "train": {"loss": trained.curve[-1]["train_loss"]},
        "validation": {"loss": trained.best, "loss_untrained": trained.curve[0]["validation_loss"], **told},
        "parameters": tuning.parameters,
        "trained_parameters": tuning.trained,
        "messages": messages,
        "steps": trained.curve[-1]["step"],
        **({"prior": chosen} if chosen else {}),
    }
    return Tuned(contents, about, report, trained.curve, trained.forget)


def load(folder: Path) -> model.Served:
    """The torch model of a bundle, which answers as its graph does. The bytes are verified elsewhere."""
    config = files.read_json(folder / "config.json")
    base = backbones.build({k: v for k, v in config["backbone"].items() if k not in ("name", "sha256")})
    whole = model.of(config["objective"], base, len(config["names"]))
    whole.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.Served(whole, config["temperature"]).eval()


def _config(
    task: Task, folder: Path, init: Path | None, backbone: Path | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The backbone's config, its name and `sha256` (of the pretrained weights, or `scratch`)."""
    if init:
        told = files.read_json(init / "config.json")
        if (told.get("modality"), told.get("objective")) != ("text", task.objective):
            raise UserError(
                f"finetune.init {init.name[:12]}: not a bundle of objective {task.objective}; leave init out"
            )
        origin = {k: told["backbone"][k] for k in ("name", "sha256")}
        return {k: v for k, v in told["backbone"].items() if k not in origin}, origin
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise UserError(f"{folder}: no backbone; run `cityloop pretrain {task.backbone}` first")
    config = files.read_json(folder / "config.json")
    if config.get("modality") != "text":
        raise UserError(f"{folder}: no backbone of messages; run `cityloop pretrain {task.backbone}` again")
    scratch = task.finetune.scratch or backbone is None
    return config, {"name": task.backbone, "sha256": "scratch" if scratch else files.sha256_file(weights)}


def _load(whole: nn.Module, init: Path, lessons: Lessons, names: list[str]) -> None:
    where = f"finetune.init {init.name[:12]}"
    theirs = files.read_json(init / "config.json")["names"]
    if theirs != names:
        raise UserError(f"{where}: its names are {theirs}, the task's {names}; leave init out, or make them agree")
    try:
        whole.load_state_dict(load_file(init / "weights.safetensors"))
    except RuntimeError as error:
        what = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise UserError(f"{where}: the bundle's weights are not this task's: {what}") from None


@torch.no_grad()
def _start(whole: Any, lessons: Lessons, tokenizer: Any, all_labels: bool, started: bool) -> dict[str, float] | None:
    """Fit the prior, unless a bundle gone on from has one; keep what it says of messages that it was fitted without.

    Where few labels are to be learnt from, the validation's are not learnt from either.
    """
    every, chosen = np.concatenate([lessons.new, lessons.old, lessons.held]), None
    if not started:
        rows = np.sort(np.concatenate([lessons.new, lessons.held])) if all_labels else lessons.new
        some, truth = [lessons.rows[i] for i in rows], [lessons.truth[i] for i in rows]
        group = np.array(lessons.items.columns["group"])[lessons.item[rows]]
        if isinstance(whole, model.Tag):
            apart = whole.dictionary.learn(some, truth, group, tokenizer)
        else:
            prior = Prior.fit(bags(whole.backbone.words, some), np.array(truth), len(lessons.items.names), group)
            whole.prior.weight.copy_(torch.from_numpy(np.ascontiguousarray(prior.weight.T)))
            apart, chosen = list(prior.apart), prior.chosen
        lessons.prior.update(zip(rows.tolist(), apart, strict=True))
        every = np.setdiff1d(every, rows)
    for i in every.tolist():
        row = torch.from_numpy(lessons.rows[i])[None]
        lessons.prior[i] = whole.before(row, torch.ones_like(row))[0].numpy()
    return chosen


def _weights(lessons: Lessons, classes: int) -> Array:
    """What each class weighs: by the root of its rarity, so that probabilities stay near the truth."""
    truth = np.concatenate([np.atleast_1d(lessons.truth[i]) for i in lessons.new])
    return np.sqrt(balance(truth[truth != NONE], classes)).astype(np.float32)


def _loss(whole: nn.Module, batch: dict[str, Any], weigh: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the weighed cross-entropy and of the weights; smoothed while learning."""
    logits, truth = whole(batch["values"], batch["mask"], batch.get("prior")), batch["truth"]
    asked = truth != NONE
    logits, truth, weigh = logits[asked].float(), truth[asked], weigh.to(logits.device)
    smooth = SMOOTH if torch.is_grad_enabled() else 0.0
    each = nn.functional.cross_entropy(logits, truth, reduction="none", label_smoothing=smooth)
    return (each * weigh[truth]).sum(), weigh[truth].sum()


@torch.no_grad()
def _calibrate(whole: nn.Module, held: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """The temperature that makes validation's answers likeliest, and how good they are."""
    from scipy.optimize import minimize_scalar

    parts = [(whole(b["values"], b["mask"], b.get("prior")), b["truth"]) for b in held]
    asked = [truth != NONE for _, truth in parts]
    logits = torch.cat([p[0][a] for p, a in zip(parts, asked, strict=True)]).double()
    truth = torch.cat([p[1][a] for p, a in zip(parts, asked, strict=True)])

    def missed(log: float) -> float:
        return float(nn.functional.cross_entropy(logits / float(np.exp(log)), truth))

    best = minimize_scalar(missed, bounds=tuple(np.log(TIMES)), method="bounded")
    right = float((logits.argmax(1) == truth).double().mean())
    return round(float(np.exp(best.x)), 6), {"accuracy": right, "loss_calibrated": float(best.fun)}
