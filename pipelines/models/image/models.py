"""Models of picture tasks, untrained, trained or loaded from a bundle: an eye and a head, or a published detector.

All have `backbone` (an `Eye`) for `models.tuning`, `loss(batch)` to learn by, and `answer(pixels)` that is exported.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.models.image import backbones, locate
from pipelines.models.image.augment import Augment
from pipelines.models.image.backbones import Config, Eye

SMOOTH = 0.1
"""Label smoothing (Szegedy et al., 2016)."""
PIECE, LEAST = 0.6, 64
"""Of a picture's side that a convolutional locator learns from at once, and pixels at least: things are seen oftener,
and the street less. It answers of whole pictures all the same."""
Batch = dict[str, Any]


class Model(nn.Module):
    """What all have in common: pixels as they come, and batch norms at rest where nothing around them is trained."""

    OUTPUTS: tuple[str, ...]
    backbone: Eye

    def __init__(self, config: Config, side: int, kind: str) -> None:
        super().__init__()
        self.config, self.side = config, side
        self.learning = False
        """Whether a training goes on, with its validations."""
        self._augment = Augment(kind, side)

    def see(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S, 3], or floats of 0..255, as the backbone expects them."""
        return backbones.normalise(backbones.floats(pixels), self.config)

    @property
    def piece(self) -> int:
        """Pixels of a side that a locator learns from at once; 0: it locates nothing."""
        return 0

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def answer(self, pixels: Tensor) -> Any:
        """What the graph answers of `pixels`, one tensor for each of OUTPUTS."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Model":
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d) and not part.weight.requires_grad:
                part.eval()
        if self.learning:
            backbones.by_batch(self, mode)
        return self


class Classifier(Model):
    """Class probabilities, cooled by a temperature that validation chose (Guo et al., 2017)."""

    OUTPUTS = ("probabilities",)

    def __init__(self, eye: Eye, config: Config, side: int, classes: int) -> None:
        super().__init__(config, side, "classify")
        self.backbone = eye
        # The norm makes one learning rate serve any backbone, and its head a probe of what it knows.
        last = nn.Linear(eye.width, classes)
        nn.init.trunc_normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.LayerNorm(eye.width), last)
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(1.0))
        self.weights = torch.ones(classes)
        """Of each class's pictures in the loss; a matter of training, so the bundle has none."""

    def logits(self, seen: Tensor) -> Tensor:
        return self.head(self.backbone.summary(seen))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy, of changed pictures and smoothed labels while training."""
        pixels, truth = backbones.floats(batch["values"]), batch["truth"]
        learning = self.training and torch.is_grad_enabled()
        if learning:
            pixels = self._augment(pixels, **batch["turn"])
        seen = backbones.normalise(pixels, self.config).contiguous(memory_format=torch.channels_last)
        weight = self.weights.to(pixels.device)[truth]
        smooth = SMOOTH if learning else 0.0
        missed = nn.functional.cross_entropy(self.logits(seen).float(), truth, reduction="none", label_smoothing=smooth)
        return (missed * weight).sum(), weight.sum()

    def answer(self, pixels: Tensor) -> Tensor:
        return (self.logits(self.see(pixels)) / self.temperature).softmax(-1)


class Locator(Model):
    """Boxes by our head over the eye's maps."""

    OUTPUTS = ("boxes", "scores", "labels")

    def __init__(self, eye: Eye, config: Config, side: int, classes: int) -> None:
        super().__init__(config, side, "locate")
        self.backbone = eye
        self.head = locate.Head(eye, classes)

    @property
    def piece(self) -> int:
        if self.backbone.kind != "resnet":  # a ViT knows its squares by their places
            return self.side
        coarsest = self.backbone.shapes[-1][1]
        return min(self.side, max(LEAST, round(PIECE * self.side / coarsest) * coarsest))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        seen, boxes, classes = _learning(self, batch)
        heat, sides = self.head(self.backbone.maps(seen))
        return locate.loss(heat, sides, boxes, classes)

    def answer(self, pixels: Tensor) -> Any:
        return locate.answer(*self.head(self.backbone.maps(self.see(pixels))))


class Detector(Model):
    """A detector of transformers, whose heads were published with it; classes that it does not know begin anew."""

    OUTPUTS = ("boxes", "scores", "labels")

    def __init__(self, config: Config, side: int, classes: int, state: dict[str, Tensor] | None) -> None:
        super().__init__(config, side, "locate")
        from transformers import AutoModelForObjectDetection

        made = backbones.model_config(config)
        made.id2label = {i: str(i) for i in range(classes)}
        made.label2id = {v: k for k, v in made.id2label.items()}
        auto: Any = AutoModelForObjectDetection
        self.net: Any = auto.from_config(made)
        if state is not None:
            own = self.net.state_dict()
            self.net.load_state_dict(own | {k: v for k, v in state.items() if k in own and v.shape == own[k].shape})

    @property
    def piece(self) -> int:
        return self.side

    @property
    def backbone(self) -> Eye:  # type: ignore[override]
        return Eye(self.net.base_model)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        seen, boxes, classes = _learning(self, batch)
        found = self.net(pixel_values=seen, labels=locate.detector_labels(boxes, classes))
        weight = torch.tensor(float(len(seen)), device=seen.device)
        return found.loss * weight, weight

    def answer(self, pixels: Tensor) -> Any:
        found = self.net(pixel_values=self.see(pixels))
        return locate.detector_answer(found.logits, found.pred_boxes)


def _learning(model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as seen, boxes [B, M, 4] as fractions and classes [B, M]; changed at random while training."""
    pixels, boxes, classes = backbones.floats(batch["values"]), batch["boxes"], batch["classes"]
    if model.training and torch.is_grad_enabled():
        side = pixels.shape[2]
        before = boxes
        pixels, moved = model._augment(pixels, **batch["turn"], boxes=boxes * side)
        boxes = (moved / side).clamp(0, 1)
        # What has left the picture for the most part cannot be asked for.
        left = _area(boxes) / _area(moved / side).clamp(min=1e-9)
        gone = (left < 0.4) | (_area(boxes) < 0.3 * _area(before).clamp(max=1e-4))
        classes = torch.where(gone, -1, classes)
    seen = backbones.normalise(pixels, model.config).contiguous(memory_format=torch.channels_last)
    return seen, boxes, classes


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def build(objective: str, config: Config, side: int, classes: int, state: dict[str, Tensor] | None = None) -> Model:
    """The task's model over the backbone of `config`, whose weights are `state` or drawn from torch's seed."""
    kind = config["model"]["model_type"]
    if backbones.detects(kind):
        if objective != "locate":
            raise UserError(f"backbone: a {kind} locates; for {objective} take another one")
        return Detector(config, side, classes, state)
    eye = backbones.build(config, side, state)
    return (Classifier if objective == "classify" else Locator)(eye, config, side, classes)


def load(folder: Path) -> Model:
    """The torch model of a bundle, which answers as its graph does."""
    told = files.read_json(folder / "config.json")
    config = {k: v for k, v in told["backbone"].items() if k not in ("name", "sha256")}
    model = build(told["objective"], config, told["size"], len(told["names"]))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
