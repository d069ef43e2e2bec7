"""A gradient-boosted tree over what a person would tabulate: last values, lags, the profile, the clock. A baseline.

One model for all channels and steps ahead, in the window's own units as `models.ridge`; fitted on a bounded sample of
the training period, stopped early on validation (Friedman, 2001; scikit-learn's histogram form).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core import calendar
from pipelines.models.data import Windows, spread_out
from pipelines.models.ridge import normalise

Array = np.ndarray[Any, Any]
ROWS, HELD_ROWS = 50_000, 10_000
WINDOWS, HELD_WINDOWS, CHANNELS, LEADS = 1500, 192, 16, 8
"""Windows the sample is drawn from, and at most so many channels and steps ahead of each batch of them."""
PART = 200_000
"""Rows of the table made at a time."""
SETTINGS = {"max_iter": 200, "learning_rate": 0.1, "early_stopping": True, "random_state": 0}


@dataclass(frozen=True)
class Trees:
    """`models`: of the median and of the mean, or one classifier; `classes`: how many, 0 for values."""

    models: tuple[Any, ...]
    classes: int
    data: Windows
    reference: Array | None
    """What classes are ranges of, [targets]; None for values."""

    @classmethod
    def fit(cls, data: Windows, objective: Any, aux: dict[str, Any]) -> "Trees":
        """Fit on the training period; when to stop is chosen on validation."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        classes = len(aux.get("names", ()))
        reference = np.asarray(aux["reference"]) if classes else None
        x, residual, truth, column, scale = _sample(data, "train", WINDOWS, ROWS, reference)
        held = _sample(data, "validation", HELD_WINDOWS, HELD_ROWS, reference)
        if not classes:
            models = []
            for loss, power in (("absolute_error", 1), ("squared_error", 2)):
                model = HistGradientBoostingRegressor(loss=loss, **SETTINGS)
                model.fit(x, residual, scale**power, X_val=held[0], y_val=held[1], sample_weight_val=held[4] ** power)
                models.append(model)
            return cls(tuple(models), 0, data, None)
        y, y_held = (_class(objective, aux, t, c) for t, c in ((truth, column), (held[2], held[3])))
        known = np.isin(y_held, y)
        if len(np.unique(y)) < 2:  # a classifier of one class is no classifier: it is sure of it
            return cls((int(y[0]),), classes, data, reference)
        classifier = HistGradientBoostingClassifier(**{**SETTINGS, "max_iter": 100})
        classifier.fit(x, y, X_val=held[0][known], y_val=y_held[known])
        return cls((classifier,), classes, data, reference)

    def predict(self, rows: Array) -> Array:
        """Median and mean of the asked steps [B, H, n, 2] in the target's units, or probabilities [B, H, n, C]."""
        n, horizon = self.data.targets, self.data.spec.horizon
        size = max(1, PART // (horizon * n))
        return np.concatenate([self._part(rows[i : i + size], n, horizon) for i in range(0, len(rows), size)])

    def _part(self, rows: Array, n: int, horizon: int) -> Array:
        batch = self.data.batch(rows)
        x, usual, level, scale = table(self.data, batch, rows, np.arange(n), np.arange(horizon), self.reference)
        shape, flat = usual.shape, x.reshape(-1, x.shape[-1])
        if not self.classes:
            return np.stack([level + scale * (m.predict(flat).reshape(shape) + usual) for m in self.models], axis=-1)
        out = np.zeros((len(flat), self.classes))
        (model,) = self.models
        if isinstance(model, int):
            out[:, model] = 1
        else:
            out[:, model.classes_.astype(int)] = model.predict_proba(flat)
        return out.reshape(*shape, self.classes)


def _class(objective: Any, aux: dict[str, Any], truth: Array, column: Array) -> Array:
    found: Array = objective.truth(truth, {**aux, "reference": np.asarray(aux["reference"])[column]})
    return found.astype(int)


def _sample(data: Windows, split: str, most_windows: int, most: int, reference: Array | None) -> tuple[Array, ...]:
    """Table [R, F], residual over the profile, truth, channel and relative scale [R] of at most `most` asked steps."""
    rng = np.random.default_rng(0)
    rows = spread_out(data.rows(split, 1), most_windows)
    inputs = np.arange(data.targets, len(data.columns))
    parts = []
    for i in range(0, len(rows), 64):
        some = np.sort(rng.permutation(data.targets)[:CHANNELS])
        leads = np.sort(rng.permutation(data.spec.horizon)[:LEADS])
        mine = rows[i : i + 64]
        batch = data.batch(mine, np.concatenate([some, inputs]))
        x, usual, level, scale = table(data, batch, mine, some, leads, reference)
        truth = batch["truth"][:, leads]
        seen = np.isfinite(truth)
        residual = (truth - level) / scale - usual
        column = np.broadcast_to(some, truth.shape)
        wide = np.broadcast_to(scale, truth.shape)
        parts.append([x[seen], residual[seen], truth[seen], column[seen], wide[seen]])
    whole = [np.concatenate(p) for p in zip(*parts, strict=True)]
    chosen = np.sort(rng.permutation(len(whole[0]))[:most])
    x, residual, truth, column, scale = (a[chosen] for a in whole)
    return x, residual, truth, column, scale / scale.mean()


def table(
    data: Windows, batch: dict[str, Array], rows: Array, some: Array, leads: Array, reference: Array | None = None
) -> tuple[Array, ...]:
    """Features [B, L, k, F] of the targets `some` [k] at steps `leads` [L] ahead; profile, level and scale beside.

    The batch holds those targets first, then all inputs. Profile [B, L, k] and level, scale [B, 1, k] as in
    `models.ridge`. With a `reference`, last value and profile as shares of it as well.
    """
    spec, known, k = data.spec, data.known, len(some)
    around = np.r_[:known, known + spec.horizon : known + spec.horizon + spec.after]
    values, profile = batch["values"][..., :k], batch["profile"][..., :k]
    level, usual_level, scale = normalise(values[:, around], profile[:, around], len(around), batch["std"][:k])
    x, shape = (values - level) / scale, (profile - usual_level) / scale
    usual = shape[:, known + leads]
    off = x - shape[:, : x.shape[1]]
    recent = [x[:, known - back] for back in (1, 2, 3, 6) if back <= known]
    recent += [off[:, known - 1], off[:, max(known - spec.patch, 0) : known].mean(1)]
    recent += [((level - batch["mean"][:k]) / batch["std"][:k])[:, 0], (scale / batch["std"][:k])[:, 0]]
    recent += [batch["observed"][:, :known, :k].mean(1), batch["observed"][:, known - 1, :k]]
    if spec.after:  # the first steps behind the gap
        later = known + spec.horizon
        recent += [x[:, later], off[:, later], off[:, later : later + spec.patch].mean(1)]
    recent += [np.broadcast_to(some.astype(float), recent[0].shape)]
    recent += [np.broadcast_to(v[:, -1:], recent[0].shape) for v in _inputs(data, batch, k, np.array([known - 1]))]
    shape3 = (len(rows), len(leads), k)
    columns = [np.broadcast_to(r[:, None], shape3) for r in recent]
    columns += [np.broadcast_to(v[..., None], shape3) for v in _inputs(data, batch, k, known + leads, ahead=True)]
    columns += [usual, usual - shape[:, known - 1 : known], np.broadcast_to(leads[:, None], shape3)]
    for back in (86400 // spec.step_s, 604800 // spec.step_s):
        if 1 < back <= known:  # what was read a whole number of days or weeks before
            columns.append(x[:, known + leads - back * (leads // back + 1)])
    if reference is not None:
        columns.append(np.broadcast_to(values[:, known - 1 : known] / reference[some], shape3))
        columns += [profile[:, known + leads] / reference[some], (level + scale * usual) / reference[some]]
    times = data.starts(rows + known)[:, None] + leads * np.timedelta64(spec.step_s, "s")
    clock = calendar.features(times.reshape(-1), spec.timezone, spec.holidays).reshape(*shape3[:2], 1, -1)
    columns += [np.broadcast_to(clock[..., i], shape3) for i in range(clock.shape[-1])]
    return np.stack(columns, axis=-1).astype(np.float32), usual, level, scale


def _inputs(data: Windows, batch: dict[str, Array], k: int, steps: Array, ahead: bool = False) -> list[Array]:
    """Each kind of input, averaged over its sensors, in standard deviations, at `steps` [L] of the window; each [B, L].

    ahead: of those known ahead only.
    """
    first = len(data.columns) - data.ahead if ahead else data.targets
    kinds = np.array(data.channel("kind")[first:], dtype=str)
    own = slice(batch["values"].shape[2] - len(kinds), None)
    found = (batch["values"][:, steps, own] - batch["mean"][own]) / batch["std"][own] if len(kinds) else np.zeros(0)
    return [found[..., kinds == kind].mean(-1) for kind in dict.fromkeys(kinds.tolist())]
