"""What a bundle does when its readings are damaged, and what its answers rest on.

    probes.robustness(predictor, objective, ridge, values, starts, truth)    # dict, for the report
    found = probes.explain(package.load(folder), predictor, values, starts, target=3)
    probes.plot(path, found, predictor)

`predictor` is a `release.predictor.Predictor`, by its methods alone; torch is needed for explanations only.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, metrics
from pipelines.core.windows import known_steps

Array = np.ndarray[Any, Any]
Ask = Callable[[Array, Array], Array]
"""Raw readings [B, context, N] and their starts [B] → answers [B, H, targets, names]."""
WINDOWS = 64
"""Windows that damage is tried on."""
SHARE, NOISE = 0.2, 0.1
"""Readings dropped; noise in standard deviations of a channel."""


def robustness(
    predictor: Any, objective: Any, ridge: Any, values: Array, starts: Array, truth: Array, seed: int = 0
) -> dict[str, Any]:
    """The main metric under each kind of damage: of the model, the ridge and the last value, on the same windows.

    values: raw readings [B, context, N], of which at most WINDOWS, evenly spaced, are used; truth: what was read
    [B, H, targets], undamaged. Returns `metric`, `windows`, and by kind of damage a dict by method of `value` and
    `ratio`, the value's share of that on clean readings. For alarms the metric is the error of the reconstruction.
    """
    chosen = np.unique(np.linspace(0, len(values) - 1, min(WINDOWS, len(values))).astype(int))
    values, starts, truth = values[chosen], starts[chosen], truth[chosen]
    aux = {**predictor.config["aux"], "reference": predictor.tables["reference"][: predictor.targets]}
    metric = "mae" if "alarm" in objective.CALIBRATION else objective.PRIMARY
    told: dict[str, Any] = {}
    for damage in ("clean", *DAMAGES):
        damaged = spoilt(damage, values, predictor.channels, predictor.tables["std"], np.random.default_rng(seed))
        for name, (ask, decision) in _methods(predictor, objective, ridge, aux).items():
            answer = ask(damaged, starts)
            if metric == objective.PRIMARY:
                value = objective.score(answer, objective.truth(truth, aux), {**aux, "decision": decision})[metric]
            else:
                value = metrics.regression(answer[..., 1], truth)["mae"]
            clean = told["clean"][name]["value"] if damage != "clean" else value
            told.setdefault(damage, {})[name] = {"value": value, "ratio": value / clean if clean else float("nan")}
    return {"metric": metric, "windows": len(values), **told}


def _methods(predictor: Any, objective: Any, ridge: Any, aux: dict[str, Any]) -> dict[str, tuple[Ask, Any]]:
    """How each answers, and the decision's weights it is scored with."""
    spec, n = predictor.spec, predictor.targets

    def plain(one: Callable[[dict[str, Array]], Array]) -> Ask:
        return lambda values, starts: objective.from_values(one(predictor.inputs(values, starts)), aux)

    def last(batch: dict[str, Array]) -> Array:
        known = known_steps(spec, predictor.reconstruct)
        found: Array = objective.baselines(batch, spec, known, n)["last_value"]
        return found

    def alone(batch: dict[str, Array]) -> Array:
        # The baseline is fitted on each channel's own readings, without what a model hears from peers.
        found: Array = ridge.predict({k: v for k, v in batch.items() if k != "beside"}, n)
        return found

    return {
        "model": (predictor.predict, predictor.tables.get("decision", 1)),
        "ridge": (plain(alone), 1),
        "last_value": (plain(last), 1),
    }


def spoilt(damage: str, values: Array, channels: list[dict[str, Any]], std: Array, rng: np.random.Generator) -> Array:
    """A damaged copy of readings [B, context, N]; std [N]. `damage`: `clean` or one of DAMAGES."""
    out = values.copy()
    if damage == "dropped":
        out[rng.random(values.shape) < SHARE] = np.nan
    elif damage == "noise":
        out += (NOISE * std * rng.standard_normal(values.shape)).astype(values.dtype)
    elif damage == "district_dark":
        out[..., _district(channels, rng)] = np.nan
    elif damage == "stuck":
        frozen, since = _quarter(channels, rng), 2 * values.shape[1] // 3
        last = _carried(values[:, : since + 1, frozen])
        out[:, since:, frozen] = last[:, None]
    elif damage != "clean":
        raise ValueError(f"{damage!r} is no damage; expected clean or one of {', '.join(DAMAGES)}")
    return out


DAMAGES = ("dropped", "noise", "district_dark", "stuck")
"""A fifth of all readings missing; noise; all sensors of a district missing; a quarter of the sensors holding the value
they had two thirds into the window."""


def _district(channels: list[dict[str, Any]], rng: np.random.Generator) -> Array:
    """Channels of the district with most targets, bool [N]; without districts those of a random quarter of sensors."""
    of = np.array([c.get("district") or "" for c in channels])
    asked = np.array([c.get("role", "target") == "target" for c in channels])
    names, size = np.unique(of[asked & (of != "")], return_counts=True)
    return of == names[size.argmax()] if len(names) > 1 else _quarter(channels, rng)


def _quarter(channels: list[dict[str, Any]], rng: np.random.Generator) -> Array:
    sensors = list(dict.fromkeys(c["sensor"] for c in channels if c.get("role", "target") == "target"))
    picked = {sensors[i] for i in rng.permutation(len(sensors))[: max(1, len(sensors) // 4)]}
    return np.array([c["sensor"] in picked for c in channels])


def _carried(values: Array) -> Array:
    """The latest reading down the second axis of [B, T, N], NaN where none was; [B, N]."""
    seen = np.isfinite(values)
    last = values.shape[1] - 1 - seen[:, ::-1].argmax(1)
    return np.take_along_axis(values, last[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Explanation:
    """How an answer comes about from `usual`, the answer had everything read been as usual at that time of week."""

    attribution: Array
    """What each reading adds, in the answer's units, float [context, N]."""
    usual: float
    answer: float
    target: int
    what: str
    """The sensor and what is asked of it, for a title."""

    @property
    def gap(self) -> float:
        """How much of answer − usual the attributions do not account for, as a share of their absolute sum."""
        off = abs(float(self.attribution.sum()) - (self.answer - self.usual))
        return off / max(float(np.abs(self.attribution).sum()), 1e-12)

    def by(self, names: list[str]) -> dict[str, float]:
        """Shares of the absolute attribution by a name of each channel, [N] of them; largest first."""
        size = np.abs(self.attribution).sum(0)
        total = max(float(size.sum()), 1e-12)
        sums = {k: float(size[[n == k for n in names]].sum()) / total for k in dict.fromkeys(names)}
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @property
    def by_step(self) -> Array:
        """Share of the absolute attribution by step of the window, [context]."""
        size = np.abs(self.attribution)
        found: Array = size.sum(1) / max(float(size.sum()), 1e-12)
        return found


def explain(served: Any, predictor: Any, values: Array, starts: Array, target: int, points: int = 32) -> Explanation:
    """Integrated gradients (Sundararajan et al., 2017) of one window's answer over its readings.

    served: the bundle's torch model (`package.load`); values: raw readings [1, context, N] that begin at starts [1];
    target: which of the targets. The path leads from the profile to what was read, gaps filled as in serving; `points`
    on it. The answer is the median at the last asked step, or the probability of the class that is likeliest there.
    """
    import torch
    from captum.attr import IntegratedGradients

    from pipelines.models.export import INPUTS

    given = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in predictor.inputs(values, starts).items()}

    def ask(readings: Any) -> Any:
        wide = {k: given[k].expand(len(readings), *given[k].shape[1:]) for k in ("observed", "profile", "calendar")}
        if "beside" in given:
            wide["beside"] = _beside(readings, given, predictor)
        return served(*({**given, **wide, "values": readings}[k] for k in INPUTS))[:, -1, target]

    read, usual = given["values"], given["profile"][:, : given["values"].shape[1]].clone()
    with torch.no_grad():
        whole = ask(read)[0]
        column = int(whole.argmax()) if "decision" in predictor.tables else 1
        before = float(ask(usual)[0, column])
    found = IntegratedGradients(lambda x: ask(x)[:, column]).attribute(
        read, usual, n_steps=points, internal_batch_size=8
    )
    channel = predictor.channels[target]
    what = f"{channel['sensor']} {channel['kind']} ({predictor.names[column]})"
    return Explanation(found[0].detach().numpy(), before, float(whole[column]), target, what)


def _beside(readings: Any, given: dict[str, Any], predictor: Any) -> Any:
    """`core.windows.beside` in torch, so that what is heard from peers is attributed to their readings too."""
    import torch

    end = known_steps(predictor.spec, predictor.reconstruct)
    last, std = slice(end - given["beside"].shape[1], end), given["std"]
    peers, weights = (torch.from_numpy(predictor.tables[k]) for k in ("peers", "weights"))
    away = (readings[:, last] - given["profile"][:, last]) * given["observed"][:, last] / std
    return (away[..., peers] * weights).sum(-1) * std


def plot(path: Path, found: Explanation, predictor: Any, most: int = 30) -> None:
    """Attribution by step and channel (the `most` that matter most), with its shares by kind and by lag."""
    from matplotlib.figure import Figure

    names = [f"{c['sensor']} {c['kind']}" for c in predictor.channels]
    order = np.argsort(-np.abs(found.attribution).sum(0), kind="stable")[:most]
    hours = (np.arange(len(found.attribution)) - predictor.spec.context) * predictor.spec.step_s / 3600
    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    heat, kinds, lags = figure.subplot_mosaic([["heat", "heat"], ["kinds", "lags"]], height_ratios=[2, 1]).values()
    shown = found.attribution[:, order].T
    size = float(np.abs(shown).max()) or 1.0
    drawn = heat.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-size, vmax=size,
                        extent=(hours[0], 0, len(order), 0), interpolation="nearest")  # fmt: skip
    heat.set_yticks(np.arange(len(order)) + 0.5, [names[i] for i in order], fontsize=6)
    heat.set_title(f"{found.what}: {found.usual:.4g} as usual, {found.answer:.4g} as read", loc="left", fontsize=11)
    heat.set_xlabel("hours before the window's end")
    figure.colorbar(drawn, ax=heat, label="adds to the answer")
    shares = found.by([_kind(c, i, found.target) for i, c in enumerate(predictor.channels)])
    kinds.barh(list(shares)[::-1], list(shares.values())[::-1], color="#0b6e99")
    kinds.set_title("share by kind of reading", loc="left", fontsize=10)
    lags.bar(hours, found.by_step, width=predictor.spec.step_s / 3600, align="edge", color="#0b6e99")
    lags.set_title("share by time", loc="left", fontsize=10)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    files.write_bytes(path, sink.getvalue())


def _kind(channel: dict[str, Any], number: int, target: int) -> str:
    return "itself" if number == target else f"{channel['kind']} of others"
