"""Where a model looked: integrated gradients over a picture, drawn as a PNG.

Integrated gradients (Sundararajan et al., 2017), by captum: of the likeliest class, or of the surest box's score, on
the way from a blurred picture to the picture. They add up to what the picture changes, for either family alike.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.core import pictures
from pipelines.models.image import models

Array = np.ndarray[Any, Any]
STEPS = 24
BLUR = 9
"""Cells a side that the blurred picture keeps."""
TIMES = 3
"""Drawn so many times as large as the model saw it."""


def explain(folder: Path, pixels: Array) -> bytes:
    """A PNG of a bundle's picture, uint8 [S, S, 3], beside what spoke for (red) and against (blue) its answer."""
    return drawn(pixels, attribution(models.load(folder), pixels))


def attribution(model: models.Model, pixels: Array) -> Array:
    """What each pixel adds to the main answer, float32 [S, S]."""
    from captum.attr import IntegratedGradients

    model.requires_grad_(False)
    given = torch.tensor(pixels)[None].float()
    side = given.shape[1]
    small = torch.nn.functional.adaptive_avg_pool2d(given.permute(0, 3, 1, 2), BLUR)
    blurred = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear").permute(0, 2, 3, 1)
    target = int(model.answer(given)[0].argmax()) if isinstance(model, models.Classifier) else None

    def asked(x: Tensor) -> Tensor:
        found = model.answer(x)
        return found[:, target] if isinstance(model, models.Classifier) else found[1][:, 0]

    found = IntegratedGradients(asked).attribute(given, blurred, n_steps=STEPS, internal_batch_size=8)
    out: Array = found[0].sum(-1).detach().numpy().astype(np.float32)
    return out


def drawn(pixels: Array, told: Array) -> bytes:
    """The picture, and beside it the same in grey under `told`."""
    side = len(pixels)
    # A cell's own gradients are noise: what is looked at is larger.
    cells = torch.from_numpy(told)[None, None]
    smooth = torch.nn.functional.avg_pool2d(cells, 5, 1, 2)[0, 0].numpy()
    strength = np.clip(smooth / max(float(np.quantile(np.abs(smooth), 0.99)), 1e-12), -1, 1)[..., None]
    grey = pixels.mean(-1, keepdims=True) * np.ones(3)
    colour = np.where(strength > 0, (214, 39, 40), (31, 119, 180))
    share = 0.75 * np.abs(strength)
    over = ((1 - share) * (0.35 * grey + 140) + share * colour).round().astype(np.uint8)
    whole = np.concatenate([pixels, np.full((side, 4, 3), 255, np.uint8), over], 1)
    return pictures.png(whole.repeat(TIMES, 0).repeat(TIMES, 1))
