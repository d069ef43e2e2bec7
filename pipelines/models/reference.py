"""What a task's channels are usually like from day to day: kept in its bundle, and what later days are held against.

A channel's readings are looked at as deviations from its usual week, in its own spread. What all channels of a kind do
together (`common`, at each step their median) is taken out: heat, rain and a quiet August move every sensor of a kind,
each by its own `loading`. What is left of a channel is summed up once a UTC day, as STATISTICS. How these came out on
the days of training and validation says what later days may be like, see `models.spreads`.

The common part has a null of its own: by how much it changes from what it was over the last days. So a season that
comes slowly is no change, and a city that stands still from one day to the next is one.

No torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipelines.models import spreads

Array = np.ndarray[Any, Any]
FILE = "reference.safetensors"
FORM = 1
STATISTICS = ("level", "scale", "rough", "shape", "bond")
"""level: mean deviation. scale: its spread within the day (log). rough: its change from step to step (log). shape: how
far its quantiles lie from the usual ones (log). bond: its correlation with its peers (Fisher's z)."""
LEVELS = (np.arange(16) + 0.5) / 16
FLOOR = 0.05
"""Added before logs: what is smaller is nothing."""
CLIP = 6.0
"""Deviations count up to so many spreads: a day's sums are not to hang on a single spike."""
TOGETHER = 4
"""Fewer channels of a kind have no common part: each is one of its own."""
PEERS = 4
ALIKE = 0.15
"""Peers are correlated at least so much."""
SAMPLE = 4096
"""Steps over which quantiles and peers are looked for."""
LONGEST = 182
"""The latest so many days are looked at."""
SHORTEST = 7
"""Of fewer days no spread can be told."""
ENOUGH = 14
"""With fewer, spreads and relations are those of the bundle gone on from, where there is one."""
SPOKEN = 0.25
"""Of its steps a channel must have read, for its day to say anything."""

Days = Callable[[int], tuple[Array, Array]]
"""Number of a day → its readings and what the usual week says of them, [T, N] each; NaN = missing."""


class Summed(NamedTuple):
    """A day: STATISTICS [S, N], the share of steps missing [N], and the common part's level by kind [G]."""

    statistics: Array
    missing: Array
    common: Array


@dataclass(frozen=True)
class Reference:
    """`tables` as FILE has them; `about` stands in the bundle's config."""

    tables: Mapping[str, Array]
    about: Mapping[str, Any]

    @cached_property
    def group(self) -> Array:
        """Which of the `kinds` each channel is of, int [N]."""
        return self.tables["group"]

    @cached_property
    def shared(self) -> Array:
        """Which kinds have a common part, bool [G]."""
        return np.bincount(self.group, minlength=len(self.about["kinds"])) >= TOGETHER

    def deviations(self, values: Array, usual: Array) -> Array:
        """Readings [T, N] in spreads from the usual."""
        with np.errstate(invalid="ignore"):
            found: Array = np.clip((values - usual) / self.tables["spread"], -CLIP, CLIP)
        return found

    def common(self, z: Array, left_out: Array | None = None) -> Array:
        """What all of a kind do together [T, G]: the median of `deviations` at each step; 0 without a common part.

        left_out: channels that have no say in it, bool [N].
        """
        out = np.zeros((len(z), len(self.shared)))
        for g in np.flatnonzero(self.shared).tolist():
            out[:, g] = np.nan_to_num(spreads.quantiles(z[:, _speakers(self.group == g, left_out)].T, [0.5])[0])
        return out

    def rest(self, z: Array, common: Array) -> Array:
        """What is left of `deviations` without the common part, [T, N]."""
        left: Array = z - self.tables["loading"] * common[:, self.group]
        return left

    def day(self, values: Array, usual: Array, left_out: Array | None = None) -> Summed:
        """A day's readings [T, N] in sums. A channel that says too little has NaN, as has a kind that is silent."""
        z = self.deviations(values, usual)
        common = self.common(z, left_out)
        rest, enough = self.rest(z, common), np.isfinite(z).mean(0) >= SPOKEN
        rest[:, ~enough] = np.nan
        count = np.maximum(np.isfinite(rest).sum(0), 1)
        level = np.where(enough, np.nansum(rest, axis=0) / count, np.nan)
        change = np.abs(np.diff(np.where(enough, z, np.nan), axis=0))
        pairs = np.isfinite(change).sum(0)
        sums = {
            "level": level,
            "scale": np.log(FLOOR + np.sqrt(np.nansum((rest - level) ** 2, axis=0) / count)),
            "rough": np.log(FLOOR + np.nansum(change, axis=0) / np.where(pairs >= 3, pairs, np.nan)),
            "shape": np.log(
                FLOOR + np.abs(spreads.quantiles(rest - level, LEVELS).T - self.tables["quantiles"]).mean(1)
            ),
            "bond": _bond(rest, self.tables["peers"]),
        }
        statistics = np.where(enough, np.stack([sums[name] for name in STATISTICS]), np.nan)
        return Summed(statistics, 1 - np.isfinite(values).mean(0), self._level(z, common))

    def _level(self, z: Array, common: Array) -> Array:
        """Of the common part [G]; of kinds that have none the mean deviation of their channels."""
        out = np.full(len(self.shared), np.nan)
        for g, shared in enumerate(self.shared.tolist()):
            own = z[:, self.group == g]
            if np.isfinite(own).any(1).mean() >= SPOKEN:
                out[g] = common[:, g].mean() if shared else np.nanmean(own)
        return out

    def apart(self, statistics: Array, left_out: Array | None = None) -> Array:
        """STATISTICS [S, N] as distances from the centre, less what most of the kind have in common, [S, N]."""
        out: Array = statistics - self.tables["centre"]
        for g in np.flatnonzero(self.shared).tolist():
            speak = out[:, _speakers(self.group == g, left_out)]
            together = np.where(np.isfinite(speak).sum(1) >= TOGETHER, spreads.quantiles(speak.T, [0.5])[0], 0)
            out[:, self.group == g] -= np.nan_to_num(together)[:, None]
        return out

    def p_values(self, away: Array, later: float) -> Array:
        """Two-sided p of distances as `apart` has them [S, N], so many days after the reference's end. NaN stays."""
        grown = 1 + self.tables["growth"][:, self.group] * max(0.0, later)
        return spreads.p_values(away / (self.tables["sd"] * np.sqrt(grown)), self.tables["df"][:, self.group])


def of(days: Days, count: int, kinds: list[str], steps: int, earlier: "Reference | None" = None) -> Reference | None:
    """What `count` days in order, of `steps` each, were like; None of too few. kinds: of each channel.

    earlier: of the same channels, for what few days do not tell.
    """
    if count < (1 if earlier else SHORTEST):
        return None
    which = range(max(0, count - LONGEST), count)
    names, group = np.unique(np.array(kinds), return_inverse=True)
    about = {"form": FORM, "days": len(which), "kinds": names.tolist(), "statistics": list(STATISTICS)}
    lent = earlier if count < ENOUGH else None
    if lent:
        tables = {k: lent.tables[k] for k in ("spread", "group", "loading", "quantiles", "peers")}
    else:
        tables = {"spread": _spread(days, which), "group": group.astype(np.int32)}
        tables |= _relations(days, which, Reference(tables, about), steps)
    found = Reference({**tables, "centre": np.zeros((len(STATISTICS), len(group)))}, about)
    each = [found.day(*days(d)) for d in which]
    statistics = np.stack([one.statistics for one in each])
    seen = np.isfinite(statistics).sum(0)
    tables["centre"] = np.where(seen > 0, np.nansum(statistics, axis=0) / np.maximum(seen, 1), np.nan)
    tables["missing"] = np.mean([one.missing for one in each], axis=0)
    steps_of = spreads.steps(np.stack([one.common for one in each]))
    if lent:
        # Both the usual week and the centre are of few days: a new one may lie farther off.
        tables |= {"sd": lent.tables["sd"] * np.sqrt(1 + 2 / count), "held": steps_of["held"]}
        tables |= {k: lent.tables[k] for k in ("df", "growth", "carry", "step", "stepped")}
        tables["centre"] = np.where(np.isfinite(tables["centre"]), tables["centre"], lent.tables["centre"])
    else:
        found = Reference(tables, about)
        tables |= spreads.null(np.stack([found.apart(day) for day in statistics]), group, len(names)) | steps_of
    return Reference({k: v if v.dtype.kind == "i" else v.astype(np.float32) for k, v in tables.items()}, about)


def _spread(days: Days, which: range) -> Array:
    """The standard deviation of each channel around its usual week, [N]; 1 for one that says nothing."""
    count, square = 0.0, 0.0
    for d in which:
        values, usual = days(d)
        away = values.astype(np.float64) - usual
        count, square = count + np.isfinite(away).sum(0), square + np.nansum(away**2, axis=0)
    spread = np.sqrt(square / np.maximum(count, 1))
    return np.where(spread > 1e-6, spread, 1.0)


def _relations(days: Days, which: range, found: Reference, steps: int) -> dict[str, Array]:
    """How much of what is common each channel shows [N]; quantiles of the rest [N, Q]; its peers [N, K] (−1: none)."""
    group = found.group
    both, square = np.zeros(len(group)), np.zeros(len(group))
    every, kept = max(1, len(which) * steps // SAMPLE), []
    for d in which:
        z = found.deviations(*days(d))
        common = found.common(z)[:, group]
        seen = np.isfinite(z)
        both, square = both + np.where(seen, z * common, 0).sum(0), square + np.where(seen, common**2, 0).sum(0)
        kept.append(np.stack([z[d % every :: every], common[d % every :: every]]))
    # Leans on 1 as if a tenth of all deviation had said so.
    lean = 0.1 * square + 1e-9
    loading = (both + lean) / (square + lean)
    z, common = np.concatenate(kept, axis=1)
    rest = z - loading * common
    rest -= np.nansum(rest, axis=0) / np.maximum(np.isfinite(rest).sum(0), 1)
    quantiles = np.nan_to_num(spreads.quantiles(rest, LEVELS).T)
    return {"loading": loading, "quantiles": quantiles, "peers": _peers(rest, group)}


def _peers(rest: Array, group: Array) -> Array:
    """The channels of its kind that each goes with most closely, int32 [N, PEERS]."""
    seen = np.isfinite(rest)
    x = np.where(seen, rest, 0.0)
    size = np.sqrt((x**2).T @ seen.astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num((x.T @ x) / (size * size.T))
    alike[group[:, None] != group[None]] = 0
    np.fill_diagonal(alike, 0)
    best = np.argsort(-alike, axis=1, kind="stable")[:, : min(PEERS, len(group))]
    return np.where(np.take_along_axis(alike, best, axis=1) >= ALIKE, best, -1).astype(np.int32)


def _bond(rest: Array, peers: Array) -> Array:
    """Fisher's z of each channel's correlation with the mean of its peers over the day, [N]; NaN without peers."""
    beside = rest[:, np.maximum(peers, 0)]
    there = np.isfinite(beside) & (peers >= 0)
    heard = there.sum(2)
    mean = np.where(there, beside, 0).sum(2) / np.maximum(heard, 1)
    both = np.isfinite(rest) & (heard > 0)
    n = np.maximum(both.sum(0), 1)
    a, b = (np.where(both, x - np.where(both, x, 0).sum(0) / n, 0) for x in (rest, mean))
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(0) / size
    found: Array = np.where((both.mean(0) >= SPOKEN) & (size > 1e-9), np.arctanh(np.clip(r, -0.99, 0.99)), np.nan)
    return found


def _speakers(mine: Array, left_out: Array | None) -> Array:
    """Those of `mine` [N] who have a say; all of them where too few would be left."""
    some = mine if left_out is None else mine & ~left_out
    return some if some.sum() >= TOGETHER else mine
