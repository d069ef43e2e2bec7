"""A text task's model as an ONNX graph whose bytes depend on the weights alone, checked against torch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.models import export

Array = np.ndarray[Any, Any]
PARITY = 1e-4
"""Largest difference allowed between ONNX Runtime and torch, relative to the largest number."""


def to_onnx(served: nn.Module, ids: Array, mask: Array) -> bytes:
    """Export with dynamic batch and length; `ids`, `mask` int64 [B, L], B of 2 or more."""
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnxscript"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            served.eval(), (torch.from_numpy(ids), torch.from_numpy(mask)), dynamo=True, dynamic_shapes=(dims, dims),
            input_names=["ids", "mask"], output_names=["probabilities"], verbose=False,
        )  # fmt: skip
    assert program is not None
    return bytes(export.strip(program.model_proto).SerializeToString(deterministic=True))


def session(graph: bytes) -> Callable[[Array, Array], Array]:
    """A function from `ids` and `mask` to probabilities."""
    ask = export.session(graph)
    return lambda ids, mask: ask({"ids": ids, "mask": mask})


def checked(served: nn.Module, ids: Array, mask: Array) -> tuple[bytes, dict[str, Array]]:
    """The graph, and golden `input.ids`, `input.mask` with their `answer`.

    Raises RuntimeError when ONNX Runtime and torch disagree, on these and on a shorter single message.
    """
    graph = to_onnx(served, ids, mask)
    ask = session(graph)
    for some in ((ids, mask), (ids[:1, :5], mask[:1, :5])):
        with torch.no_grad():
            wanted = served(*(torch.from_numpy(a) for a in some)).numpy()
        off = export.parity(ask(*some), wanted)
        if off > PARITY:
            raise RuntimeError(f"the exported graph differs from torch by {off:.1e} relative; allowed {PARITY:.0e}")
    return graph, {"input.ids": ids, "input.mask": mask, "answer": ask(ids, mask)}
