"""Bidirectional LSTM layers over a channel's patches, for comparison: channels do not meet."""

from typing import cast

from torch import Tensor, nn

from pipelines.models.tokens import SIZES, Apart, Config


class Block(nn.Module):
    """An LSTM over patches in both directions, half the width each; pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.lstm(self.norm(x))[0])


class Backbone(Apart):
    """As many layers as the transformer of that size has."""

    def __init__(self, config: Config) -> None:
        width, layers, _ = SIZES[config.size]
        super().__init__(config, (Block(width) for _ in range(layers)))
