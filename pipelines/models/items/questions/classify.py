"""What a picture or message is: one of some labels, with probabilities."""

from typing import Any

import numpy as np

from pipelines.core import metrics
from pipelines.models.evaluation.points import Cells
from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
PRIMARY = "macro_f1"
ACT = "tells which of {names} is true of"
BESIDE = "logistic"


def asked(items: Items) -> Items:
    return items.take(truth(items) >= 0)


def truth(items: Items) -> Array:
    """The number of each item's label, [N]; −1 for a label that the task does not tell apart, or none."""
    number = {name: i for i, name in enumerate(items.names)}
    if items.modality == "text":
        return np.array([number.get(label, -1) for label in items.column("label")], int)
    first = [next((number[x] for x in labels or () if x in number), -1) for labels in items.column("labels")]
    return np.array(first, int)


def counts(items: Items) -> Array:
    """How often each label occurs, [C]."""
    return np.bincount(truth(items), minlength=len(items.names))


def ask(predictor: Any) -> Any:
    def answer(inputs: Any, items: Items) -> Array:
        found: Array = predictor.probabilities(inputs)
        return found

    return answer


def baselines(fit: Items) -> dict[str, Any]:
    """The commonest label, and a logistic regression on plain features."""
    from pipelines.models.items import plain

    label = truth(fit)
    share = np.bincount(label, minlength=len(fit.names)) / max(len(label), 1)
    found = {"majority": lambda inputs, items: np.tile(share, (len(items), 1))}
    if len(np.unique(label)) > 1:
        found["logistic"] = plain.logistic(fit, label)
    return found


def score(answer: Array, truth: Array, names: tuple[str, ...]) -> dict[str, float]:
    """As `core.metrics.classes`."""
    return metrics.classes(answer, truth.astype(float), names, answer.argmax(-1))


def points(answer: Array, truth: Array, names: tuple[str, ...]) -> Cells:
    return Cells(truth * len(names) + answer.argmax(-1), len(names) ** 2, metrics.macro_f1)


def by_class(answer: Array, truth: Array, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and how many there are, by label."""
    given = answer.argmax(-1)
    return {
        name: {**metrics.alarms(given == c, (truth == c).astype(float)), "n": int((truth == c).sum())}
        for c, name in enumerate(names)
    }


def wrong(answer: Array, truth: Array) -> Array:
    """One less the probability of what is true."""
    off: Array = 1 - answer[np.arange(len(truth)), truth]
    return off


def said(answer: Array, names: tuple[str, ...]) -> Array:
    """The answers as counts of each label, [N, C]."""
    return np.eye(len(names))[answer.argmax(-1)]
