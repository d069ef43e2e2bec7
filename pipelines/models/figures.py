"""Plots of an evaluation, as PNG with no date inside, so that equal results give equal files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import calendar, files
from pipelines.models.data import Windows

Array = np.ndarray[Any, Any]
COLOURS = {"model": "#0b6e99", "last_value": "#9b9a97", "profile": "#d9730d", "ridge": "#6940a5"}
LABELS = {"model": "model", "last_value": "last value", "profile": "time-of-week profile", "ridge": "ridge"}


def _figure(title: str, width: float = 8, height: float = 4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _save(path: Path, figure: Any) -> None:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    files.write_bytes(path, sink.getvalue())


def by_step(path: Path, rows: list[dict[str, Any]], metric: str) -> None:
    """The main metric by how far ahead, a line a method."""
    figure, axes = _figure(f"{metric} by how far ahead")
    for name, colour in COLOURS.items():
        mine = [r for r in rows if r["method"] == name]
        axes.plot([r["minutes"] / 60 for r in mine], [r[metric] for r in mine], color=colour, label=LABELS[name],
                  marker="." if len(mine) < 30 else None)  # fmt: skip
    axes.set_xlabel("hours ahead")
    axes.set_ylabel(metric)
    axes.legend(frameon=False)
    _save(path, figure)


def by_hour(path: Path, errors: dict[str, Array], issued: Array, data: Windows) -> None:
    """Mean error by local hour of the moment asked for, a line a method; errors [B, H, n], issued [B]."""
    steps = np.arange(data.spec.horizon) * np.timedelta64(data.spec.step_s, "s")
    hour = calendar.local_seconds((issued[:, None] + steps).reshape(-1), data.spec.timezone) // 3600 % 24
    figure, axes = _figure("mean error by hour of the day")
    for name, values in errors.items():
        flat = values.reshape(len(hour), -1)
        seen = np.isfinite(flat).sum(1)
        total = np.bincount(hour, np.nansum(flat, axis=1), 24)
        count = np.maximum(np.bincount(hour, seen, 24), 1)
        axes.plot(range(24), total / count, color=COLOURS[name], label=LABELS[name])
    axes.set_xlabel("local hour")
    axes.legend(frameon=False)
    _save(path, figure)


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
    _save(path, figure)


def confusion(path: Path, chosen: Array, truth: Array, names: tuple[str, ...]) -> None:
    """Share of each true class (row) that was given each class (column)."""
    seen = np.isfinite(truth)
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (truth[seen].astype(int), chosen[seen]), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axes = _figure("given class by true class", width=5, height=4.5)
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
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("given")
    axes.set_ylabel("true")
    _save(path, figure)


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
    _save(path, figure)


def precision_recall(path: Path, scores: dict[str, Array], label: Array) -> None:
    """Precision against recall over all thresholds, a line a method."""
    figure, axes = _figure("precision and recall of alarms", width=6)
    for name, score in scores.items():
        seen = np.isfinite(score) & np.isfinite(label)
        order = np.argsort(-score[seen], kind="stable")
        hits = np.cumsum(label[seen][order] > 0.5)
        every = np.linspace(0, len(hits) - 1, min(len(hits), 500)).astype(int)
        axes.plot(hits[every] / max(hits[-1], 1), hits[every] / (every + 1), color=COLOURS[name], label=LABELS[name])
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    _save(path, figure)
