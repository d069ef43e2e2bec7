"""A variational autoencoder over a channel's patches (Kingma and Welling, 2014): it may look, but must be brief.

Where the masked reconstruction hides what it answers, this one reads it and passes it on through a few numbers a
patch. What is usual fits through, what is not comes out wrong (An and Cho, 2015), and takes an unusual code.

Shapes: as `series`, and Z numbers a code.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.core.windows import Spec
from pipelines.models.series import TaskModel

CODE = 4
"""Numbers a patch is passed on through."""


class Codes(nn.Module):
    """Tokens [B, N, S, D] → of each step a correction to the anchor, a raw spread and what the code costs.

    The cost is the code's divergence from its prior in nats, shared evenly by the patch's steps: summed with each
    reading's surprise it is the negative evidence lower bound. Untrained, the correction is 0 and codes cost nothing.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.encode, self.decode, self.out = (
            nn.Linear(width, 2 * CODE),
            nn.Linear(CODE, width),
            nn.Linear(width, 2 * patch),
        )
        for layer in (self.encode, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.encode.weight, std=1e-2)
        nn.init.normal_(self.out.weight, std=1e-3)

    def forward(self, tokens: Tensor, epsilon: Tensor | None = None) -> Tensor:
        mean, spread = self.encode(tokens).chunk(2, dim=-1)
        code = mean if epsilon is None else mean + (0.5 * spread).exp() * epsilon
        cost = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(-1, keepdim=True) / self.patch
        said = self.out(F.gelu(self.decode(code))).unflatten(-1, (self.patch, 2))
        return torch.cat([said, cost[..., None].expand(*said.shape[:-1], 1)], dim=-1).flatten(-2)


class Autoencoder(TaskModel):
    """A `TaskModel` that hides nothing and whose head is `Codes`: it needs the noise only while it is trained."""

    hides = False

    def __init__(self, backbone: Any, spec: Spec) -> None:
        super().__init__(backbone, spec, 3, reconstruct=True)
        self.head: Any = Codes(backbone.width, spec.patch)
        self._epsilon: Tensor | None = None

    def forward(self, *given: Tensor, epsilon: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As `TaskModel.forward`; epsilon: standard normal [B, N, S asked, CODE]. Without it the code is its mean."""
        self._epsilon = epsilon
        return super().forward(*given)

    def said(self, asked: Tensor) -> Tensor:
        said: Tensor = self.head(asked, self._epsilon)
        return said
