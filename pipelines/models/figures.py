"""Plots of an evaluation, as PNG with no date inside, so that equal results give equal files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.models.data import Windows
from pipelines.models.evaluation import LABELS
from pipelines.models.evaluation.alarms import Alarms
from pipelines.models.evaluation.forecasts import Judged

Array = np.ndarray[Any, Any]
COLOURS = {
    "model": "#0b6e99",
    "last_value": "#9b9a97",
    "linear": "#b8894a",
    "profile": "#d9730d",
    "ridge": "#6940a5",
    "gbt": "#0f7b6c",
    "none": "#9b9a97",
    "majority": "#9b9a97",
    "dictionary": "#6940a5",
    "usual": "#d9730d",
    "logistic": "#6940a5",
}


def tint(name: str) -> str:
    """The colour of a method."""
    return COLOURS.get(name, "black")


def called(name: str) -> str:
    """What a method is called."""
    return LABELS.get(name, name.replace("_", " "))


def _figure(title: str, width: float = 8, height: float = 4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def save(path: Path, figure: Any) -> None:
    files.write_bytes(path, png(figure))


def png(figure: Any) -> bytes:
    """It as PNG, without a date."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def panel(axes: Any, title: str) -> None:
    """Begin one plot of a page."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def overview(path: Path, task: str, judged: Judged) -> None:
    """One page: the primary metric by step ahead and by hour, the difference in each slice, the calibration."""
    figure, ((step, hour), (slices, calibration)) = _page(task, judged.report)
    metric = judged.report["primary"]
    _by_step(step, judged.by_step, metric)
    _by_hour(hour, judged.by_hour)
    gains(slices, judged.report)
    _calibration(calibration, judged)
    save(path, figure)


def overview_alarms(path: Path, task: str, found: Alarms) -> None:
    """One page: precision against recall, scores with and without the label, the difference in each slice, by hour."""
    figure, ((curve, share), (slices, scores)) = _page(task, found.report)
    _alarm_rates(share, found.report)
    if found.label is not None:
        _precision_recall(curve, found)
        gains(slices, found.report)
    _score_shares(scores, found)
    save(path, figure)


def _page(task: str, report: dict[str, Any]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), dpi=100, layout="constrained")
    test, metric = report["test"], report["primary"]
    figure.suptitle(
        f"{task}: frozen test {test['from'][:10]} to {test['until'][:10]}, {test['points']:,} points; "
        f"{metric} {_value(report['model'].get(metric))}",
        fontsize=12,
    )
    return figure, figure.subplots(2, 2)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _by_step(axes: Any, rows: list[dict[str, Any]], metric: str) -> None:
    panel(axes, f"{metric} by how far ahead")
    long = max(r["minutes"] for r in rows) > 120
    for name in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == name]
        axes.plot(
            [r["minutes"] / (60 if long else 1) for r in mine], [r[metric] for r in mine], color=tint(name),
            label=called(name), marker="." if len(mine) < 30 else None, zorder=3 if name == "model" else 2,
        )  # fmt: skip
    axes.set_xlabel("hours ahead" if long else "minutes ahead")
    axes.legend(frameon=False)


def _by_hour(axes: Any, by_hour: dict[str, Array]) -> None:
    panel(axes, "mean error (of classes: share wrong) by local hour of the moment asked for")
    for name, values in by_hour.items():
        axes.plot(range(24), values, color=tint(name), zorder=3 if name == "model" else 2)
    axes.set_xlabel("local hour")


def gains(axes: Any, report: dict[str, Any], most: int = 22) -> None:
    """Model minus best baseline in each slice with its interval, as a share of the baseline; right of 0 is better."""
    rival, sign = report["interval"]["versus_best_baseline"]["baseline"], 1 if report["higher_is_better"] else -1
    everything = {
        "all": {"all": {**report["interval"]["versus_best_baseline"], rival: report[rival][report["primary"]]}}
    }
    rows = [
        (name if group in ("all", "regime") else f"{group} {name}", slice_, abs(slice_[rival]) or np.nan)
        for group, found in {**everything, **report.get("slices", {})}.items()
        for name, slice_ in found.items()
    ][:most]
    panel(axes, f"gain over {called(rival)} by slice, % of its {report['primary']}, 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    for i, (_, slice_, base) in enumerate(rows):
        ends = sorted(sign * 100 * slice_[k] / base for k in ("low", "high"))
        sure = ends[0] > 0 or ends[1] < 0
        colour = "#9b9a97" if not sure else COLOURS["model"] if ends[0] > 0 else "#c4342b"
        axes.plot(ends, [i, i], color=colour, linewidth=2)
        axes.plot(sign * 100 * slice_["difference"] / base, i, "o", color=colour, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.invert_yaxis()


def _calibration(axes: Any, judged: Judged) -> None:
    """Values: coverage and nominal coverage by step ahead. Classes: how often right, by how sure."""
    if judged.reliability is None:
        panel(axes, "coverage of the 80 % interval by how far ahead")
        mine = [r for r in judged.by_step if r["method"] == "model"]
        axes.plot(
            [r["minutes"] / 60 for r in mine], [r["coverage80"] for r in mine], color=COLOURS["model"], marker="."
        )
        axes.axhline(0.8, color="black", linewidth=0.8, linestyle="--")
        axes.axhspan(0.77, 0.83, color="black", alpha=0.06)
        axes.set_ylim(0.5, 1)
        axes.set_xlabel("hours ahead")
        return
    reliability(axes, judged.reliability)


def reliability(axes: Any, sums: tuple[Array, Array, Array]) -> None:
    """sums: as `metrics.reliability` has them."""
    sure, right, count = (a[sums[2] > 0] for a in sums)
    panel(axes, "how often the likeliest class is right, by how sure (dot size: how many)")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axes.scatter(sure / count, right / count, s=10 + 190 * count / count.max(), color=COLOURS["model"])
    axes.set_xlabel("probability given")


def _precision_recall(axes: Any, found: Alarms) -> None:
    """Over all thresholds, a line a method."""
    panel(axes, "precision against recall of alarms")
    assert found.label is not None
    label = found.label[found.seen] > 0.5
    for name, score in found.scores.items():
        hits = np.cumsum(label[np.argsort(-score[found.seen], kind="stable")])
        every = np.linspace(0, len(hits) - 1, min(len(hits), 500)).astype(int)
        axes.plot(
            hits[every] / max(hits[-1], 1), hits[every] / (every + 1), color=tint(name), label=called(name),
            zorder=3 if name == "model" else 2,
        )  # fmt: skip
    axes.set_xlabel("recall")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)


def _alarm_rates(axes: Any, report: dict[str, Any]) -> None:
    rates = {k: v["alarm_rate"] for k, v in report.items() if isinstance(v, dict) and "alarm_rate" in v}
    panel(axes, "share of readings above the alarm threshold")
    axes.bar([called(name) for name in rates], list(rates.values()), color=[tint(name) for name in rates])


def _score_shares(axes: Any, found: Alarms) -> None:
    """How the model's scores spread, apart for labelled readings."""
    panel(axes, "share of readings by the model's score")
    score = found.scores["model"][found.seen]
    edges = np.linspace(0, np.quantile(score, 0.999) + 1e-9, 50)
    label = np.zeros(len(score), bool) if found.label is None else found.label[found.seen] > 0.5
    for inside, name, colour in ((~label, "not labelled", COLOURS["last_value"]), (label, "labelled", "#c4342b")):
        if inside.any():
            share = np.histogram(np.minimum(score[inside], edges[-1]), edges)[0] / inside.sum()
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.5, label=name)
    axes.set_xlabel("score")
    axes.legend(frameon=False)


def example(path: Path, answer: Array, values: Array, issued: Array, data: Windows) -> None:
    """Forecasts end to end over the test period's first days, for the busiest-read of the targets."""
    sensor = int(np.isfinite(values).sum((0, 1)).argmax())
    gap = issued[1:2] - issued[:1]
    every = (
        max(1, int(data.spec.horizon * data.spec.step_s // max(1, gap.astype(int).max(initial=1)))) if len(gap) else 1
    )
    most = max(2, int(4 * 86400 / (data.spec.horizon * data.spec.step_s)))
    chosen = np.arange(0, len(issued), every)[:most]
    steps = np.arange(data.spec.horizon) * np.timedelta64(data.spec.step_s, "s")
    times = (issued[chosen, None] + steps).reshape(-1)
    low, middle, high = (answer[chosen, :, sensor, i].reshape(-1) for i in range(3))
    name, kind, unit = (data.channel(c)[sensor] for c in ("sensor", "kind", "unit"))
    figure, axes = _figure(f"{kind} at {name}: forecast with its 80 % interval, and what came", width=10)
    axes.fill_between(times, low, high, color=COLOURS["model"], alpha=0.2, linewidth=0)
    axes.plot(times, middle, color=COLOURS["model"], label="forecast (median)")
    axes.plot(times, values[chosen, :, sensor].reshape(-1), color="black", linewidth=0.8, label="measured")
    axes.set_ylabel(unit)
    axes.tick_params(axis="x", labelrotation=20)
    axes.legend(frameon=False)
    save(path, figure)


def confusion(path: Path, chosen: Array, truth: Array, names: tuple[str, ...]) -> None:
    """Share of each true class (row) that was given each class (column)."""
    seen = np.isfinite(truth)
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (truth[seen].astype(int), chosen[seen]), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = max(5, 0.9 * len(names))
    figure, axes = _figure("given class by true class", width=side, height=side - 0.5)
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(share):
        axes.text(
            j,
            i,
            f"{value:.0%}\n{int(table[i, j]):,}",
            ha="center",
            va="center",
            color="white" if value > 0.5 else "black",
        )
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 5 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("given")
    axes.set_ylabel("true")
    save(path, figure)


def alarms(path: Path, score: Array, label: Array | None, threshold: float, data: Windows) -> None:
    """Scores [T, n] of the test period, a row a target, with labels marked below each."""
    lo, _ = data.series.splits["test"]
    times = data.series.times(lo, lo + len(score))
    n = score.shape[1]
    figure, axes = _figure(
        "anomaly score (dark = above the alarm threshold); red = labelled", width=10, height=0.4 * n + 1.5
    )
    axes.grid(visible=False)
    axes.pcolormesh(times, np.arange(n), np.clip(score / max(threshold, 1e-9), 0, 2).T, cmap="Greys", shading="nearest")
    if label is not None:
        for i in range(n):
            marked = np.where(label[:, i] > 0.5, i + 0.38, np.nan)
            axes.plot(times, marked, color="crimson", linewidth=3, solid_capstyle="butt")
    axes.set_yticks(np.arange(n), data.channel("sensor")[:n])
    axes.tick_params(axis="x", labelrotation=20)
    save(path, figure)
