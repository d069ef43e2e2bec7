"""corpus → models/backbones/<backbone>/: learn, without labels, what every sensor of a modality does.

Two kinds of hiding are mixed (masked modelling and forecasting): random patches of each channel, or all channels'
last patches. Sources take turns in proportion to the square root of their size, so that a small department is heard.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec, patch_for
from pipelines.models.data import Windows, spread_out, strangers

CONTEXT, FUTURE = 12, 4
"""Patches of a pretraining window."""
HIDDEN = 0.4
"""Share of patches hidden by masked modelling."""
CHANNELS = 48
"""At most so many channels of a source in one window: others wait for another draw."""


def run(key: str, *, root: Path = Path()) -> None:
    """Pretrain `key` on data/corpus/<key>/. Raises UserError when the corpus holds no source."""
    city, paths = params.load(root), Paths(root)
    settings = city.backbone(key)
    if settings.modality != "series":
        raise UserError(f"backbones.{key}.modality: {settings.modality} backbones cannot be pretrained yet; use series")
    with log.room("pretrain", key) as told:
        sources = {p.parent.name: p.parent for p in sorted(paths.corpus(key).glob("*/grid.json"))}
        if not sources:
            raise UserError(f"{paths.corpus(key)}: no source in the corpus; run `cityloop corpus {key}` first")
        domains = {name: _domain(city, name, folder) for name, folder in sources.items()}
        model, keep = _train(key, settings, domains, paths)
        contents = {
            "config.json": files.to_json(model.backbone.config.to_json()),
            "weights.safetensors": _weights(model.backbone),
        }
        for name, content in contents.items():
            files.write_bytes(paths.backbone(key) / name, content)
        size = sum(p.numel() for p in model.backbone.parameters())
        files.write_json(
            paths.metrics("pretrain", key),
            {
                "train": {"loss": keep.curve[-1]["train_loss"]},
                "validation": {"loss": keep.best, "loss_untrained": keep.curve[0]["validation_loss"]},
                "parameters": size,
                "steps": keep.curve[-1]["step"],
                "sources": len(sources),
            },
        )
        files.write_json(paths.plots("pretrain", key) / "curve.json", keep.curve)
        keep.forget()
        told.update(sources=len(sources), parameters=size, validation_loss=f"{keep.best:.4f}")


def _weights(module: Any) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in module.state_dict().items()})


def _domain(city: Params, name: str, folder: Path) -> Windows:
    series = Series.open(folder)
    source = city.source(name)
    step = int(source.step.total_seconds())
    patch = patch_for(step)[1]
    zone = city.timezone(name)
    spec = Spec.of(step, CONTEXT * patch, FUTURE * patch, zone, city.city.holidays)
    return Windows(series, spec, tuple(range(len(series.channels))), len(series.channels))


def _train(key: str, settings: params.Backbone, domains: dict[str, Windows], paths: Paths) -> tuple[Any, Any]:
    import torch

    from pipelines.models import lit, vocabulary
    from pipelines.models.series import Backbone, Config, Pretraining

    torch.manual_seed(settings.pretrain.seed)
    kinds, sensors, centre = vocabulary.collect(list(domains.values()))
    model = Pretraining(Backbone(Config(settings.size, kinds, sensors, centre)))
    names = list(domains)
    weight = np.array([np.sqrt(d.series.length * len(d.columns)) for d in domains.values()])
    weight = weight / weight.sum()
    starts = {n: d.rows("train", 1) for n, d in domains.items()}

    def batch(name: str, rows: Any, rng: np.random.Generator, part: int = 0, parts: int = 1) -> dict[str, Any]:
        domain = domains[name]
        patches = CONTEXT + FUTURE
        # Every choice is made for the whole batch before this part of it is read.
        columns = np.sort(rng.permutation(len(domain.columns))[:CHANNELS])
        numbers = vocabulary.numbers(domain, kinds, sensors, centre)
        sensor = strangers(rng, numbers["sensor"][columns])
        if rng.random() < 0.5:
            mask = np.zeros((len(rows), patches, len(columns)), np.float32)
            mask[:, -int(rng.integers(1, FUTURE + 1)) :] = 1
        else:
            mask = (rng.random((len(rows), patches, len(columns))) < HIDDEN).astype(np.float32)
        rows, mask = rows[part::parts], mask[part::parts]
        data = domain.batch(rows, columns)
        values = np.concatenate([data["values"], np.zeros_like(data["truth"])], axis=1)
        seen = np.isfinite(data["truth"])
        # Beyond the context the truth itself stands in the window; it is hidden by the mask or shown as context.
        future = np.where(seen, np.nan_to_num(data["truth"]), data["profile"][:, values.shape[1] - seen.shape[1] :])
        values[:, -future.shape[1] :] = future
        observed = np.concatenate([data["observed"], seen.astype(np.float32)], axis=1)
        whole = {k: data[k] for k in ("profile", "mean", "std", "calendar")}
        whole |= {"values": values, "observed": observed, "mask": mask, "sensor": sensor}
        whole |= {"place": numbers["place"][columns], "kind": numbers["kind"][columns]}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in whole.items()}
        return {**tensors, "cadence": domain.spec.cadence}

    def draw(step: int, part: int, parts: int) -> dict[str, Any]:
        rng = np.random.default_rng([settings.pretrain.seed, step])
        name = str(rng.choice(names, p=weight))
        return batch(name, rng.choice(starts[name], settings.pretrain.batch), rng, part, parts)

    size = settings.pretrain.batch
    held = []
    for i, name in enumerate(names):
        rows = spread_out(domains[name].rows("validation", domains[name].spec.patch), 4 * size)
        held += [batch(name, rows[j : j + size], np.random.default_rng([1, i, j])) for j in range(0, len(rows), size)]

    def loss(data: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        answer, truth = model(data["cadence"], data, data["mask"])
        patch = truth.shape[1] // data["mask"].shape[1]
        counted = data["mask"].repeat_interleave(patch, dim=1) * data["observed"]
        error = torch.nn.functional.smooth_l1_loss(answer, truth, reduction="none")
        return (error * counted).sum(), counted.sum()

    return model, lit.train(model, loss, draw, held, settings.pretrain, f"pretrain {key}", paths=paths)
