"""What a bundle holds of an adaptation: graph, weights, tables and golden answers; intervals and alarms calibrated."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_torch

from pipelines.core import files, metrics
from pipelines.core.answers import calibrated
from pipelines.core.windows import Spec
from pipelines.models import answering, detect, export, families, objectives, reference, referred
from pipelines.models.data import spread_out
from pipelines.models.series import TaskModel
from pipelines.models.tokens import Config

if TYPE_CHECKING:
    from pipelines.models.adapt import Adaptation

Array = np.ndarray[Any, Any]
Ask = Callable[[Array], Array]
"""First rows of windows → the graph's own answers [B, H, targets, names]."""
GOLDEN = 2
CALIBRATE_WINDOWS = 192
"""Validation windows that intervals and decisions are calibrated on."""
WORSE, SMALLER = 0.01, 0.75
"""An int8 graph pays if on validation its main metric is at most so much worse, and its size at most such a share."""


def contents(adapted: "Adaptation", init: Path | None = None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The bundle's files but for its config, and what belongs there: `alarm` settings, what int8 costs and gains, what
    its days were like (None: too few to tell).

    init: the bundle gone on from. Raises RuntimeError when ONNX Runtime and torch disagree on the golden inputs.
    """
    data = adapted.data
    adapted.model.cpu()
    graph, golden = _graph(adapted)
    ask = _asker(adapted, graph)
    rows = spread_out(data.rows("validation", 1), CALIBRATE_WINDOWS)
    answer, truth = ask(rows), np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    chosen, alarm = _calibrate(adapted, ask, answer, truth)
    channels = {k: v for k, v in adapted.channels.items() if k != "unit"}
    tables = {"profile": data.profile, **channels, "noise": adapted.aux["noise"], **chosen}
    made = {
        "model.onnx": graph,
        "weights.safetensors": save_torch({k: v.contiguous() for k, v in adapted.model.state_dict().items()}),
        "tables.safetensors": save({k: np.ascontiguousarray(v) for k, v in tables.items()}),
        "golden.safetensors": save(golden),
    }
    int8 = export.to_int8(
        graph, [w.detach().numpy() for k, w in adapted.model.named_parameters() if k.startswith(("anchor", "drivers"))]
    )
    aux = {**adapted.aux, "reference": adapted.channels["reference"][: data.targets], **chosen}
    metric, exact = main_metric(adapted.objective, answer, truth, aux)
    _, rough = main_metric(adapted.objective, _asker(adapted, int8)(rows), truth, aux)
    worse = (exact - rough if metric == "macro_f1" else rough - exact) / max(abs(exact), 1e-12)
    pays = worse <= WORSE and len(int8) <= SMALLER * len(graph)
    if pays:
        made["model.int8.onnx"] = int8
    told = {"metric": metric, "float": exact, "int8": rough, "worse": worse, "size": len(int8) / len(graph)}
    days = referred.made(data, init)
    if days:
        made[reference.FILE] = save({k: np.ascontiguousarray(v) for k, v in days.tables.items()})
    about = {**days.about, "answers": _usual(adapted, rows, answer, truth, chosen)} if days else None
    return made, {"alarm": alarm, "int8": {"included": pays, **told}, "reference": about}


def _usual(
    adapted: "Adaptation", rows: Array, answer: Array, truth: Array, chosen: dict[str, Array]
) -> answering.Usual:
    """What answers are like from day to day of validation; nothing of alarms."""
    data, objective = adapted.data, adapted.objective
    if "alarm" in objective.CALIBRATION:
        return {}
    days = (data.series.start + (rows + data.known) * data.series.step).astype("datetime64[D]")
    decision = chosen.get("decision")
    told = calibrated(answer, chosen.get("spread"))
    aux = {**adapted.aux, "reference": adapted.channels["reference"][: data.targets]}
    kinds, std = data.channel("kind")[: data.targets], data.std[: data.targets]
    names = list(objective.names(adapted.aux))
    return answering.of_validation(days, kinds, told, objective.truth(truth, aux), std, names, decision)


def load(folder: Path) -> export.Served:
    """The torch model of a bundle, which answers as its graph does. The bytes are verified by `Predictor.load`."""
    config, tables = files.read_json(folder / "config.json"), load_file(folder / "tables.safetensors")
    objective = objectives.of_bundle(config)
    spec, known = Spec.from_json(config["spec"]), {f.name for f in fields(Config)}
    backbone = families.build(Config.from_json({k: v for k, v in config["backbone"].items() if k in known}))
    aux = {**config["aux"], "noise": torch.from_numpy(tables["noise"])}
    if hasattr(objective, "network"):
        model = objective.network(backbone, spec, aux)
    else:
        drivers = tables["ahead"].shape[1]
        model = TaskModel(backbone, spec, objective.outputs(aux), config["reconstruct"], drivers)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(folder / "weights.safetensors").items()})
    return export.Served(model, objective, aux).eval()


def _graph(adapted: "Adaptation") -> tuple[bytes, dict[str, Array]]:
    """The graph, and golden inputs (`input.<name>`) with its `answer`."""
    rows = spread_out(adapted.data.rows("validation", 1), GOLDEN)
    inputs = {**adapted.data.batch(rows), **adapted.channels}
    golden = {k: np.ascontiguousarray(inputs[k]) for k in export.INPUTS}
    served = export.Served(adapted.model, adapted.objective, adapted.torch_aux())
    graph = export.to_onnx(served, golden)
    with torch.no_grad():
        expected = served(*(torch.from_numpy(golden[k]) for k in export.INPUTS)).numpy()
    answer = export.session(graph)(golden)
    off = export.parity(answer, expected)
    if off > export.PARITY:
        raise RuntimeError(f"the exported graph differs from torch by {off:.1e} relative; allowed {export.PARITY:.0e}")
    return graph, {**{f"input.{k}": v for k, v in golden.items()}, "answer": answer}


def _asker(adapted: "Adaptation", graph: bytes) -> Ask:
    ask, data = export.session(graph), adapted.data

    def answer(rows: Array) -> Array:
        parts = (ask({**adapted.channels, **b})[:, :, : data.targets] for b in data.batches(rows, 64))
        return np.concatenate(list(parts))

    return answer


def main_metric(objective: Any, answer: Array, truth: Array, aux: dict[str, Any]) -> tuple[str, float]:
    """The objective's own metric; for alarms, which need a whole period, the error of the reconstruction."""
    if "alarm" in objective.CALIBRATION:
        return "mae", metrics.regression(answer[..., 1], truth)["mae"]
    return objective.PRIMARY, objective.score(answer, objective.truth(truth, aux), aux)[objective.PRIMARY]


def describe(adapted: "Adaptation") -> dict[str, Any]:
    """What a predictor must know besides the tables."""
    data = adapted.data
    names = ("sensor", "kind", "unit", "latitude", "longitude", "district")
    inputs = len(data.columns) - data.targets - data.ahead
    roles = ["target"] * data.targets + ["input"] * inputs + ["ahead"] * data.ahead
    columns = [*(data.channel(name) for name in names), data.own_steps, data.channel("aggregate")]
    return {
        "objective": adapted.task.objective,
        "head": adapted.task.finetune.head,
        "spec": data.spec.to_json(),
        "reconstruct": data.reconstruct,
        "targets": data.targets,
        "names": list(adapted.objective.names(adapted.aux)),
        "aux": {k: adapted.aux[k] for k in ("names", "edges") if k in adapted.aux},
        "channels": [
            dict(zip((*names, "step_s", "aggregate", "role"), row, strict=True))
            for row in zip(*columns, roles, strict=True)
        ],
    }


def _calibrate(
    adapted: "Adaptation", ask: Ask, answer: Array, truth: Array
) -> tuple[dict[str, Array], dict[str, float] | None]:
    """Chosen with the exported graph's answers to validation windows: interval stretch, or the decision's weights.

    Where there are alarms, usual misfit and alarm settings too.
    """
    objective, data = adapted.objective, adapted.data
    if "decision" in objective.CALIBRATION:
        aux = {**adapted.aux, "reference": adapted.channels["reference"][: data.targets]}
        return {"decision": objective.decide(answer, objective.truth(truth, aux))}, None
    spread = conformal(answer, truth)
    if "alarm" not in objective.CALIBRATION:
        return {"spread": spread}, None

    def stretched(rows: Array) -> Array:
        return calibrated(ask(rows), spread)

    misfit = detect.usual(stretched, data).astype(np.float32)
    return {"spread": spread, "misfit": misfit}, detect.tune(
        *detect.scores(stretched, data, "validation", misfit), data.spec.horizon
    )


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
