"""How much of what training taught is kept: a correction must earn its place twice, as an anchor's peers must.

Validation is the weeks after training, and what helps there may be of that season alone, most so with few labels.
So training is rehearsed: the same, on the first three quarters of the windows, judged by the last one. Of the head's
correction to the ridge the share is kept that helped on the mean of both periods. The head is linear and comes last:
a share of its weights is a share of the correction, and a bundle has no new part.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.models.adapt import Adaptation, Lessons
from pipelines.models.data import spread_out

Array = np.ndarray[Any, Any]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED = 192
"""Windows of a period that shares are judged by."""


def keep(adapted: Adaptation, prepare: Callable[[Lessons], Adaptation], what: str) -> list[float]:
    """Weaken the trained head in place; the share kept of each part of its outputs that is judged apart.

    `prepare` makes the untrained model again, to be taught other lessons. All is kept (and nothing told) of a model
    whose anchor was not solved on the windows learnt from; where these are too few to rehearse, validation decides.
    """
    if not adapted.fitted:
        return []
    periods = [adapted]
    lessons = adapted.lessons.rehearsal(adapted.data)
    if lessons is not None:
        periods.append(prepare(lessons))
        periods[-1].train(what, alone=True)
    shares: list[float] = np.mean([asked(period) for period in periods], axis=0).tolist()
    weaken(adapted, shares)
    return shares


def asked(adapted: Adaptation) -> Array:
    """Of each part the share that misses least on windows held back, the smallest of equals."""
    missed = adapted.misses(spread_out(adapted.lessons.held, JUDGED), SHARES)
    return np.array(SHARES)[missed.argmin(0)]


@torch.no_grad()
def weaken(adapted: Adaptation, shares: Sequence[float]) -> None:
    """Keep those shares of the head's correction, a part of its outputs each."""
    head, outputs = adapted.model.head, adapted.model.outputs
    factor = torch.ones(outputs)
    for part, share in zip(adapted.objective.APART, shares, strict=True):
        factor[part] = share
    every = factor.repeat(len(head.bias) // outputs)  # the outputs of each of a patch's steps
    head.weight.mul_(every[:, None])
    head.bias.mul_(every)
