"""A residual network of dilated convolutions over a channel's patches, for comparison: channels do not meet.

As the encoder of a temporal convolutional network (Bai et al., 2018), but looking both ways: what is asked for are
masked patches, before, between or after the known ones.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.models.tokens import SIZES, Apart, Config

DILATIONS = (1, 2, 4, 8)


class Block(nn.Module):
    """A convolution of three patches, `dilation` apart, and a two-layer perceptron; both pre-norm."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.gelu(self.mix(self.norm(x).transpose(1, 2))).transpose(1, 2)
        return x + cast(Tensor, self.mlp(self.mlp_norm(x)))


class Backbone(Apart):
    """Twice as many blocks as the transformer of that size has layers, each cheaper; dilations 1, 2, 4, 8 in turn."""

    def __init__(self, config: Config) -> None:
        width, layers, _ = SIZES[config.size]
        super().__init__(config, (Block(width, DILATIONS[i % 4]) for i in range(2 * layers)))
