"""What pretraining looks at: windows of all sources, parts of them hidden, and how far off the guess at those is.

Two kinds of hiding are mixed (masked modelling and forecasting): random patches of each channel, or all channels' last
patches. A source is drawn in proportion to its size to the power of `temperature`, so that a small one is heard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.core import windows
from pipelines.core.errors import UserError
from pipelines.core.params import Pretrain
from pipelines.models import vocabulary
from pipelines.models.data import Windows, spread_out, strangers
from pipelines.models.near import Near
from pipelines.models.tokens import Config

Array = np.ndarray[Any, Any]
CONTEXT, FUTURE = 12, 4
"""Patches of a pretraining window."""
HIDDEN = 0.4
"""Share of patches hidden by masked modelling."""
CHANNELS = 48
"""At most so many channels of a source in one window: others wait for another draw."""
HELD = 4
"""Batches of each source that validation looks at."""


def too_short(domain: Windows) -> str | None:
    """Why a source's corpus holds no pretraining window to train on or to validate with; None when it does."""
    for split in ("train", "validation"):
        try:
            domain.rows(split, 1)
        except UserError:
            lo, hi = domain.series.splits[split]
            hour = domain.spec.step_s / 3600
            need = domain.spec.future if split == "validation" else domain.known // 2 + domain.spec.future
            return f"its {split} period has {(hi - lo) * hour:g} h, a pretraining window asks for {need * hour:g} h"
    return None


@dataclass(frozen=True)
class Sampler:
    """Batches of the domains, by source name. Every choice of a step comes from its number."""

    domains: dict[str, Windows]
    config: Config
    settings: Pretrain

    def draw(self, step: int, part: int, parts: int) -> dict[str, Any]:
        """See `lit.Draw`."""
        rng = np.random.default_rng([self.settings.seed, step])
        name = str(rng.choice(list(self.domains), p=self.shares))
        return self._batch(name, rng.choice(self._starts[name], self.settings.batch), rng, part, parts)

    def held(self) -> dict[str, list[dict[str, Any]]]:
        """Each source's validation batches: the same windows and the same hiding each time."""
        size, out = self.settings.batch, {}
        for i, (name, domain) in enumerate(self.domains.items()):
            rows = spread_out(domain.rows("validation", domain.spec.patch), HELD * size)
            starts = range(0, len(rows), size)
            out[name] = [self._batch(name, rows[j : j + size], np.random.default_rng([1, i, j])) for j in starts]
        return out

    @cached_property
    def shares(self) -> Array:
        """How often each domain is drawn; they add up to 1."""
        size = np.array([d.series.length * len(d.columns) for d in self.domains.values()], float)
        weight: Array = (size / size.max()) ** self.settings.temperature
        return weight / weight.sum()

    @cached_property
    def _starts(self) -> dict[str, Array]:
        return {n: d.rows("train", 1) for n, d in self.domains.items()}

    @cached_property
    def _channels(self) -> dict[str, dict[str, Array]]:
        return {n: vocabulary.numbers(d, self.config) for n, d in self.domains.items()}

    @cached_property
    def _near(self) -> dict[str, Near]:
        return {n: Near(d) for n, d in self.domains.items()}

    def _batch(self, name: str, rows: Array, rng: np.random.Generator, part: int = 0, parts: int = 1) -> dict[str, Any]:
        domain = self.domains[name]
        # Every choice is made for the whole batch before this part of it is read.
        columns = self._near[name].some_columns(rng, CHANNELS)
        channels = {k: v[columns] for k, v in self._channels[name].items()} | self._near[name].among(columns)
        channels["sensor"] = strangers(rng, channels["sensor"])
        mask = hide(rng, len(rows), len(columns))[part::parts]
        rows = rows[part::parts]
        hidden = np.flatnonzero(mask.transpose(0, 2, 1))
        whole = {**window(domain, rows, columns, mask), **channels, "mask": mask, "hidden": hidden}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in whole.items()}
        first = domain.starts(rows[:1])[0] if len(rows) else "none"
        return {**tensors, "cadence": domain.spec.cadence, "name": f"{name}, windows from {first}"}


def hide(rng: np.random.Generator, size: int, channels: int) -> Array:
    """Which patches a model must guess, float32 [size, patches, channels] of 0 and 1."""
    shape = (size, CONTEXT + FUTURE, channels)
    if rng.random() < 0.5:
        mask = np.zeros(shape, np.float32)
        mask[:, -int(rng.integers(1, FUTURE + 1)) :] = 1
        return mask
    return (rng.random(shape) < HIDDEN).astype(np.float32)


def window(domain: Windows, rows: Array, columns: Array, mask: Array) -> dict[str, Array]:
    """Windows of `columns` that begin at `rows`: `values` and `observed` [B, T, N] of all steps, hidden ones included,
    `profile`, `calendar`, `mean`, `std`. Gaps are filled from what is shown: none of it tells what is hidden."""
    raw = domain.read(rows, mask.shape[1] * domain.spec.patch, columns)
    shown = np.where(np.repeat(mask, domain.spec.patch, axis=1) > 0, np.float32(np.nan), raw)
    given = windows.prepare(shown, domain.starts(rows), domain.usual(rows, raw, columns), domain.spec)
    seen = np.isfinite(raw)
    return {
        **given,
        "values": np.where(seen, raw, given["values"]),
        "observed": seen.astype(np.float32),
        "mean": domain.mean[columns],
        "std": domain.std[columns],
    }


def loss(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Huber loss of the hidden readings that were measured, in each window's own scale: sum and count."""
    answer, truth, seen = model(batch["cadence"], batch, batch["mask"])
    error = nn.functional.smooth_l1_loss(answer, truth, reduction="none")
    return (error * seen).sum(), seen.sum()


@torch.no_grad()
def by_source(
    model: nn.Module, held: dict[str, list[dict[str, Any]]], loss: Callable[..., tuple[Tensor, Tensor]] = loss
) -> dict[str, float]:
    """The loss on each source's batches; NaN where nothing was measured."""
    sums = {n: torch.stack([torch.stack(loss(model, b)).double() for b in bs]).sum(0) for n, bs in held.items()}
    return {n: float(s[0] / s[1]) for n, s in sums.items()}
