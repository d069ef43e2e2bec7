"""What a bundle holds of an adaptation: graph, weights, tables and golden answers; intervals and alarms calibrated."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from pipelines.core.answers import calibrated
from pipelines.models import detect, export
from pipelines.models.data import spread_out

if TYPE_CHECKING:
    from pipelines.models.adapt import Adaptation

Array = np.ndarray[Any, Any]
GOLDEN = 2
CALIBRATE_WINDOWS = 192
"""Validation windows that intervals and decisions are calibrated on."""


def contents(adapted: "Adaptation") -> tuple[dict[str, bytes], dict[str, float] | None]:
    """The bundle's files but for its config, and the alarm settings of an anomaly task.

    Raises RuntimeError when ONNX Runtime and torch disagree on the golden inputs.
    """
    adapted.model.cpu()
    rows = spread_out(adapted.data.rows("validation", 1), GOLDEN)
    inputs = {**adapted.data.batch(rows), **adapted.channels}
    golden = {k: np.ascontiguousarray(inputs[k]) for k in export.INPUTS}
    served = export.Served(adapted.model, adapted.objective, adapted.torch_aux())
    graph = export.to_onnx(served, golden)
    with torch.no_grad():
        expected = served(*(torch.from_numpy(golden[k]) for k in export.INPUTS)).numpy()
    ask = export.session(graph)
    answer = ask(golden)
    off = export.parity(answer, expected)
    if off > export.PARITY:
        raise RuntimeError(f"the exported graph differs from torch by {off:.1e} relative; allowed {export.PARITY:.0e}")
    chosen, alarm = _calibrate(adapted, ask)
    channels = {k: v for k, v in adapted.channels.items() if k != "unit"}
    tables = {"profile": adapted.data.profile, **channels, **chosen}
    made = {
        "model.onnx": graph,
        "weights.safetensors": save_torch({k: v.contiguous() for k, v in adapted.model.state_dict().items()}),
        "tables.safetensors": save({k: np.ascontiguousarray(v) for k, v in tables.items()}),
        "golden.safetensors": save({**{f"input.{k}": v for k, v in golden.items()}, "answer": answer}),
    }
    return made, alarm


def describe(adapted: "Adaptation") -> dict[str, Any]:
    """What a predictor must know besides the tables."""
    data = adapted.data
    names = ("sensor", "kind", "unit", "latitude", "longitude", "district")
    roles = ["target"] * data.targets + ["input"] * (len(data.columns) - data.targets)
    columns = [*(data.channel(name) for name in names), data.own_steps, data.channel("aggregate")]
    return {
        "objective": adapted.task.objective,
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
    adapted: "Adaptation", ask: Callable[[dict[str, Array]], Array]
) -> tuple[dict[str, Array], dict[str, float] | None]:
    """Chosen on validation with the exported graph: interval stretch; for anomalies usual misfit and alarm too."""
    data = adapted.data

    def plain(rows: Array) -> Array:
        parts = (ask({**adapted.channels, **b})[:, :, : data.targets] for b in data.batches(rows, 64))
        return np.concatenate(list(parts))

    rows = spread_out(data.rows("validation", 1), CALIBRATE_WINDOWS)
    truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    if "decision" in adapted.objective.CALIBRATION:
        aux = {**adapted.aux, "reference": adapted.channels["reference"][: data.targets]}
        return {"decision": adapted.objective.decide(plain(rows), adapted.objective.truth(truth, aux))}, None
    spread = conformal(plain(rows), truth)
    if "alarm" not in adapted.objective.CALIBRATION:
        return {"spread": spread}, None

    def answer(rows: Array) -> Array:
        return calibrated(plain(rows), spread)

    misfit = detect.usual(answer, data).astype(np.float32)
    return {"spread": spread, "misfit": misfit}, detect.tune(
        *detect.scores(answer, data, "validation", misfit), data.spec.horizon
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
