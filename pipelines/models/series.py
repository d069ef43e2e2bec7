"""A masked-patch transformer for sensor series, with factorised attention over time and over sensors.

Readings are cut into patches as in PatchTST (Nie et al., 2023); attention runs over time within a channel, then over
channels within a patch, as in factorised video transformers (Arnab et al., 2021). What is asked for, later steps or
hidden ones, is a masked patch: pretraining, forecasting and reconstruction are one operation.

Shapes: B windows, N channels, S patches, P steps a patch, D width, T = S·P steps.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.core.calendar import FEATURES
from pipelines.core.windows import LEAD, PATCHES, Spec, known_steps

SIZES = {"tiny": (48, 3, 4), "small": (256, 6, 8), "base": (512, 12, 8), "large": (1024, 24, 16)}
"""width, layers, heads: about 0.1, 5, 38 and 300 million parameters."""
PLACES = 12


@dataclass(frozen=True)
class Config:
    """What it takes to build the backbone again. `kinds` and `sensors` are vocabularies; number 0 is unknown."""

    size: str
    kinds: tuple[str, ...]
    sensors: tuple[str, ...]
    centre: tuple[float, float] = (0.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Config":
        return cls(data["size"], tuple(data["kinds"]), tuple(data["sensors"]), (data["centre"][0], data["centre"][1]))


class Attention(nn.Module):
    """Self-attention over the second of three axes: [groups, length, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        groups, length, width = x.shape
        # 4-D throughout: the ONNX exporter refuses attention in five dimensions.
        q, k, v = self.qkv(x).reshape(groups, length, 3 * self.heads, -1).transpose(1, 2).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(groups, length, width))


class Block(nn.Module):
    """Attention over time, attention over channels, then a two-layer perceptron; all pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.time_norm, self.space_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.time, self.space = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, s, d = x.shape
        x = x + self.time(self.time_norm(x).reshape(b * n, s, d)).reshape(b, n, s, d)
        across = self.space_norm(x).transpose(1, 2).reshape(b * s, n, d)
        x = x + self.space(across).reshape(b, s, n, d).transpose(1, 2)
        return x + self.mlp(self.mlp_norm(x))


class Backbone(nn.Module):
    """Tokens from patches. `forward` gives [B, N, S, D] for S patches of context and future together."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, layers, heads = SIZES[config.size]
        self.width = width
        # A patch's token: values, observed flags and usual values, plus the window's level and scale.
        self.patch = nn.ModuleDict({c: nn.Linear(3 * p + 2, width) for c, p in PATCHES.items()})
        self.moment = nn.Linear(FEATURES + LEAD, width)
        self.place = nn.Linear(PLACES, width)
        self.kind = nn.Embedding(len(config.kinds) + 1, width)
        self.sensor = nn.Embedding(len(config.sensors) + 1, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.kind.weight, std=0.02)
        nn.init.normal_(self.sensor.weight, std=0.02)

    def forward(
        self,
        cadence: str,
        x: Tensor,  # [B, T, N] normalised values, 0 where hidden
        observed: Tensor,  # [B, T, N]
        usual: Tensor,  # [B, T, N] normalised profile
        window: Tensor,  # [B, N, 2] level and scale of the window against the channel's own
        calendar: Tensor,  # [B, S, FEATURES + LEAD]
        place: Tensor,  # [N, PLACES]
        kind: Tensor,  # [N]
        sensor: Tensor,  # [N]
    ) -> Tensor:
        b, t, n = x.shape
        p = PATCHES[cadence]
        s = t // p

        def patches(values: Tensor) -> Tensor:
            return values.transpose(1, 2).reshape(b, n, s, p)

        seen = patches(observed)
        per_patch = torch.cat([patches(x), seen, patches(usual), window[:, :, None, :].expand(b, n, s, 2)], dim=-1)
        who = self.kind(kind) + self.sensor(sensor) + self.place(place)
        tokens = self.patch[cadence](per_patch) + self.moment(calendar)[:, None] + who[None, :, None]
        tokens = tokens + (seen.amax(-1, keepdim=True) < 0.5) * self.hidden
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def normalise(values: Tensor, usual: Tensor, known: int, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Level, level of the profile and scale over the first `known` steps of [B, T, N]; each [B, 1, N].

    The scale is half the window's own and half the channel's long-run one, so that a quiet night does not blow up.
    """
    level = values[:, :known].mean(1, keepdim=True)
    usual_level = usual[:, :known].mean(1, keepdim=True)
    spread = ((values[:, :known] - level) ** 2).mean(1, keepdim=True)
    return level, usual_level, (0.5 * spread + 0.5 * std**2).sqrt()


class Pretraining(nn.Module):
    """Backbone with a reconstruction head: the answer is profile shape at the window's level plus a correction."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict({c: nn.Linear(backbone.width, p) for c, p in PATCHES.items()})
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, cadence: str, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised reconstruction and truth, both [B, T, N]; `mask` [B, S, N] is 1 where a patch is hidden."""
        values, observed, usual = batch["values"], batch["observed"], batch["profile"]
        p = PATCHES[cadence]
        shown = 1 - mask.repeat_interleave(p, dim=1)
        weight = shown * observed + 1e-4 * shown + 1e-8
        level = (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        usual_level = (usual * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        spread = ((values - level) ** 2 * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        scale = (0.5 * spread + 0.5 * batch["std"] ** 2).sqrt()
        truth, shape = (values - level) / scale, (usual - usual_level) / scale
        window = window_features(level, scale, batch["mean"], batch["std"])
        tokens = self.backbone(
            cadence, truth * shown, observed * shown, shape, window, batch["calendar"],
            batch["place"], batch["kind"], batch["sensor"],
        )  # fmt: skip
        b, n, s, _ = tokens.shape
        correction = self.head[cadence](tokens).reshape(b, n, s * p).transpose(1, 2)
        return shape + correction, truth


def window_features(level: Tensor, scale: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, N, 2]: how high and how wide a window is, [B, 1, N] each, against the channel's long run, [N] each."""
    return torch.stack([((level - mean) / std)[:, 0], (scale / std).log()[:, 0]], dim=-1)


class TaskModel(nn.Module):
    """Backbone, anchor and a zero-initialised head for one task.

    Before training it answers as its anchor does, the closed-form ridge (`pipelines.models.ridge`), and the early stop
    counts that as the first candidate: by the validation loss, training may only improve on it.

    `reconstruct`: the asked steps lie inside the window; each half of the channels is hidden there in turn, so that a
    channel is answered by what it read around them and by its neighbours' present. Where nothing follows them, the
    anchor is the profile itself at the channel's long-run level: one that follows the window would follow a lasting
    anomaly too.
    """

    def __init__(self, backbone: Backbone, spec: Spec, outputs: int, reconstruct: bool = False) -> None:
        super().__init__()
        self.backbone, self.reconstruct, self.outputs = backbone, reconstruct, outputs
        self.cadence, self.patch, self.context, self.horizon = spec.cadence, spec.patch, spec.context, spec.horizon
        self.asked, self.known = spec.future // spec.patch, known_steps(spec, reconstruct)
        self.after, self.follows = spec.after, spec.after > 0 or not reconstruct
        self.head = nn.Linear(backbone.width, spec.patch * outputs)
        self.anchor = nn.Linear(2 * (self.known + self.after) + spec.horizon, spec.horizon)
        for layer in (self.head, self.anchor):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, values: Tensor, observed: Tensor, profile: Tensor, calendar: Tensor, mean: Tensor, std: Tensor,
        place: Tensor, kind: Tensor, sensor: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Anchor [B, H, N] in units, raw head outputs [B, H, N, outputs] and scale [B, 1, N].

        values, observed: [B, context, N]; profile: [B, context + future, N]; the rest as in `Backbone.forward`.
        """
        if self.follows:
            level, usual_level, scale = normalise(self._around(values), self._around(profile), self.context, std)
        else:
            level = torch.zeros_like(values[:, :1]) + mean
            usual_level, scale = level, torch.zeros_like(level) + std
        x, shape = (values - level) / scale, (profile - usual_level) / scale
        window = window_features(level, scale, mean, std)
        usual = shape[:, self.known : self.known + self.horizon]
        anchor = level + scale * usual
        if self.follows:
            given = torch.cat([self._around(x), self._around(shape), usual], dim=1).transpose(1, 2)
            anchor = anchor + scale * self.anchor(given).transpose(1, 2)

        who = (place, kind, sensor)
        if self.reconstruct:
            shape, calendar = shape[:, : self.context], calendar[:, : self.context // self.patch]
            step = torch.arange(self.context, device=x.device)
            inside = (step >= self.known) & (step < self.context - self.after)
            late = inside.to(x.dtype)[None, :, None]
            odd = (torch.arange(x.shape[2], device=x.device) % 2).to(x.dtype)[None, None, :]
            tokens = torch.zeros((), dtype=x.dtype, device=x.device)
            for turn in (odd, 1 - odd):
                shown = 1 - late * turn
                part = self.backbone(self.cadence, x * shown, observed * shown, shape, window, calendar, *who)
                tokens = tokens + part * turn[:, 0, :, None, None]
        else:
            ahead = torch.zeros_like(shape[:, self.context :])
            x, observed = torch.cat([x, ahead], dim=1), torch.cat([observed, ahead], dim=1)
            tokens = self.backbone(self.cadence, x, observed, shape, window, calendar, *who)
        first = tokens.shape[2] - self.asked - self.after // self.patch
        asked = tokens[:, :, first : first + self.asked]
        b, n = asked.shape[:2]
        raw = self.head(asked).reshape(b, n, self.asked * self.patch, self.outputs)
        return anchor, raw.transpose(1, 2)[:, : self.horizon], scale

    def _around(self, values: Tensor) -> Tensor:
        """The steps [B, K, N] that are known: before the asked ones and, inside a window, after them."""
        before = values[:, : self.known]
        if not self.after:
            return before
        return torch.cat([before, values[:, self.context - self.after : self.context]], dim=1)
