"""A city folder as `evaluate` leaves it: one task with a toy bundle that the real Predictor answers from."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec
from pipelines.release import bundle
from pipelines.release.predictor import PER_CHANNEL

ROOT = Path(__file__).resolve().parents[1]
TASK = "air_quality"
SENSORS = ("mast_1", "mast_2", "mast_3")
SPEC = Spec(step_s=3600, context=96, horizon=24, timezone="Europe/Amsterdam")
PARAMS = """
city: {name: simulated, timezone: Europe/Amsterdam}
sources:
  air:
    department: environment
    about: Air quality stations
    start: "2024-10-07"
    validation_from: "2025-02-24"
    test_from: "2025-03-17"
    step: 1h
    read: {connector: simulator, feed: air}
    kinds:
      pm25: {unit: ug/m3, range: [0, 500]}
      temperature: {unit: degC, range: [-30, 45]}
backbones:
  series: {}
tasks:
  air_quality:
    department: environment
    question: How much fine dust will each station measure over the next day?
    objective: forecast
    backbone: series
    target: {source: air, kinds: [pm25]}
    inputs: [{source: air, kinds: [temperature]}]
    context: 4d
    horizon: 24h
    finetune: {steps: 200}
  another:
    department: environment
    question: And without the weather?
    objective: forecast
    backbone: series
    target: {source: air, kinds: [pm25]}
    context: 4d
    horizon: 24h
"""
DIFFERENCE = {"difference": -0.5, "low": -0.75, "high": -0.25, "n": 1512, "blocks": 21}
NAMES = ("q0.1", "q0.5", "q0.9", "mean")


def city(folder: Path, task: str = TASK, factor: float = 1.0) -> Paths:
    """Everything `card` reads, for one task; and params.yaml, unless it is there. Another `factor` is another model."""
    if not (folder / "params.yaml").exists():
        files.write_bytes(folder / "params.yaml", PARAMS.encode())
        files.write_bytes(folder / "window.yaml", b'air: "2025-04-07"\n')
    paths = Paths(folder)
    bundle.write(paths.task(task), contents(task, factor))
    scores = {"mae": 3.25 * factor, "rmse": 4.5, "pinball": 1.2, "coverage80": 0.79}
    baselines = {m: {k: v + 0.5 for k, v in scores.items()} for m in ("last_value", "profile", "ridge")}
    files.write_json(
        paths.metrics("evaluate", task),
        {
            "primary": "mae",
            "higher_is_better": False,
            "test": {
                "from": "2025-03-17T00:00:00",
                "until": "2025-04-07T00:00:00",
                "forecasts": 21,
                "points": 1512,
                "block_hours": 24,
                "blocks": 21,
            },
            "model": scores,
            **baselines,
            "at": {
                "60min": {"model": 2.5, "ridge": 3.0, "baseline": "ridge", "minutes": 60, **DIFFERENCE},
                "24h": {"model": 4.0, "ridge": 4.5, "baseline": "ridge", "minutes": 1440, **DIFFERENCE},
            },
            "coverage": {"overall": 0.79, "lowest_step": 0.7, "highest_step": 0.85},
            "slices": {
                "regime": {"night": {"model": 2.0, "ridge": 1.9, **DIFFERENCE, "difference": 0.1, "n": 300}},
                "district": {"North": {"model": 3.0, "ridge": 3.5, **DIFFERENCE, "n": 500}},
            },
            "interval": {
                "versus_best_baseline": {"baseline": "ridge", **DIFFERENCE},
                "versus": dict.fromkeys(("last_value", "profile", "ridge"), DIFFERENCE),
            },
        },
    )
    took = {"load_ms": 21.0, "one": {"median_ms": 1.5}, "batch": {"median_ms": 12.0}, "peak_rss_mb": 210.0}
    files.write_json(paths.metrics("latency", task), {"float": took})
    report = {"train": {"loss": 0.1}, "validation": {"loss": 0.2}, "parameters": 123456, "steps": 200}
    curve = [{"step": s, "train_loss": 1 / (s + 1), "validation_loss": 1.5 / (s + 1)} for s in range(0, 201, 50)]
    for stage, key in (("finetune", task), ("pretrain", "series")):
        files.write_json(paths.metrics(stage, key), report)
        files.write_json(paths.plots(stage, key) / "curve.json", curve)
    quality = {
        "records": 1000,
        "validated": 990,
        "quarantined": 10,
        "reasons": {"duplicate": 3, "spike": 7, "stuck": 0},
        "gaps": {"longest_h": 2.5},
        "coverage": {"mean": 0.985},
    }
    for source in ("air", "energy", "traffic", "water"):
        files.write_json(paths.metrics("validate", source), quality)
        files.write_bytes(paths.plots("validate", source) / "index.html", b"<html>report</html>")
    files.write_bytes(paths.plots("evaluate", task) / "by_step.png", b"\x89PNG")
    files.write_json(paths.plots("evaluate", task) / "by_step.json", [{"step": 1, "method": "model", "mae": 3.0}])
    return paths


def contents(task: str = TASK, factor: float = 1.0) -> dict[str, bytes]:
    """A bundle whose answers are `factor` times the mean of the context, in one ONNX graph."""
    from safetensors.numpy import save

    n = len(SENSORS)
    values = np.random.default_rng(0).uniform(5, 30, (2, SPEC.context, n)).astype(np.float32)
    tables = {
        "profile": np.full((168, n), 10, np.float32),
        **{k: np.ones(n, np.float32) for k in PER_CHANNEL},
        **{k: np.ones(n, np.int64) for k in ("kind", "sensor", "unit_id")},
        **{k: np.zeros((n, 0), np.float32) for k in ("close", "ahead")},
        "near": np.zeros((n, 0), np.int64),
        "place": np.zeros((n, 12), np.float32),
        "peers": np.zeros((n, 1), np.int64),
        "weights": np.zeros((n, 1), np.float32),
    }
    answer = (values.mean(1)[:, None, :, None] * _shape(factor)).astype(np.float32)
    channels = [{"sensor": s, "kind": "pm25", "unit": "ug/m3", "role": "target"} for s in SENSORS]
    config: dict[str, Any] = {
        "task": task,
        "objective": "forecast",
        "department": "environment",
        "question": "How much?",
        "spec": SPEC.to_json(),
        "reconstruct": False,
        "targets": n,
        "target": {"source": "air", "kinds": ["pm25"]},
        "inputs": [],
        "names": list(NAMES),
        "aux": {},
        "backbone": {"name": "series", "sha256": "0" * 64, "size": "tiny", "kinds": ["pm25"]},
        "channels": channels,
    }
    return {
        "model.onnx": _graph(factor),
        "weights.safetensors": save({"w": np.zeros(3, np.float32)}),
        "tables.safetensors": save(tables),
        "golden.safetensors": save({"input.values": values, "answer": answer}),
        "config.json": files.to_json(config),
    }


def _shape(factor: float) -> np.ndarray[Any, Any]:
    row = np.array([0.9, 1.0, 1.1, 1.0], np.float32) * np.float32(factor)
    return np.tile(row, (1, SPEC.horizon, 1, 1)).astype(np.float32)


def _graph(factor: float) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["values", "axis"], ["mean"], keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "shape"], ["answer"]),
    ]
    constants = {"axis": np.array([1], np.int64), "last": np.array([3], np.int64), "shape": _shape(factor)}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["b", SPEC.context, "n"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["b", SPEC.horizon, "n", 4])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
