"""Image backbones of transformers: ViT and ResNet of our sizes, or what a folder or hub id holds in safetensors.

`Eye` is what the rest of the package sees: a summary of a picture and feature maps, whatever model is inside.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.core.errors import UserError

VIT = {"tiny": (128, 6, 4), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks and heads."""
RESNET: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ("basic", (32, 64, 128, 256), (2, 2, 2, 2)),
    "small": ("basic", (64, 128, 256, 512), (2, 2, 2, 2)),
    "base": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "large": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 23, 3)),
}
"""Kind of layer, and each stage's channels and layers: small is ResNet-18, base ResNet-50, large ResNet-101."""
PATCH = 8
"""Pixels of a ViT's patch: thumbnails have few."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which most published weights expect; ours learn with the same."""
LISTS = ("layers", "encoder.layer", "encoder.layers", "encoder.stages", "encoder.stage")
"""Where transformers keeps a model's blocks."""
Config = dict[str, Any]


def fresh(family: str, size: str, side: int) -> Config:
    """What it takes to build an untrained backbone for squares of `side` pixels."""
    from transformers import ResNetConfig, ViTConfig

    model: Any
    if family == "cnn":
        layer, channels, depths = RESNET[size]
        stem = min(64, channels[0])
        model = ResNetConfig(embedding_size=stem, hidden_sizes=list(channels), depths=list(depths), layer_type=layer)
    else:
        width, depth, heads = VIT[size]
        model = ViTConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
            image_size=side, patch_size=PATCH,
        )  # fmt: skip
    return about(family, size, side, model)


def about(family: str, size: str, side: int, model: Any, mean: Any = MEAN, std: Any = STD) -> Config:
    """The backbone's config.json: `model` is transformers' own, and nothing of where it came from."""
    told = model.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype"):
        told.pop(name, None)
    found: Config = {"modality": "image", "family": family, "size": size, "side": side}
    return {**found, "model": {**told, "model_type": model.model_type}, "mean": list(mean), "std": list(std)}


def model_config(config: Config) -> Any:
    """transformers' own."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**config["model"])


class Eye(nn.Module):
    """A backbone: pixels [B, 3, S, S], normalised, to what it sees."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net: Any = net

    @property
    def kind(self) -> str:
        """transformers' name of the model."""
        return str(self.net.config.model_type)

    @property
    def blocks(self) -> nn.ModuleList:
        """Its blocks or stages, lowest first, for adapters and freezing."""
        for name in LISTS:
            with contextlib.suppress(AttributeError):
                found: Any = self.net.get_submodule(name)
                return nn.ModuleList(list(found))
        raise UserError(f"backbone: where a {self.kind} keeps its blocks is not known; take method full without freeze")

    @property
    def norm(self) -> nn.Module:
        """What stands above the blocks."""
        return next((m for n, m in self.net.named_children() if n in ("layernorm", "norm")), nn.Identity())

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps [B, D, h, w], finest first: a ResNet's stages, or a ViT's tokens as they lie."""
        if self.kind == "resnet":
            return list(self.net(pixels, output_hidden_states=True).hidden_states[1:])
        return [self._tokens(pixels)[1]]

    def summary(self, pixels: Tensor) -> Tensor:
        """[B, width]: the mean over the picture, beside a ViT's class token where it has one."""
        if self.kind == "resnet":
            return self.net(pixels).last_hidden_state.mean((2, 3))
        first, tokens = self._tokens(pixels)
        mean = tokens.mean((2, 3))
        return mean if first is None else torch.cat([first, mean], 1)

    def _tokens(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """Class token [B, D], and the tokens of the patches [B, D, h, w]."""
        found = self.net(pixel_values=pixels).last_hidden_state
        if found.dim() == 4:  # a convolutional model by another name
            return None, found
        patch = self.net.config.patch_size
        h, w = (s // (patch if isinstance(patch, int) else patch[0]) for s in pixels.shape[2:])
        tokens = found[:, found.shape[1] - h * w :].transpose(1, 2).reshape(len(found), -1, h, w)
        return (found[:, 0] if found.shape[1] > h * w else None), tokens

    @property
    def width(self) -> int:
        """Of `summary`."""
        with _looking(self):
            return int(self.summary(self._blank).shape[1])

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Channels and stride of each of `maps`."""
        with _looking(self):
            blank = self._blank
            return [(m.shape[1], blank.shape[2] // m.shape[2]) for m in self.maps(blank)]

    @property
    def _blank(self) -> Tensor:
        size = getattr(self.net.config, "image_size", 64) or 64
        side = size if isinstance(size, int) else min(size)
        return torch.zeros(1, 3, side, side, device=next(self.net.parameters()).device)


@contextlib.contextmanager
def _looking(module: nn.Module) -> Iterator[None]:
    """Without gradients, and without learning from what is looked at."""
    was = module.training
    module.eval()
    with torch.no_grad():
        yield
    module.train(was)


def build(config: Config, side: int, state: dict[str, Tensor] | None = None) -> Eye:
    """The backbone of `config` for squares of `side` pixels, with weights `state` or untrained from torch's seed.

    A ViT's positions are interpolated to another side than it learnt with (Dosovitskiy et al., 2021). Raises UserError
    when the side is no multiple of its patch, or the weights are another model's.
    """
    from transformers import AutoModel

    made = model_config(config)
    patch = getattr(made, "patch_size", 1)
    if isinstance(patch, int) and side % patch:
        raise UserError(f"features.size: {side} is no multiple of the backbone's patch, {patch} pixels; change it")
    if made.model_type == "vit":
        made.image_size = side
    extra = {"add_pooling_layer": False} if made.model_type in ("vit", "deit") else {}  # nothing here reads it
    auto: Any = AutoModel
    net = auto.from_config(made, **extra)
    if state is not None:
        own = net.state_dict()
        fitted = {k: positions(v, own[k].shape) if k in own and k.endswith("position_embeddings") else v
                  for k, v in state.items()}  # fmt: skip
        try:
            net.load_state_dict(fitted)
        except RuntimeError as error:
            what = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
            raise UserError(f"backbone: its weights do not fit its config: {what}") from None
    return Eye(net)


def positions(found: Tensor, shape: torch.Size) -> Tensor:
    """Position embeddings [1, 1 + n, D] interpolated to another square grid."""
    if found.shape == shape:
        return found
    old, new = (round((n - 1) ** 0.5) for n in (found.shape[1], shape[1]))
    grid = found[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([found[:, :1], grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)], 1)


def begin(start: str, family: str, size: str, side: int) -> tuple[Config, dict[str, Tensor]]:
    """Config and weights of the published model in folder or hub id `start`; safetensors alone, nothing is unpickled.

    A detector keeps its heads. Raises UserError when there is none, or it is of another family.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForObjectDetection
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        found = AutoConfig.from_pretrained(start, trust_remote_code=False)
        kind: Any = AutoModelForObjectDetection if detects(found.model_type) else AutoModel
        net = kind.from_pretrained(start, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"backbones: from: {start}: no model in safetensors that can be loaded: {said}") from None
    if (found.model_type == "resnet") != (family == "cnn"):
        raise UserError(f"backbones: from: {start}: a {found.model_type}, family {family} was asked for; change either")
    state = {k: v.detach().clone() for k, v in net.state_dict().items() if not k.startswith("pooler.")}
    told: Any = found
    if found.model_type == "vit_mae":  # the same encoder, which hides nothing by itself
        from transformers import ViTConfig

        keys = set(ViTConfig().to_dict()) & set(found.to_dict()) - {"model_type", "architectures"}
        told = ViTConfig(**{k: getattr(found, k) for k in sorted(keys)})
    mean, std = _scale(start)
    if isinstance(getattr(told, "image_size", None), int):
        side = told.image_size
    return about(family, size, side, told, mean, std), state


def detects(kind: str) -> bool:
    """Whether transformers has a detector of that name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return kind in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES


def _scale(start: str) -> tuple[Any, Any]:
    """Mean and spread of pixels that the weights expect, where their publisher says."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told = ImageProcessingMixin.get_image_processor_dict(start)[0]
    except OSError:
        told = {}
    return told.get("image_mean", MEAN), told.get("image_std", STD)


def by_batch(model: nn.Module, learning: bool) -> None:
    """Have batch norms that are trained go by the batch in validation too, and learn nothing from it.

    What validates is averaged weights, and the running statistics are of others: they would judge it wrongly.
    """
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.weight.requires_grad:
            part.train()
            part.momentum = 0.1 if learning else 0.0


def normalise(pixels: Tensor, config: Config) -> Tensor:
    """[B, 3, S, S] of 0..1 as the backbone expects them."""
    mean, std = (torch.tensor(config[k], device=pixels.device)[:, None, None] for k in ("mean", "std"))
    return (pixels - mean) / std


def floats(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] as floats of 0..1 [B, 3, S, S]."""
    return pixels.permute(0, 3, 1, 2).float() / 255
