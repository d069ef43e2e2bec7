"""A masked-patch transformer for sensor series, with factorised attention over time and over sensors.

Readings are cut into patches as in PatchTST (Nie et al., 2023); attention runs over time within a channel, then over
channels within a patch, as in factorised video transformers (Arnab et al., 2021). What is asked for, later steps or
hidden ones, is a masked patch: pretraining, forecasting and reconstruction are one operation.

Shapes: B windows, N channels, S patches, P steps a patch, D width, T = S·P steps.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.core.windows import PATCHES, Spec, beside_steps, known_steps
from pipelines.models.attend import attend
from pipelines.models.tokens import SIZES, Channels, Config, Tokens

Array = np.ndarray[Any, Any]


class Attention(nn.Module):
    """Self-attention over patches: [B, N, S, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # Without biases: their gradients cost more on a CPU than they are worth.
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """[B, N, S, D]; with `only` [M], numbers of tokens, just those, [M, D]."""
        return cast(Tensor, self.out(chosen(attend(self.qkv(x), self.heads, 2), only)))


class Space(Attention):
    """Attention over channels, to all of them or to the near ones, leaning on closeness where that is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.lean = nn.Parameter(torch.zeros(heads))

    def mix(self, x: Tensor, channels: Channels, only: Tensor | None = None) -> Tensor:
        """As `forward`; see `Channels` for who looks at whom."""
        near, close = channels.near, channels.close
        if near.shape[1]:
            mixed = self._nearest(self.qkv(x), near, close)
        else:
            bias = (self.lean[:, None, None] * close)[None] if close.shape[1] else None
            mixed = attend(self.qkv(x), self.heads, 1, bias)
        return cast(Tensor, self.out(chosen(mixed, only)))

    def _nearest(self, qkv: Tensor, near: Tensor, close: Tensor) -> Tensor:
        """Each channel's K neighbours are gathered, head by head: [B, N, S, 3·D] → [B, N, S, D]."""
        b, n, s, width = qkv.shape
        across = qkv.transpose(1, 2).reshape(b * s, n, width)
        q, k, v = (part.chunk(self.heads, dim=-1) for part in across.chunk(3, dim=-1))
        mixed = []
        for head in range(self.heads):
            key, value = (
                part[head].index_select(1, near.reshape(-1)).reshape(b * s, n, near.shape[1], -1) for part in (k, v)
            )
            score = (q[head][:, :, None] * key).sum(-1) * (width // (3 * self.heads)) ** -0.5 + self.lean[head] * close
            mixed.append((score.softmax(-1)[..., None] * value).sum(2))
        return torch.cat(mixed, dim=-1).reshape(b, s, n, -1).transpose(1, 2)


def chosen(x: Tensor, only: Tensor | None) -> Tensor:
    """[B, N, S, D], or of it the tokens numbered `only` [M], [M, D]."""
    return x if only is None else x.reshape(-1, x.shape[3]).index_select(0, only)


class Block(nn.Module):
    """Attention over time, in some blocks then over channels, then a two-layer perceptron; all pre-norm."""

    def __init__(self, width: int, heads: int, space: bool = True) -> None:
        super().__init__()
        self.time_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.time = Attention(width, heads)
        self.space_norm = nn.LayerNorm(width) if space else None
        self.space = Space(width, heads) if space else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width, bias=False), nn.GELU(), nn.Linear(2 * width, width, bias=False)
        )

    def forward(self, x: Tensor, channels: Channels, only: Tensor | None = None) -> Tensor:
        """[B, N, S, D]; with `only` [M], numbers of tokens, just those, [M, D]."""
        if self.space is None or self.space_norm is None:
            x = chosen(x, only) + self.time(self.time_norm(x), only)
        else:
            x = x + self.time(self.time_norm(x))
            x = chosen(x, only) + self.space.mix(self.space_norm(x), channels, only)
        return x + cast(Tensor, self.mlp(self.mlp_norm(x)))


class Backbone(nn.Module):
    """The transformer: `forward` gives [B, N, S, D] for S patches of context and future together."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.width, layers, heads = SIZES[config.size]
        self.tokens = Tokens(config)
        # Channels meet in every second block, once each has looked at its own time: in every block pretraining was
        # 1 % better and a third slower.
        self.blocks = nn.ModuleList(Block(self.width, heads, config.space and i % 2 == 1) for i in range(layers))
        self.norm = nn.LayerNorm(self.width)

    def forward(
        self, cadence: str, x: Tensor, observed: Tensor, usual: Tensor, window: Tensor, calendar: Tensor,
        channels: Channels, only: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As `Tokens.forward`; with `only` as `Block.forward`."""
        tokens = self.tokens(cadence, x, observed, usual, window, calendar, channels)
        for block in self.blocks[:-1]:
            tokens = block(tokens, channels)
        tokens = self.blocks[-1](tokens, channels, only)
        return cast(Tensor, self.norm(tokens))


def normalise(values: Tensor, usual: Tensor, known: int, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Level, level of the profile and scale over the first `known` steps of [B, T, N]; each [B, 1, N].

    The scale is half the window's own and half the channel's long-run one, so that a quiet night does not blow up.
    """
    level = values[:, :known].mean(1, keepdim=True)
    usual_level = usual[:, :known].mean(1, keepdim=True)
    spread = ((values[:, :known] - level) ** 2).mean(1, keepdim=True)
    return level, usual_level, (0.5 * spread + 0.5 * std**2).sqrt()


class Pretraining(nn.Module):
    """Backbone with a reconstruction head: the answer is a learned anchor plus a correction.

    The anchor mixes, patch by patch, the window's mean (0), the profile's shape, and how far the last shown reading lay
    from it; the shares are read off the token. Untrained it is the profile at the window's level.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict({c: nn.Linear(backbone.width, p) for c, p in PATCHES.items()})
        self.shares = nn.ModuleDict({c: nn.Linear(backbone.width, 2) for c in PATCHES})
        for parameter in (*self.head.parameters(), *self.shares.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, cadence: str, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the hidden patches, normalised reconstruction, truth and what of it was measured, each [M, P].

        `mask` [B, S, N] is 1 where a patch is hidden; `hidden` of the batch [M] numbers those in the order [B, N, S].
        """
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
        last = last_shown(truth - shape, shown * observed, p)
        hidden = batch["hidden"]
        tokens = self.backbone(
            cadence, truth * shown, observed * shown, shape, window, batch["calendar"],
            Channels(*(batch[k] for k in Channels._fields)), hidden,
        )  # fmt: skip

        def asked(values: Tensor) -> Tensor:
            """[B, T, N] at the hidden patches, [M, P]."""
            return values.transpose(1, 2).reshape(-1, p).index_select(0, hidden)

        shares = self.shares[cadence](tokens)
        # No step of a hidden patch is shown: the last one that was is the same for them all.
        before = last.transpose(1, 2).reshape(-1, 1).index_select(0, hidden)
        anchor = asked(shape) * (1 + shares[:, :1]) + shares[:, 1:] * before
        return anchor + self.head[cadence](tokens), asked(truth), asked(observed)


def last_shown(values: Tensor, seen: Tensor, patch: int) -> Tensor:
    """Of each patch of [B, T, N] the last value up to its end that was `seen`, else the first, else 0: [B, S, N]."""
    b, t, n = values.shape
    step = torch.arange(1, t + 1, dtype=torch.float32, device=seen.device)[None, :, None]
    last = (seen * step).reshape(b, t // patch, patch, n).amax(2).cummax(1).values.long() - 1
    return (values * seen).gather(1, torch.where(last < 0, seen.argmax(1, keepdim=True), last))


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

    `drivers`: of how many kinds the anchor is told the values over the asked steps, see `Windows.ahead`.
    """

    hides = True
    """Whether what is asked inside a window is hidden."""

    def __init__(self, backbone: Any, spec: Spec, outputs: int, reconstruct: bool = False, drivers: int = 0) -> None:
        super().__init__()
        self.backbone, self.reconstruct, self.outputs = backbone, reconstruct, outputs
        self.cadence, self.patch, self.context, self.horizon = spec.cadence, spec.patch, spec.context, spec.horizon
        self.asked, self.known = spec.future // spec.patch, known_steps(spec, reconstruct)
        self.after, self.follows = spec.after, spec.after > 0 or not reconstruct
        self.head = nn.Linear(backbone.width, spec.patch * outputs)
        self.beside = beside_steps(spec, reconstruct)
        self.anchor = nn.Linear(2 * (self.known + self.after) + spec.horizon + self.beside, spec.horizon)
        self.drivers = nn.Linear(drivers * spec.horizon, spec.horizon, bias=False) if drivers else None
        for layer in (self.head, self.anchor, self.drivers):
            for parameter in layer.parameters() if layer is not None else ():
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def anchor_on(self, weight: Array, bias: Array) -> None:
        """Take a ridge's `weight` [H, 2K+H+L+drivers·H] and `bias` [H]; L steps of `beside`."""
        width = self.anchor.in_features
        self.anchor.weight.copy_(torch.from_numpy(weight[:, :width]))
        self.anchor.bias.copy_(torch.from_numpy(bias))
        if self.drivers is not None:
            self.drivers.weight.copy_(torch.from_numpy(weight[:, width:]))

    def forward(
        self, values: Tensor, observed: Tensor, profile: Tensor, calendar: Tensor, mean: Tensor, std: Tensor,
        place: Tensor, kind: Tensor, sensor: Tensor, unit_id: Tensor, near: Tensor, close: Tensor, ahead: Tensor,
        beside: Tensor, peered: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Anchor [B, H, N] in units, raw head outputs [B, H, N, outputs] and scale [B, 1, N].

        values, observed: [B, context, N], or with what is known ahead [B, context + future, N], where only what was
        observed counts; profile: [B, context + future, N]; ahead: `Windows.drivers` [N, drivers]; beside [B, L, N] and
        whether a channel has peers [N]: `core.windows.beside`; the rest as in `Tokens.forward`.
        """
        if self.follows:
            level, usual_level, scale = normalise(self._around(values), self._around(profile), self.context, std)
        else:
            level = torch.zeros_like(values[:, :1]) + mean
            usual_level, scale = level, torch.zeros_like(level) + std
        x, shape = (values - level) / scale, (profile - usual_level) / scale
        channels = Channels(place, kind, sensor, unit_id, near, close)
        window = window_features(level, scale, mean, std)
        usual = shape[:, self.known : self.known + self.horizon]
        anchor = level + scale * usual
        if self.follows:
            parts = [self._around(x), self._around(shape), usual]
            if self.beside:
                parts.append((beside - (level - usual_level)) / scale * peered)
            given = torch.cat(parts, dim=1).transpose(1, 2)
            anchor = anchor + scale * self.anchor(given).transpose(1, 2)
        if self.drivers is not None:
            driven = (x[:, self.known : self.known + self.horizon] @ ahead).transpose(1, 2).flatten(1)
            anchor = anchor + scale * self.drivers(driven)[:, :, None]

        if self.reconstruct:
            shape, calendar = shape[:, : self.context], calendar[:, : self.context // self.patch]
            step = torch.arange(self.context, device=x.device)
            inside = (step >= self.known) & (step < self.context - self.after)
            late = inside.to(x.dtype)[None, :, None]
            odd = (torch.arange(x.shape[2], device=x.device) % 2).to(x.dtype)[None, None, :]
            tokens = torch.zeros((), dtype=x.dtype, device=x.device)
            for turn in (odd, 1 - odd) if self.hides else (torch.ones_like(odd),):
                shown = 1 - late * turn if self.hides else torch.ones_like(late)
                part = self.backbone(self.cadence, x * shown, observed * shown, shape, window, calendar, channels)
                tokens = tokens + part * turn[:, 0, :, None, None]
        else:
            if x.shape[1] > self.context:  # only what was measured there is known ahead, nothing that was filled in
                later = x[:, self.context :] * observed[:, self.context :]
                x = torch.cat([x[:, : self.context], later], dim=1)
            else:
                asked = torch.zeros_like(shape[:, self.context :])
                x, observed = torch.cat([x, asked], dim=1), torch.cat([observed, asked], dim=1)
            tokens = self.backbone(self.cadence, x, observed, shape, window, calendar, channels)
        first = tokens.shape[2] - self.asked - self.after // self.patch
        asked = tokens[:, :, first : first + self.asked]
        b, n = asked.shape[:2]
        raw = self.said(asked).reshape(b, n, self.asked * self.patch, self.outputs)
        return anchor, raw.transpose(1, 2)[:, : self.horizon], scale

    def said(self, asked: Tensor) -> Tensor:
        """What the head makes of the asked patches' tokens [B, N, S, D]: [B, N, S, patch · outputs]."""
        return cast(Tensor, self.head(asked))

    def _around(self, values: Tensor) -> Tensor:
        """The steps [B, K, N] that are known: before the asked ones and, inside a window, after them."""
        before = values[:, : self.known]
        if not self.after:
            return before
        return torch.cat([before, values[:, self.context - self.after : self.context]], dim=1)
