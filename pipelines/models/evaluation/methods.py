"""What a model must beat: the objective's plain values, ridge and boosted trees, calibrated as the model is.

All are fitted on the training period alone; intervals and the choice among classes are set on validation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.models.data import Windows, spread_out
from pipelines.models.evaluation.trees import Trees
from pipelines.models.ridge import Ridge, windows_to_fit

Array = np.ndarray[Any, Any]
Answer = Callable[[Array], Array]
"""First rows of windows → answers [B, H, targets, names]."""
HELD_WINDOWS = 96
"""Windows that the ridge's penalty is chosen on, as in fine-tuning; twice as many calibrate."""


@dataclass(frozen=True)
class Method:
    """How one method answers, and what its answers are scored with."""

    answer: Answer
    aux: dict[str, Any]


@dataclass(frozen=True)
class Alone:
    """A ridge that was fitted on each channel's own readings, given batches that tell of its peers too."""

    ridge: Ridge

    def predict(self, batch: dict[str, Array], n: int) -> Array:
        """As `Ridge.predict`."""
        return self.ridge.predict({k: v for k, v in batch.items() if k != "beside"}, n)


def fit_ridge(data: Windows) -> Ridge:
    """The ridge as fine-tuning fits it: on training windows, its penalty chosen on validation."""
    return Ridge.fit(
        data.batches(windows_to_fit(data.rows("train", 1), data.targets), 64),
        list(data.batches(spread_out(data.rows("validation", 1), HELD_WINDOWS), 64)),
        data.known,
        data.spec.after,
    )


def baselines(
    data: Windows, objective: Any, aux: dict[str, Any], ridge: Ridge, trees: bool = True
) -> dict[str, Method]:
    """Every baseline of `data`, ready to answer; aux as the objective's, with `reference` [targets].

    trees: boosted ones too, which take longest to fit.
    """
    each = _raw(data, objective, aux, ridge)
    if trees:
        each["gbt"] = Trees.fit(data, objective, aux).predict
    if "alarm" in objective.CALIBRATION:  # a reading's misfit is in its channel's usual error, see `models.detect`
        return {name: _plain(raw, objective, aux) for name, raw in each.items()}
    rows = spread_out(data.rows("validation", 1), 2 * HELD_WINDOWS)
    truth = objective.truth(np.concatenate([b["truth"] for b in data.batches(rows, 64)]), aux)
    calibrate = _of_classes if "decision" in objective.CALIBRATION else _of_values
    return {name: calibrate(raw, rows, truth, data, objective, aux) for name, raw in each.items()}


def _raw(data: Windows, objective: Any, aux: dict[str, Any], ridge: Ridge) -> dict[str, Answer]:
    """Uncalibrated: values [B, H, n], with [B, H, n, 2] median and mean, or with C class probabilities."""
    known, n = data.known, data.targets

    def in_parts(one: Callable[[dict[str, Array]], Array]) -> Answer:
        return lambda rows: np.concatenate([one(b) for b in data.batches(rows, 64)])

    def plain(name: str) -> Answer:
        return in_parts(lambda b: objective.baselines(b, data.spec, known, n)[name])

    names = objective.baselines(data.batch(data.rows("train", 1)[:1]), data.spec, known, n)
    return {**{k: plain(k) for k in names}, "ridge": in_parts(lambda b: ridge.predict(b, n))}


def _both(values: Array) -> tuple[Array, Array]:
    """Median and mean [B, H, n] of raw values."""
    return (values, values) if values.ndim == 3 else (values[..., 0], values[..., 1])


def _plain(raw: Answer, objective: Any, aux: dict[str, Any]) -> Method:
    return Method(lambda rows: objective.from_values(_both(raw(rows))[0], aux), aux)


def _of_values(raw: Answer, rows: Array, truth: Array, data: Windows, objective: Any, aux: dict[str, Any]) -> Method:
    """An 80 % interval from the residuals on validation, by step, in each channel's spread (split-conformal)."""
    std = data.std[: data.targets]

    residual = (truth - _both(raw(rows))[0]) / std
    low, high = (_quantile(residual, level) for level in (0.1, 0.9))

    def answer(rows: Array) -> Array:
        middle, mean = _both(raw(rows))
        out = objective.from_values(middle, aux)
        out[..., 0] = middle + np.minimum(low, 0)[:, None] * std
        out[..., 2] = middle + np.maximum(high, 0)[:, None] * std
        out[..., 3] = mean
        return out

    return Method(answer, aux)


def _quantile(residual: Array, level: float) -> Array:
    """Of [B, H, n] by step, [H]; 0 where fewer than 20 residuals speak."""
    flat = [residual[:, h][np.isfinite(residual[:, h])] for h in range(residual.shape[1])]
    return np.array([np.quantile(r, level) if len(r) >= 20 else 0.0 for r in flat], np.float32)


def _of_classes(raw: Answer, rows: Array, truth: Array, data: Windows, objective: Any, aux: dict[str, Any]) -> Method:
    """How often each class came where a class was said, by step; and `decide`'s factors."""
    classes = len(aux["names"])
    given = raw(rows)
    if given.ndim == 4:
        return Method(raw, {**aux, "decision": objective.decide(given, truth)})
    said = objective.truth(given, aux).astype(int)
    seen = np.isfinite(truth)
    count = np.zeros((truth.shape[1], classes, classes))
    step = np.broadcast_to(np.arange(truth.shape[1])[None, :, None], truth.shape)
    np.add.at(count, (step[seen], said[seen], truth[seen].astype(int)), 1)
    prior = (count.sum((0, 1)) + 1) / (count.sum() + classes)
    share = (count + prior) / (count.sum(-1, keepdims=True) + 1)

    def answer(rows: Array) -> Array:
        said = objective.truth(raw(rows), aux).astype(int)
        return share[np.arange(said.shape[1])[None, :, None], said]

    return Method(answer, {**aux, "decision": objective.decide(share[step, said], truth)})
