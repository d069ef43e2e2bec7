"""A trained task model as an ONNX graph whose bytes depend on the weights alone."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
INPUTS = ("values", "observed", "profile", "calendar", "mean", "std", "place", "kind", "sensor", "unit_id",
          "near", "close", "ahead", "beside", "peered", "reference")  # fmt: skip
PARITY = 1e-5
"""Largest relative difference allowed between ONNX Runtime and torch on the golden inputs."""


class Served(nn.Module):
    """A task model together with its objective's answer, `[B, H, N, names]`."""

    def __init__(self, model: nn.Module, objective: Any, aux: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.aux = {k: v for k, v in aux.items() if k != "reference"}

    def forward(
        self, values: Tensor, observed: Tensor, profile: Tensor, calendar: Tensor, mean: Tensor, std: Tensor,
        place: Tensor, kind: Tensor, sensor: Tensor, unit_id: Tensor, near: Tensor, close: Tensor, ahead: Tensor,
        beside: Tensor, peered: Tensor, reference: Tensor,
    ) -> Tensor:  # fmt: skip
        who = (place, kind, sensor, unit_id, near, close, ahead, beside, peered)
        anchor, raw, scale = self.model(values, observed, profile, calendar, mean, std, *who)
        answer: Tensor = self.objective.answer(anchor, raw, scale, {**self.aux, "reference": reference})
        return answer


def to_onnx(model: nn.Module, inputs: dict[str, Array]) -> bytes:
    """Export with dynamic batch and sensors; strip names of source files and anything else that is no computation."""

    model.eval()
    batch, sensors = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = {
        **{k: {0: batch, 2: sensors} for k in ("values", "observed", "profile")},
        "calendar": {0: batch},
        **{k: {0: sensors} for k in INPUTS[4:]},
        "beside": {0: batch, 2: sensors},
    }
    if inputs["close"].shape[1] and not inputs["near"].shape[1]:  # a bias from every channel to every other
        shapes["close"] = {0: sensors, 1: sensors}
    given = tuple(torch.from_numpy(np.ascontiguousarray(inputs[k])) for k in INPUTS)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model, given, dynamo=True, dynamic_shapes=tuple(shapes[k] for k in INPUTS), input_names=list(INPUTS),
            output_names=["answer"], verbose=False,
        )  # fmt: skip
    assert program is not None
    return strip(program.model_proto).SerializeToString(deterministic=True)


def strip(proto: Any) -> Any:
    """Drop producer, documentation and metadata of an ONNX model, which name files and folders."""
    for message in (proto, proto.graph, *proto.functions):
        message.ClearField("doc_string")
        message.ClearField("metadata_props")
    proto.ClearField("producer_name")
    proto.ClearField("producer_version")
    graphs = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        for field in ("node", "input", "output", "initializer", "value_info"):
            for item in getattr(graph, field, ()):
                item.ClearField("doc_string")
                item.ClearField("metadata_props")
                for attribute in getattr(item, "attribute", ()):
                    graphs += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    proto.graph.ClearField("value_info")
    return proto


def to_int8(graph: bytes, keep: Sequence[Array] = ()) -> bytes:
    """A graph whose matrix products by constants are done in int8: 7-bit weights a column, activations scaled as met.

    keep: weights (either way up) whose products stay in float. Seven bits, so that a processor without VNNI, which adds
    pairs in 16 bits, gives the same answers. Activations share one scale a tensor: a window's answer depends slightly
    on the windows asked with it. Equal graphs give equal bytes.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(graph)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    kept = {k for k, v in constants.items() if any(np.array_equal(v, w) or np.array_equal(v.T, w) for w in keep)}
    add_pre_process_metadata(model)  # or it advises to do what the exporter has done
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=True,
            nodes_to_exclude=[n.name for n in model.graph.node if kept.intersection(n.input)],
        )  # fmt: skip
        return bytes(strip(onnx.load(path)).SerializeToString(deterministic=True))


def session(graph: bytes) -> Callable[[dict[str, Array]], Array]:
    """A function from inputs, of which it picks those the graph reads, to the answer."""
    import onnxruntime

    loaded = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in loaded.get_inputs()]
    return lambda inputs: loaded.run(None, {k: inputs[k] for k in wanted})[0]


def parity(answer: Array, reference: Array) -> float:
    """Largest difference relative to the reference's own size."""
    return float(np.abs(answer - reference).max() / max(float(np.abs(reference).max()), 1e-12))
