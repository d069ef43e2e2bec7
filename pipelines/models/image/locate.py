"""Where things are, without anchors: heat at their middles, and the way from there to each side of the box.

CenterNet (Zhou et al., 2019) with TTFNet's targets (Liu et al., 2020), which learn boxes from every cell near a middle
and so from fewer steps. Peaks stand out by max pooling inside the graph, and nothing else suppresses duplicates.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.image.backbones import Eye

MOST = 100
"""Answers a picture, as everywhere on the wire."""
STRIDE = 4
"""Pixels of a cell."""
WIDTH = 64
ALPHA = 0.54
"""How far heat spreads, as a share of the box's half."""


class Head(nn.Module):
    """Heat [B, C, h, w] (logits) and sides [B, 4, h, w] (left, up, right, down; cells) from an eye's maps."""

    def __init__(self, eye: Eye, classes: int) -> None:
        super().__init__()
        shapes = eye.shapes
        self.lateral = nn.ModuleList(nn.Conv2d(d, WIDTH, 1) for d, _ in shapes)
        finest = shapes[0][1]
        self.times = max(0, (finest // STRIDE).bit_length() - 1)
        self.smooth = nn.Sequential(_layer(WIDTH), _layer(WIDTH))
        self.heat = nn.Sequential(_layer(WIDTH), nn.Conv2d(WIDTH, classes, 1))
        self.sides = nn.Sequential(_layer(WIDTH), nn.Conv2d(WIDTH, 4, 1))
        nn.init.constant_(self.heat[1].bias, -4.6)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        whole: Tensor | None = None
        for i in range(len(maps) - 1, -1, -1):
            mine = self.lateral[i](maps[i])
            if whole is not None:
                mine = mine + nn.functional.interpolate(whole, size=mine.shape[2:], mode="nearest")
            whole = mine
        assert whole is not None
        for _ in range(self.times):
            whole = nn.functional.interpolate(whole, scale_factor=2.0, mode="bilinear", align_corners=False)
        whole = self.smooth(whole)
        return self.heat(whole), nn.functional.softplus(self.sides(whole)) * 4


def _layer(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())


def answer(heat: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`boxes` [B, K, 4] (x0, y0, x1, y1; fractions), `scores` [B, K] falling, `labels` [B, K]; K: MOST or all cells."""
    _, classes, h, w = heat.shape
    score = heat.sigmoid()
    peak = nn.functional.max_pool2d(score, 3, 1, 1)
    score = torch.where(score == peak, score, torch.zeros_like(score))
    scores, where = score.flatten(1).topk(min(MOST, classes * h * w), dim=1)
    labels, cell = where // (h * w), where % (h * w)
    ways = sides.flatten(2).gather(2, cell[:, None].expand(-1, 4, -1))
    x, y = cell % w + 0.5, cell // w + 0.5
    boxes = torch.stack([(x - ways[:, 0]) / w, (y - ways[:, 1]) / h, (x + ways[:, 2]) / w, (y + ways[:, 3]) / h], dim=2)
    return boxes.clamp(0, 1), scores, labels


def loss(heat: Tensor, sides: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over a batch, and its boxes' number; `boxes` [B, M, 4] as fractions, `classes` [B, M], -1 for none."""
    wanted, ways, weight = _targets(heat, boxes, classes)
    p = heat.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    exact = wanted > 0.999
    focal = -torch.where(exact, (1 - p) ** 2 * p.log(), (1 - wanted) ** 4 * p**2 * (1 - p).log())
    number = (classes >= 0).sum().clamp(min=1).float()
    # A picture's boxes weigh one each, however many cells they have.
    near = (weight * (1 - _giou(sides.float(), ways))).sum()
    return focal.sum() + 5 * near, number


@torch.no_grad()
def _targets(heat: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heat [B, C, h, w]; sides [B, 4, h, w] of the smallest box that reaches a cell, its weight [B, h, w]."""
    h, w = heat.shape[2:]
    there = classes >= 0
    scale = torch.tensor([w, h, w, h], device=boxes.device, dtype=torch.float32)
    x0, y0, x1, y1 = (boxes.float() * scale)[..., None, None].unbind(2)  # [B, M, 1, 1] each
    xs = torch.arange(w, device=boxes.device) + 0.5
    ys = torch.arange(h, device=boxes.device)[:, None] + 0.5
    # The middle is a cell's own, so that its heat is one exactly.
    mx, my = (((a + b) / 2).floor() + 0.5 for a, b in ((x0, x1), (y0, y1)))
    sx, sy = ((ALPHA * (b - a) / 6).clamp(min=0.4) for a, b in ((x0, x1), (y0, y1)))
    spread = torch.exp(-((xs - mx) ** 2) / (2 * sx**2) - (ys - my) ** 2 / (2 * sy**2))  # [B, M, h, w]
    spread = torch.where(there[..., None, None] & (spread > 0.02), spread, 0.0)
    kinds = [(spread * (classes == c)[..., None, None]).amax(1) for c in range(heat.shape[1])]
    area = ((x1 - x0) * (y1 - y0)).expand_as(spread)
    chosen = torch.where(spread > 0, area, torch.inf).argmin(1, keepdim=True)
    share = spread / spread.sum((2, 3), keepdim=True).clamp(min=1e-6)
    ways = torch.stack([way.expand_as(spread) for way in (xs - x0, ys - y0, x1 - xs, y1 - ys)], 2)  # [B, M, 4, h, w]
    mine = ways.gather(1, chosen[:, :, None].expand(-1, 1, 4, -1, -1))[:, 0]
    return torch.stack(kinds, 1), mine, share.gather(1, chosen)[:, 0]


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union (Rezatofighi et al., 2019) of ways [B, 4, h, w] from the same cells."""
    b = b.clamp(min=0)
    both = (torch.minimum(a[:, 0], b[:, 0]) + torch.minimum(a[:, 2], b[:, 2])) * (
        torch.minimum(a[:, 1], b[:, 1]) + torch.minimum(a[:, 3], b[:, 3])
    )
    hull = (torch.maximum(a[:, 0], b[:, 0]) + torch.maximum(a[:, 2], b[:, 2])) * (
        torch.maximum(a[:, 1], b[:, 1]) + torch.maximum(a[:, 3], b[:, 3])
    )
    areas = [(t[:, 0] + t[:, 2]) * (t[:, 1] + t[:, 3]) for t in (a, b)]
    either = (areas[0] + areas[1] - both).clamp(min=1e-6)
    iou: Tensor = both / either - (hull - either) / hull.clamp(min=1e-6)
    return iou


def detector_answer(logits: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a DETR-like model: logits [B, Q, C + 1], the last for nothing, and boxes [B, Q, 4] (middle, size)."""
    chance = logits.softmax(-1)[..., :-1]
    count, classes = chance.shape[1:]
    scores, where = chance.flatten(1).topk(min(MOST, count * classes), dim=1)
    query, labels = where // classes, where % classes
    middle, size = corners[..., :2], corners[..., 2:]
    boxes = torch.cat([middle - size / 2, middle + size / 2], -1)
    return boxes.gather(1, query[..., None].expand(-1, -1, 4)).clamp(0, 1), scores, labels


def detector_labels(boxes: Tensor, classes: Tensor) -> list[dict[str, Any]]:
    """What transformers' detectors learn from: each picture's `class_labels` and `boxes` (middle, size)."""
    corners = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
    return [{"class_labels": k[k >= 0], "boxes": b[k >= 0]} for b, k in zip(corners, classes, strict=True)]
