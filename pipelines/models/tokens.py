"""What every family of backbone shares: its configuration, what it is told of channels, and tokens made from patches.

Shapes: B windows, N channels, S patches, P steps a patch, D width, T = S·P steps, K neighbours.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipelines.core.calendar import FEATURES
from pipelines.core.windows import LEAD, PATCHES

SIZES = {"tiny": (48, 3, 4), "small": (256, 8, 8), "base": (512, 14, 8), "large": (1024, 28, 16)}
"""width, layers, heads: about 0.07, 5, 37 and 294 million parameters."""
PLACES = 12


@dataclass(frozen=True)
class Config:
    """What it takes to build a backbone again. `kinds`, `sensors` and `units` are vocabularies; number 0 is unknown."""

    size: str
    kinds: tuple[str, ...]
    sensors: tuple[str, ...]
    centre: tuple[float, float] = (0.0, 0.0)
    units: tuple[str, ...] = ()
    family: str = "transformer"
    space: bool = True
    """Attention over channels; without it (a benchmark's wish) every channel is on its own."""

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Config":
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**known)


class Channels(NamedTuple):
    """What a backbone is told of each channel, beside its readings.

    `near` and `close` come from `models.near`: with columns in `near`, a channel attends to those alone; else to all,
    `close` being an additive bias [N, N] where there is a graph and empty [N, 0] where there is none.
    """

    place: Tensor  # [N, PLACES]
    kind: Tensor  # [N]
    sensor: Tensor  # [N]
    unit_id: Tensor  # [N]
    near: Tensor  # [N, K] or [N, 0]
    close: Tensor  # [N, K], [N, N] or [N, 0]


class Tokens(nn.Module):
    """A token a patch: values, differences, observed flags and usual values, with level and scale, moment and channel.

    The projection of a patch is the cadence class's own; all the rest is shared by all sources.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = SIZES[config.size][0]
        self.patch = nn.ModuleDict({c: nn.Linear(4 * p, width) for c, p in PATCHES.items()})
        self.window = nn.Linear(2, width)
        self.moment = nn.Linear(FEATURES + LEAD, width)
        self.place = nn.Linear(PLACES, width)
        self.kind = nn.Embedding(len(config.kinds) + 1, width)
        self.unit = nn.Embedding(len(config.units) + 1, width)
        self.sensor = nn.Embedding(len(config.sensors) + 1, width)
        for table in (self.kind, self.unit, self.sensor):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self,
        cadence: str,
        x: Tensor,  # [B, T, N] normalised values, 0 where hidden
        observed: Tensor,  # [B, T, N]
        usual: Tensor,  # [B, T, N] normalised profile
        window: Tensor,  # [B, N, 2] level and scale of the window against the channel's own
        calendar: Tensor,  # [B, S, FEATURES + LEAD]
        channels: Channels,
    ) -> Tensor:
        """[B, N, S, D]."""
        b, t, n = x.shape
        p = PATCHES[cadence]
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        known = torch.cat([observed[:, :1], observed[:, 1:] * observed[:, :-1]], dim=1)
        parts = [part.reshape(b, t // p, p, n).permute(0, 3, 1, 2) for part in (x, change * known, observed, usual)]
        who = self.kind(channels.kind) + self.unit(channels.unit_id) + self.sensor(channels.sensor)
        who = who + self.place(channels.place) + self.window(window)
        tokens: Tensor = self.patch[cadence](torch.cat(parts, dim=-1))
        return tokens + who[:, :, None] + self.moment(calendar)[:, None]


class Apart(nn.Module):
    """A backbone whose channels do not meet: `blocks` map each channel's tokens [B·N, S, D] to as many."""

    def __init__(self, config: Config, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.config, self.width = config, SIZES[config.size][0]
        self.tokens = Tokens(config)
        self.blocks = nn.ModuleList(blocks)
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
