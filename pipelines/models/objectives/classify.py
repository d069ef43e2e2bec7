"""Which of several ordered states each later step will be in: ranges of value ÷ the channel's reference."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import metrics
from pipelines.models.objectives import forecast

if TYPE_CHECKING:
    from torch import Tensor

PRIMARY, HIGHER_IS_BETTER = "macro_f1", True
ACT, WHEN = "tells the class of", "for the next"
RECONSTRUCT, BOTH_SIDES, ANCHOR = False, False, "ridge"
CALIBRATION: tuple[str, ...] = ("decision",)
APART = (slice(None),)
Array = np.ndarray[Any, Any]

baselines = forecast.baselines


def names(aux: dict[str, Any]) -> tuple[str, ...]:
    """The classes, lowest range first."""
    return tuple(aux["names"])


def outputs(aux: dict[str, Any]) -> int:
    """A correction to each class's logit."""
    return len(aux["names"])


def answer(anchor: "Tensor", raw: "Tensor", scale: "Tensor", aux: dict[str, Any]) -> "Tensor":
    """Class probabilities [B, H, n, C]: an ordinal probit around the ridge's value, corrected by the head.

    The value is taken as normal around `anchor` with the ridge's own error (aux["noise"] [H], in scales); the
    probability of a class is the mass between its edges.
    """
    import torch

    edges = aux["reference"][:, None] * torch.as_tensor(aux["edges"], dtype=anchor.dtype, device=anchor.device)
    spread = (scale * aux["noise"].clamp(min=1e-3)[:, None])[..., None]
    below = 0.5 * (1 + torch.erf((edges - anchor[..., None]) / (spread * 2**0.5)))
    ends = torch.cat([torch.zeros_like(below[..., :1]), below, torch.ones_like(below[..., :1])], dim=-1)
    prior = (ends[..., 1:] - ends[..., :-1]).clamp(min=1e-3).log()
    return (prior + raw).softmax(-1)


def loss(
    answer: "Tensor", truth: "Tensor", seen: "Tensor", unit: "Tensor", aux: dict[str, Any]
) -> tuple["Tensor", "Tensor"]:
    """Cross-entropy, unweighted, so that probabilities stay probabilities; rare classes are `decide`'s matter."""
    return (misses(answer, truth, unit, aux)[..., 0] * seen).sum(), seen.sum()


def misses(answer: "Tensor", truth: "Tensor", unit: "Tensor", aux: dict[str, Any]) -> "Tensor":
    """Cross-entropy of each point."""
    label = truth.clamp(min=0).long()
    return -answer.gather(-1, label[..., None]).clamp(min=1e-6).log()


def truth(values: Array, aux: dict[str, Any]) -> Array:
    """Class numbers (NaN where nothing was measured) of readings [..., n] against aux["reference"] [n]."""
    share = values / np.asarray(aux["reference"])
    return np.where(np.isfinite(values), np.searchsorted(np.asarray(aux["edges"]), np.nan_to_num(share)), np.nan)


def from_values(values: Array, aux: dict[str, Any]) -> Array:
    """Certain of the class that the value lies in, but for 3 % shared by the others."""
    classes = len(aux["names"])
    chosen = truth(values, aux)[..., None] == np.arange(classes)
    return np.where(chosen, 0.97, 0.03 / (classes - 1))


def decide(probabilities: Array, truth: Array, rounds: int = 2) -> Array:
    """What to multiply each class's probability by before taking the largest, for the best macro F1; float32 [C].

    Chosen on validation, class by class; `probabilities` [..., C], `truth` [...] of class numbers or NaN.
    """
    seen = np.isfinite(truth)
    p, y = probabilities[seen], truth[seen].astype(int)
    factors = np.ones(p.shape[-1])
    grid = 2.0 ** np.linspace(-1.5, 1.5, 13)
    for _ in range(rounds if len(y) else 0):
        for c in range(len(factors)):
            tried = []
            for value in grid:
                trial = np.where(np.arange(len(factors)) == c, value, factors)
                tried.append((_macro_f1((p * trial).argmax(-1), y, len(factors)), -abs(np.log(value)), value))
            factors[c] = max(tried)[2]
    return factors.astype(np.float32)


def _macro_f1(guess: Array, truth: Array, classes: int) -> float:
    table = np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)
    size = table.sum(0) + table.sum(1)
    return float((2 * np.diag(table)[size > 0] / size[size > 0]).mean())


def chosen(answer: Array, aux: dict[str, Any]) -> Array:
    """The class an answer means: the largest probability after aux["decision"], where there is one."""
    return (answer * aux.get("decision", 1)).argmax(-1)


def score(answer: Array, truth: Array, aux: dict[str, Any]) -> dict[str, float]:
    """Accuracy, macro F1, log loss and F1 a class."""
    return metrics.classes(answer, truth, names(aux), chosen(answer, aux))


def errors(answer: Array, truth: Array, aux: dict[str, Any]) -> Array:
    """1 where the likeliest class is wrong, NaN where there is no truth; lower is better."""
    return np.where(np.isfinite(truth), chosen(answer, aux) != truth, np.nan)
