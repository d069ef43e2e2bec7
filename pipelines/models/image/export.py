"""A picture task's model as an ONNX graph whose bytes depend on the weights alone, checked against torch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.models import export
from pipelines.models.image.models import Model

Array = np.ndarray[Any, Any]
PARITY = 1e-4
"""Largest difference allowed between ONNX Runtime and torch, relative to the largest number; series' is tighter, but
these nets are deeper."""

SAME = 0.95
"""Of boxes: what share must lie where torch has them."""
WORSE, SMALLER = 0.01, 0.75


class Served(nn.Module):
    """A model as its graph."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Any:
        return self.model.answer(pixels)


def to_onnx(model: Model, pixels: Array) -> bytes:
    """Export with a dynamic batch; `pixels` uint8 [B, S, S, 3] with B of 2 or more."""
    served = Served(model).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnxscript"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            served, (torch.from_numpy(pixels),), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["pixels"], output_names=list(model.OUTPUTS), verbose=False,
        )  # fmt: skip
    assert program is not None
    return bytes(export.strip(program.model_proto).SerializeToString(deterministic=True))


def session(graph: bytes) -> Any:
    """A function from pixels to the graph's answers by name."""
    import onnxruntime

    loaded = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [o.name for o in loaded.get_outputs()]
    return lambda pixels: dict(zip(names, loaded.run(None, {"pixels": pixels}), strict=True))


def checked(model: Model, pixels: Array) -> tuple[bytes, dict[str, Array]]:
    """The graph, and golden `input.pixels` with `answer` or `answer.<name>`.

    Raises RuntimeError when ONNX Runtime and torch disagree on `pixels`. Of boxes the order is the scores' alone, which
    may tie: they are compared by their scores, and each as it lies nearest.
    """
    graph = to_onnx(model, pixels)
    found = session(graph)(pixels)
    with torch.no_grad():
        told = model.answer(torch.from_numpy(pixels))
    wanted = dict(zip(model.OUTPUTS, (told,) if isinstance(told, Tensor) else told, strict=True))
    off = _off(found, {k: v.numpy() for k, v in wanted.items()})
    if off > PARITY:
        raise RuntimeError(f"the exported graph differs from torch by {off:.1e} relative; allowed {PARITY:.0e}")
    if len(found) == 1:
        return graph, {"input.pixels": pixels, "answer": next(iter(found.values()))}
    return graph, {"input.pixels": pixels, **{f"answer.{k}": v for k, v in found.items()}}


def smaller(graph: bytes, ask: Callable[[Any], float]) -> tuple[bytes | None, dict[str, Any]]:
    """The graph in int8, if by `ask`, which tells what share a session gets right, it is at most WORSE below the float
    one and of at most SMALLER its size; and what was found."""
    made = export.to_int8(graph)
    exact, rough = ask(session(graph)), ask(session(made))
    pays = exact - rough <= WORSE and len(made) <= SMALLER * len(graph)
    told = {"metric": "accuracy", "float": exact, "int8": rough, "size": len(made) / len(graph)}
    return made if pays else None, {"included": pays, **told}


def _off(found: dict[str, Array], wanted: dict[str, Array]) -> float:
    if "boxes" not in wanted:
        return max(export.parity(found[k], v) for k, v in wanted.items())
    worst = export.parity(found["scores"], wanted["scores"])
    sure = wanted["scores"] > 0.01 * wanted["scores"].max()  # of the rest, which of many equals is told is chance
    far = np.abs(found["boxes"][:, :, None] - wanted["boxes"][:, None]).max(-1)
    far = np.where(found["labels"][:, :, None] == wanted["labels"][:, None], far, np.inf).min(1)
    # A peak between neighbours that are equal but for rounding lies on either: some few may differ.
    return max(worst, float(np.quantile(far[sure], SAME, method="lower")) if sure.any() else 0.0)
