"""What a model's answers are usually like from day to day, by kind: on validation, for later days to be held against.

Of values: `bias`, by how much answers lie above what came, and `width` of the 80 % interval, as a log; both in usual
spreads of the kind. Of classes: the share of answers that named each. Of alarms nothing: their rate is in the report.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SHORTEST = 4
"""Of fewer days no spread can be told."""
EFFECT = {"bias": 0.25, "width": 0.2, "share": 0.1}
"""A day must be off by so much to matter."""
Usual = dict[str, dict[str, list[float]]]
"""By kind and figure: mean, standard deviation and number of days."""


def of_validation(
    days: Array, kinds: list[str], answer: Array, truth: Array, std: Array, names: list[str], decision: Array | None
) -> Usual:
    """From windows of these days [B]: answers [B, H, n, names] to what became `truth` [B, H, n], of channels of these
    kinds with these spreads [n]. decision: of classes, its weights."""
    found: dict[str, dict[str, list[float]]] = {}
    for day in np.unique(days):
        for kind in sorted(set(kinds)):
            mine = np.array([k == kind for k in kinds])
            told, real = answer[days == day][:, :, mine], truth[days == day][:, :, mine]
            seen = np.isfinite(real)
            if not seen.any():
                continue
            if decision is not None:
                said = np.bincount((told * decision).argmax(-1)[seen], minlength=len(names))
                sums = {f"share {name}": float(n) for name, n in zip(names, said, strict=True)}
            else:
                off, width = told[..., names.index("mean")] - real, told[..., 2] - told[..., 0]
                sums = {"bias": float(off[seen].sum()), "width": float(width[seen].sum())}
            for name, value in figures(sums, int(seen.sum()), float(std[mine].mean())).items():
                found.setdefault(kind, {}).setdefault(name, []).append(value)
    return {
        kind: {name: [float(np.mean(v)), float(np.std(v, ddof=1)), len(v)] for name, v in told.items()}
        for kind, told in found.items()
        if min(map(len, told.values())) >= SHORTEST
    }


def figures(sums: Mapping[str, float], count: int, spread: float) -> dict[str, float]:
    """Of sums over so many answers: `bias` and `width`, or `share …` of each class."""
    each = {name: value / count for name, value in sums.items()}
    if "width" not in each:
        return each
    return {"bias": each["bias"] / spread, "width": float(np.log(max(each["width"] / spread, 1e-6)))}


def drifted(found: Mapping[str, Mapping[str, float]], usual: Usual, false_discoveries: float) -> tuple[int, list[str]]:
    """How many figures were tested, and which of a day's are significant and not small: "kind figure"."""
    from scipy import stats

    names, p, large = [], [], []
    for kind, told in sorted(found.items()):
        for name, value in sorted(told.items()):
            if name in usual.get(kind, {}) and np.isfinite(value):
                mean, sd, days = usual[kind][name]
                off = value - mean
                # A spread of few days may be small by chance: it leans on a quarter of what matters.
                effect = EFFECT[name.partition(" ")[0]]
                width = np.hypot(sd, effect / 4) * np.sqrt(1 + 1 / days)
                names.append(f"{kind} {name}")
                p.append(2 * stats.t.sf(abs(off) / width, days - 1))
                large.append(abs(off) >= effect)
    if not names:
        return 0, []
    low = stats.false_discovery_control(p) <= false_discoveries
    return len(names), [n for n, small, big in zip(names, low.tolist(), large, strict=True) if small and big]
