"""Anomalies by a variational autoencoder: what it cannot say in a few numbers, or only in unusual ones, is unusual.

The answer's quantiles are those of a normal distribution a reading; its fifth name is what the code costs. A reading's
score is its negative evidence lower bound at the code's mean, see `core.answers.misfit`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.answers import QUANTILE
from pipelines.core.windows import Spec
from pipelines.models.objectives import anomaly

if TYPE_CHECKING:
    from torch import Tensor

NAMES = (*anomaly.names({}), "cost")
PRIMARY, HIGHER_IS_BETTER = anomaly.PRIMARY, anomaly.HIGHER_IS_BETTER
ACT, WHEN = anomaly.ACT, anomaly.WHEN
RECONSTRUCT, BOTH_SIDES, ANCHOR, CALIBRATION = True, False, "profile", anomaly.CALIBRATION
Array = np.ndarray[Any, Any]

truth, baselines, score = anomaly.truth, anomaly.baselines, anomaly.score


def names(aux: dict[str, Any]) -> tuple[str, ...]:
    """A forecast's, and what the code costs in nats a step."""
    return NAMES


def outputs(aux: dict[str, Any]) -> int:
    """Correction, raw spread, cost."""
    return 3


def network(backbone: Any, spec: Spec, aux: dict[str, Any]) -> Any:
    """The autoencoder, untrained."""
    from pipelines.models.vae import Autoencoder

    return Autoencoder(backbone, spec)


def draw(rng: np.random.Generator, network: Any, windows: int, channels: int) -> Array:
    """What codes are blurred with, standard normal [windows, channels, S, CODE]."""
    from pipelines.models.vae import CODE

    return rng.standard_normal((windows, channels, network.asked, CODE), dtype=np.float32)


def answer(anchor: "Tensor", raw: "Tensor", scale: "Tensor", aux: dict[str, Any]) -> "Tensor":
    """Normal quantiles around the decoded value; the spread begins as the profile's own error (aux["noise"] [H])."""
    import torch
    from torch.nn.functional import softplus

    begin = torch.log(torch.expm1(aux["noise"].clamp(min=1e-3)))[:, None]
    middle, width = anchor + scale * raw[..., 0], QUANTILE * scale * (softplus(raw[..., 1] + begin) + 0.01)
    return torch.stack([middle - width, middle, middle + width, middle, raw[..., 2]], dim=-1)


def loss(
    answer: "Tensor", truth: "Tensor", seen: "Tensor", unit: "Tensor", aux: dict[str, Any]
) -> tuple["Tensor", "Tensor"]:
    """Negative evidence lower bound of what was seen: its surprise, in each kind's usual spread [n], and the code."""
    spread = (answer[..., 2] - answer[..., 1]) / QUANTILE
    surprise = 0.5 * ((truth - answer[..., 1]) / spread) ** 2 + (spread / unit).log()
    return ((surprise + answer[..., 4]) * seen).sum(), seen.sum()


def from_values(values: Array, aux: dict[str, Any]) -> Array:
    """Certain of the value, at no cost."""
    return np.concatenate([anomaly.from_values(values, aux), np.zeros((*values.shape, 1), values.dtype)], axis=-1)
