"""Bidirectional LSTM layers over a channel's patches, for comparison: channels do not meet."""

from typing import cast

from torch import Tensor, nn

from pipelines.models.tokens import SIZES, Channels, Config, Tokens


class Block(nn.Module):
    """An LSTM over patches in both directions, half the width each; pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.lstm(self.norm(x))[0])


class Backbone(nn.Module):
    """As many layers as the transformer of that size has."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.width, layers, _ = SIZES[config.size]
        self.tokens = Tokens(config)
        self.blocks = nn.ModuleList(Block(self.width) for _ in range(layers))
        self.norm = nn.LayerNorm(self.width)

    def forward(
        self, cadence: str, x: Tensor, observed: Tensor, usual: Tensor, window: Tensor, calendar: Tensor,
        channels: Channels, only: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[B, N, S, D], as `Tokens.forward`; with `only` [M], numbers of tokens, just those, [M, D]."""
        tokens = self.tokens(cadence, x, observed, usual, window, calendar, channels)
        b, n, s, d = tokens.shape
        tokens = tokens.reshape(b * n, s, d)
        for block in self.blocks:
            tokens = block(tokens)
        if only is not None:
            return cast(Tensor, self.norm(tokens.reshape(-1, d).index_select(0, only)))
        return cast(Tensor, self.norm(tokens)).reshape(b, n, s, d)
