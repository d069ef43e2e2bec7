"""Kinds of question, one file each, all of one shape. Whoever uses one asks it, and never for its name.

    PRIMARY, HIGHER_IS_BETTER    the metric a gate looks at
    ACT, WHEN                    a card's words: what the model does, and for which steps
    RECONSTRUCT                  the asked steps lie inside the window, and each half of the channels is hidden in turn
    BOTH_SIDES                   readings follow the asked steps (RECONSTRUCT too)
    ANCHOR                       what the untrained model answers: the `ridge`, or the `profile` itself
    CALIBRATION                  chosen on validation: `spread` of quantiles, `decision` between classes, `alarm`
    names(aux)                   what stands on the last axis of an answer
    outputs(aux)                 raw head outputs a step
    answer(anchor, raw, scale, aux) -> Tensor [B, H, n, len(names)]     (torch)
    loss(answer, truth, seen, unit, aux) -> (sum, weight)               (torch)
    APART                        slices of the raw outputs that are judged apart, see `models.earned`
    misses(answer, truth, unit, aux) -> Tensor [B, H, n, len(APART)]    (torch)
    truth(values, aux) -> [B, H, n]                 what was asked, from readings (numpy from here on)
    from_values(values, aux) -> [B, H, n, names]    an answer made of plain values, for baselines
    baselines(batch, spec, known, n) -> name -> [B, H, n]    plain values to beat, beside the ridge
    score(answer, truth, aux) -> metrics
    errors(answer, truth, aux) -> [B, H, n]         lower is better; an objective with alarms ranks instead

Those whose anchor is the profile have neither APART nor misses. A sibling whose network is not
`models.series.TaskModel` also has

    network(backbone, spec, aux) -> Module          called as a TaskModel is, with `epsilon` after it where there is one
    draw(rng, network, windows, channels) -> epsilon    the noise it is trained with, of all windows of a step

`aux` holds what an objective needs beside readings: class names and edges, reference [n], noise [H], ….
What a row answer holds is `core.answers.MORE`. torch is imported inside the functions that use it, so that scoring
needs none.
"""

import importlib
from typing import Any

from pipelines.core.params import Task


def of(task: Task) -> Any:
    """The sibling that answers `task`: the one of its objective, or of the head it names."""
    return load(task.finetune.head or task.objective)


def of_bundle(config: dict[str, Any]) -> Any:
    """The sibling that a bundle of this config answers with."""
    return load(config["head"] or config["objective"])


def load(name: str) -> Any:
    """The sibling called `name`."""
    return importlib.import_module(f"pipelines.models.objectives.{name}")
