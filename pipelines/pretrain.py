"""corpus → models/backbones/<backbone>/: learn, without labels, what every source of a modality is like.

Of series, all sources and cadences are learnt in one training; see `models.pretraining` for what is hidden and how they
take turns. A source too short for a single window is left out, with a line that says so.
"""

from pathlib import Path
from typing import Any

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec, patch_for
from pipelines.models.data import Windows
from pipelines.models.made import Pretrained


def run(key: str, *, root: Path = Path()) -> None:
    """Pretrain `key` on data/corpus/<key>/. Raises UserError when the corpus holds no source, or none long enough."""
    city, paths = params.load(root), Paths(root)
    settings = city.backbone(key)
    if settings.modality != "series":
        return _pictures_or_messages(key, settings, paths)
    with log.room("pretrain", key) as told:
        domains, skipped = _domains(city, key, paths.corpus(key))
        model, trained, report = _train(key, settings, domains, paths)
        contents = {
            "config.json": files.to_json(model.backbone.config.to_json()),
            "weights.safetensors": _weights(model.backbone),
        }
        for name, content in contents.items():
            files.write_bytes(paths.backbone(key) / name, content)
        report |= {"sources": len(domains), "skipped": skipped}
        files.write_json(paths.metrics("pretrain", key), report)
        files.write_json(paths.plots("pretrain", key) / "curve.json", trained.curve)
        trained.forget()
        told.update(sources=len(domains), parameters=report["parameters"], validation_loss=f"{trained.best:.4f}")


def _pictures_or_messages(key: str, settings: params.Backbone, paths: Paths) -> None:
    with log.room("pretrain", key) as told:
        made: Pretrained
        if settings.modality == "image":
            from pipelines.models.image.pretraining import pretrain as look

            made = look(key, settings, paths.corpus(key), paths)
        else:
            from pipelines.models.text.pretraining import pretrain as read

            made = read(key, settings, paths.corpus(key), paths)
        for name, content in made.contents.items():
            files.write_bytes(paths.backbone(key) / name, content)
        files.write_json(paths.metrics("pretrain", key), made.report)
        files.write_json(paths.plots("pretrain", key) / "curve.json", made.curve)
        made.forget()
        told.update(parameters=made.report["parameters"], validation_loss=f"{made.report['validation']['loss']:.4f}")


def _domains(city: Params, key: str, corpus: Path) -> tuple[dict[str, Windows], dict[str, str]]:
    """The corpus' sources that hold a pretraining window, and why the others do not."""
    from pipelines.models.pretraining import CONTEXT, FUTURE, too_short

    domains, skipped = {}, {}
    for folder in (path.parent for path in sorted(corpus.glob("*/grid.json"))):
        name, series = folder.name, Series.open(folder)
        step = int(city.source(name).step.total_seconds())
        patch = patch_for(step)[1]
        spec = Spec.of(step, CONTEXT * patch, FUTURE * patch, city.timezone(name), city.city.holidays)
        domain = Windows(series, spec, tuple(range(len(series.channels))), len(series.channels))
        reason = too_short(domain)
        if reason:
            log.logger.warning("pretrain %s: %s is left out: %s", key, name, reason)
            skipped[name] = reason
        else:
            domains[name] = domain
    if not domains and skipped:
        name, reason = next(iter(skipped.items()))
        raise UserError(f"{corpus}: no source is long enough; of {name} {reason}; move the sources' dates")
    if not domains:
        raise UserError(f"{corpus}: no source in the corpus; run `cityloop corpus {key}` first")
    return domains, skipped


def _train(
    key: str, settings: params.Backbone, domains: dict[str, Windows], paths: Paths
) -> tuple[Any, Any, dict[str, Any]]:
    """The trained model, its training and the report."""
    import torch

    from pipelines.models import families, lit, vocabulary
    from pipelines.models.pretraining import Sampler, by_source, loss
    from pipelines.models.series import Pretraining
    from pipelines.models.tokens import Config

    torch.manual_seed(settings.pretrain.seed)
    config = Config(settings.size, family=settings.family, **vocabulary.collect(list(domains.values())))
    model = Pretraining(families.build(config))
    sampler = Sampler(domains, config, settings.pretrain)
    held = sampler.held()
    # Untrained, the head adds nothing: the answer is the profile at the window's level.
    plain = by_source(model, held)
    trained = lit.train(
        model,
        lambda batch: loss(model, batch),
        sampler.draw,
        [batch for batches in held.values() for batch in batches],
        settings.pretrain,
        f"pretrain {key}",
        paths=paths,
        data={name: files.sha256_json(domain.series.scalers) for name, domain in domains.items()},
    )
    learnt = by_source(model, held)
    report = {
        "train": {"loss": trained.curve[-1]["train_loss"]},
        "validation": {
            "loss": trained.best,
            "loss_untrained": trained.curve[0]["validation_loss"],
            "by_source": {n: {"loss": learnt[n], "loss_profile": plain[n]} for n in domains},
        },
        "shares": dict(zip(domains, sampler.shares.round(4).tolist(), strict=True)),
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "steps": trained.curve[-1]["step"],
    }
    return model, trained, report


def _weights(module: Any) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in module.state_dict().items()})
