"""Kinds of question, one file each, all of one shape.

    NAMES                        what stands on the last axis of an answer
    PRIMARY, HIGHER_IS_BETTER    the metric a gate looks at
    MODEL_ONLY                   metrics that a plain value cannot have
    outputs(aux)                 raw head outputs a step
    answer(anchor, raw, scale, aux) -> Tensor [B, H, n, len(names)]     (torch)
    loss(answer, truth, seen, unit, aux) -> (sum, weight)               (torch)
    truth(values, aux) -> [B, H, n]                 what was asked, from readings (numpy from here on)
    from_values(values, aux) -> [B, H, n, names]    an answer made of plain values, for baselines
    score(answer, truth, aux) -> metrics

`aux` holds what an objective needs beside readings: class names and edges, reference [n], noise [H], ….
torch is imported inside the functions that use it, so that scoring needs none.
"""

import importlib
from typing import Any


def load(name: str) -> Any:
    """The sibling called `name`."""
    return importlib.import_module(f"pipelines.models.objectives.{name}")
