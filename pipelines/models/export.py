"""A trained task model as an ONNX graph whose bytes depend on the weights alone."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
INPUTS = ("values", "observed", "profile", "calendar", "mean", "std", "place", "kind", "sensor", "reference")
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
        place: Tensor, kind: Tensor, sensor: Tensor, reference: Tensor,
    ) -> Tensor:  # fmt: skip
        anchor, raw, scale = self.model(values, observed, profile, calendar, mean, std, place, kind, sensor)
        answer: Tensor = self.objective.answer(anchor, raw, scale, {**self.aux, "reference": reference})
        return answer


def to_onnx(model: nn.Module, inputs: dict[str, Array]) -> bytes:
    """Export with dynamic batch and sensors; strip names of source files and anything else that is no computation."""

    model.eval()
    batch, sensors = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = {
        **{k: {0: batch, 2: sensors} for k in ("values", "observed", "profile")},
        "calendar": {0: batch},
        **{k: {0: sensors} for k in ("mean", "std", "place", "kind", "sensor", "reference")},
    }
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


def session(graph: bytes) -> Callable[[dict[str, Array]], Array]:
    """A function from inputs, of which it picks those the graph reads, to the answer."""
    import onnxruntime

    loaded = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in loaded.get_inputs()]
    return lambda inputs: loaded.run(None, {k: inputs[k] for k in wanted})[0]


def parity(answer: Array, reference: Array) -> float:
    """Largest difference relative to the reference's own size."""
    return float(np.abs(answer - reference).max() / max(float(np.abs(reference).max()), 1e-12))
