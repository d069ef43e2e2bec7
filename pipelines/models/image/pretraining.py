"""What an image backbone learns without labels: a ViT to paint what is hidden, a ResNet to know a picture again.

Transformer: masked autoencoder (He et al., 2022), transformers' own ViTMAE; three quarters of the patches are hidden
and cost nothing to encode. CNN: SimCLR (Chen et al., 2020), two changed views of each picture must find one another
among all of the batch. A convolution computes hidden patches too, so that masking saves a ResNet nothing, while SimCLR
needs no second network and no queue, and holds with batches of a hundred. Sources take turns as in
`models.pretraining`. What begins `from:` a published ViT, ViTMAE or ResNet learns on; others are taken as they are.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.models import lit
from pipelines.models.image import backbones
from pipelines.models.image.augment import Augment
from pipelines.models.image.pictures import Pictures, digest, shuffled
from pipelines.models.made import Pretrained

Array = np.ndarray[Any, Any]
HIDDEN = 0.75
"""Share of patches that a ViT must guess."""
HELD = 4
"""Batches of each source that validation looks at."""
HOT = 0.2
"""SimCLR's temperature: what few pictures and small batches bear."""
CODE = 128
"""Numbers that SimCLR compares pictures by."""
LEARN_ON = ("vit", "vit_mae", "resnet")


def pretrain(key: str, settings: params.Backbone, corpus: Path, paths: Paths) -> Pretrained:
    """Learn from every source's folder in `corpus`, or go on from `settings.start`.

    Raises UserError when the corpus holds no source, or the model to begin from does not load or fit.
    """
    torch.manual_seed(settings.pretrain.seed)
    sources = {path.parent.name: Pictures.open(path.parent) for path in sorted(corpus.glob("*/about.json"))}
    if not sources:
        raise UserError(f"{corpus}: no source in the corpus; run `cityloop corpus {key}` first")
    side = min(p.size for p in sources.values()) // 32 * 32 or 32
    state: dict[str, Tensor] = {}
    if settings.start:
        local = paths.root / settings.start
        config, state = backbones.begin(
            str(local if local.is_dir() else settings.start), settings.family, settings.size, side
        )
        side = config["side"]
    else:
        config = backbones.fresh(settings.family, settings.size, side)
    if config["model"]["model_type"] not in LEARN_ON:
        log.logger.info("pretrain %s: a %s is taken as it is", key, config["model"]["model_type"])
        return _as_it_is(config, state, len(sources))
    model: Mae | SimClr = (SimClr if config["model"]["model_type"] == "resnet" else Mae)(config, state)
    sampler = Sampler(sources, config, settings.pretrain)
    held = sampler.held()
    plain = _by_source(model, held)
    trained = lit.train(
        model, lambda batch: model(batch), sampler.draw, [b for batches in held.values() for b in batches],
        settings.pretrain, f"pretrain {key}", paths=paths, data={name: digest(p.folder) for name, p in sources.items()},
    )  # fmt: skip
    learnt = _by_source(model, held)
    encoder = model.encoder()
    report = {
        "train": {"loss": trained.curve[-1]["train_loss"]},
        "validation": {
            "loss": trained.best,
            "loss_untrained": trained.curve[0]["validation_loss"],
            "by_source": {n: {"loss": learnt[n], "loss_untrained": plain[n]} for n in sources},
        },
        "shares": dict(zip(sources, sampler.shares.round(4).tolist(), strict=True)),
        "parameters": sum(v.numel() for v in encoder.values()),
        "steps": trained.curve[-1]["step"],
        "sources": len(sources),
        "skipped": {},
    }
    return Pretrained(_contents(config, encoder), report, trained.curve, trained.forget)


def _contents(config: backbones.Config, state: dict[str, Tensor]) -> dict[str, bytes]:
    from safetensors.torch import save

    return {
        "config.json": files.to_json(config),
        "weights.safetensors": save({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())}),
    }


def _as_it_is(config: backbones.Config, state: dict[str, Tensor], sources: int) -> Pretrained:
    """No step was taken, so there is no loss to tell: 0 stands in for it."""
    report = {
        "train": {"loss": 0.0}, "validation": {"loss": 0.0, "loss_untrained": 0.0},
        "parameters": sum(v.numel() for v in state.values()), "steps": 0, "sources": sources, "skipped": {},
    }  # fmt: skip
    return Pretrained(_contents(config, state), report, [], lambda: None)


@dataclass(frozen=True)
class Sampler:
    """Batches of the sources, by name. Every choice of a step comes from its number."""

    sources: dict[str, Pictures]
    config: backbones.Config
    settings: params.Pretrain
    _rows: dict[str, Array] = field(default_factory=dict)

    def draw(self, step: int, part: int, parts: int) -> dict[str, Any]:
        """See `lit.Draw`."""
        rng = np.random.default_rng([self.settings.seed, step])
        name = str(rng.choice(list(self.sources), p=self.shares))
        rows = self._rows.setdefault(name, self.sources[name].rows("train"))
        # A source's own turns are not counted: its place in the list goes on with the step's number.
        chosen = shuffled(rows, self.settings.seed, step * self.settings.batch, self.settings.batch)
        return self._batch(name, chosen, int(rng.integers(2**31)), part, parts)

    def held(self) -> dict[str, list[dict[str, Any]]]:
        """Each source's validation batches: the same pictures, changed and hidden alike each time."""
        size, out = self.settings.batch, {}
        for i, (name, source) in enumerate(self.sources.items()):
            rows = source.rows("validation")
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), HELD * size)).astype(int)]
            out[name] = [self._batch(name, rows[j : j + size], 1000 * i + j) for j in range(0, len(rows), size)]
        return out

    @property
    def shares(self) -> Array:
        """How often each source is drawn; they add up to 1."""
        size = np.array([len(p.pixels) for p in self.sources.values()], float)
        weight: Array = (size / size.max()) ** self.settings.temperature
        return weight / weight.sum()

    def _batch(self, name: str, rows: Array, seed: int, part: int = 0, parts: int = 1) -> dict[str, Any]:
        values = torch.from_numpy(self.sources[name].pixels[np.sort(rows)][part::parts])
        turn = {"seed": seed, "part": part, "parts": parts, "whole": len(rows)}
        return {"values": values, "turn": turn, "name": f"{name}, picture {int(rows[0])}"}


class Mae(nn.Module):
    """A ViT, and a small decoder that paints what it does not see."""

    def __init__(self, config: backbones.Config, state: dict[str, Tensor]) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        made = backbones.model_config(config)
        narrow = max(64, made.hidden_size // 2) // 64 * 64
        keys = set(ViTMAEConfig().to_dict()) & set(made.to_dict()) - {"model_type", "architectures"}
        self.net: Any = ViTMAEForPreTraining(
            ViTMAEConfig(
                **{k: getattr(made, k) for k in sorted(keys)},
                decoder_hidden_size=narrow, decoder_num_hidden_layers=2, decoder_num_attention_heads=narrow // 32,
                decoder_intermediate_size=4 * narrow, mask_ratio=HIDDEN, norm_pix_loss=True,
            )
        )  # fmt: skip
        if state:
            self.net.vit.load_state_dict({k: v for k, v in state.items() if k in self.net.vit.state_dict()})
        self.config, self._augment = config, Augment("crops", config["side"])

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Squared error of the hidden patches, each in its own scale: sum and count."""
        turn, pixels = batch["turn"], backbones.floats(batch["values"])
        seen = backbones.normalise(self._augment(pixels, **turn), self.config)
        drawn = torch.rand(
            turn["whole"], (seen.shape[2] // self.net.config.patch_size) ** 2,
            generator=torch.Generator().manual_seed(turn["seed"]),
        )  # fmt: skip
        found = self.net(seen, noise=drawn[turn["part"] :: turn["parts"]].to(seen.device))
        weight = found.mask.sum()
        return found.loss * weight, weight

    def encoder(self) -> dict[str, Tensor]:
        return self.net.vit.state_dict()


class SimClr(nn.Module):
    """A ResNet, and two layers to the code that pictures are compared by."""

    def __init__(self, config: backbones.Config, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.eye = backbones.build(config, config["side"], state or None)
        width = self.eye.width
        self.project = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, CODE)
        )
        self.config, self._augment = config, Augment("views", config["side"])

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """How surprising each view's other half is among all views: sum and count.

        A process compares its own part of the batch only.
        """
        turn, pixels = batch["turn"], backbones.floats(batch["values"])
        views = [self._augment(pixels, **{**turn, "seed": turn["seed"] + i}) for i in range(2)]
        seen = backbones.normalise(torch.cat(views), self.config).contiguous(memory_format=torch.channels_last)
        code = nn.functional.normalize(self.project(self.eye.summary(seen)).float(), dim=1)
        alike = code @ code.T / HOT
        alike.fill_diagonal_(-1e4)
        half = len(pixels)
        other = (torch.arange(2 * half, device=code.device) + half) % (2 * half)
        return nn.functional.cross_entropy(alike, other, reduction="sum"), torch.tensor(2.0 * half, device=code.device)

    def train(self, mode: bool = True) -> "SimClr":
        super().train(mode)
        backbones.by_batch(self, mode)
        return self

    def encoder(self) -> dict[str, Tensor]:
        return self.eye.net.state_dict()


@torch.no_grad()
def _by_source(model: nn.Module, held: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    model.eval()
    sums = {n: torch.stack([torch.stack(model(b)).double() for b in bs]).sum(0) for n, bs in held.items()}
    return {n: float(s[0] / s[1]) for n, s in sums.items()}
