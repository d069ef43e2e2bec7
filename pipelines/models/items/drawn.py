"""Plots of an evaluation of pictures or messages: one page, the confusion, and where the model was most wrong."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, metrics
from pipelines.models import figures
from pipelines.models.evaluation import LABELS
from pipelines.models.items.judge import Judged

Array = np.ndarray[Any, Any]
SHOWN = 24
"""Worst pictures drawn, or messages told."""
TRUE, GIVEN = "#0f7b6c", "#c4342b"
LETTERS = 400
"""Of a message, at most."""


def draw(plots: Path, task: str, objective: Any, judged: Judged, least: float = 0.5) -> None:
    """All plots of a report; `least`: the score from which on a box counts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), dpi=100, layout="constrained")
    report, test = judged.report, judged.report["test"]
    days = "without dates" if test["from"] == "undated" else f"{test['from'][:10]} to {test['until'][:10]}"
    figure.suptitle(
        f"{task}: frozen test {days}, {test['items']:,} items in {test['groups']:,} groups; {report['primary']} "
        f"{report['model'][report['primary']]:.4g}",
        fontsize=12,
    )
    (labels, second), (slices, damage) = figure.subplots(2, 2)
    _by_label(labels, report)
    figures.gains(slices, report)
    _robustness(damage, report)
    {"macro_f1": _reliability, "map50": _curves, "span_f1": _exactness}[report["primary"]](second, judged, objective)
    figures.save(plots / "0_overview.png", figure)
    if report["primary"] == "macro_f1":
        given = judged.given["model"].argmax(-1)
        figures.confusion(plots / "confusion.png", given, judged.truth.astype(float), judged.items.names)
    order = np.argsort(-objective.wrong(judged.given["model"], judged.truth), kind="stable")[:SHOWN]
    if judged.items.modality == "image":
        _pictures(plots / "worst.png", judged, order, least)
    else:
        _messages(plots / "worst.html", task, judged, order)


def _by_label(axes: Any, report: dict[str, Any]) -> None:
    """The main figure of each label, of the model and of the best baseline."""
    methods = report["labels"]
    key = "ap50" if report["primary"] == "map50" else "f1"
    names = list(methods["model"])
    figures.panel(axes, f"{key.upper()} by label (how many in the test)")
    width = 0.8 / len(methods)
    for i, (method, of) in enumerate(methods.items()):
        heights = [np.nan_to_num(of[name][key]) for name in names]
        places = np.arange(len(names)) + (i - (len(methods) - 1) / 2) * width
        axes.bar(places, heights, width, color=figures.tint(method), label=figures.called(method))
    ticks = [f"{name}\n{methods['model'][name]['n']:,}" for name in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=8, rotation=90 if len(names) > 8 else 0)
    axes.set_ylim(0, 1.2)
    axes.legend(frameon=False, ncols=3)


def _robustness(axes: Any, report: dict[str, Any]) -> None:
    told = {k: v for k, v in report["robustness"].items() if isinstance(v, dict)}
    figures.panel(axes, f"{report['primary']} when {report['robustness']['items']} items are damaged")
    methods = list(told["clean"])
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        places = np.arange(len(told)) + (i - (len(methods) - 1) / 2) * width
        heights = [np.nan_to_num(each[method]["value"]) for each in told.values()]
        axes.bar(places, heights, width, color=figures.tint(method), label=figures.called(method))
    axes.set_xticks(range(len(told)), list(told))
    axes.set_ylim(0, 1.2)
    axes.legend(frameon=False, ncols=3)


def _reliability(axes: Any, judged: Judged, objective: Any) -> None:
    figures.reliability(axes, metrics.reliability(judged.given["model"], judged.truth.astype(float)))


def _curves(axes: Any, judged: Judged, objective: Any) -> None:
    figures.panel(axes, "precision against recall, by label, at an overlap of 0.5")
    for name, (recall, precision) in objective.curves(judged.given["model"], judged.truth, judged.items.names).items():
        axes.plot(recall, precision, label=name)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.legend(frameon=False, ncols=3)


def _exactness(axes: Any, judged: Judged, objective: Any) -> None:
    """Phrases met exactly, and phrases met in part."""
    figures.panel(axes, "F1 of phrases: exactly met, and met in part")
    for i, method in enumerate(name for name in LABELS if name in judged.given):
        scores = judged.report[method]
        heights = [np.nan_to_num(scores[k]) for k in ("span_f1", "partial_f1")]
        axes.bar(np.arange(2) + 0.25 * (i - 1), heights, 0.25, color=figures.tint(method), label=figures.called(method))
    axes.set_xticks(range(2), ["exact", "in part"])
    axes.set_ylim(0, 1.2)
    axes.legend(frameon=False, ncols=3)


def _pictures(path: Path, judged: Judged, order: Array, least: float) -> None:
    """A grid: truth in green, what was given in red, with its probability."""
    from matplotlib.figure import Figure

    columns = 6
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(13, 2.4 * rows + 0.5), dpi=100, layout="constrained")
    figure.suptitle("where the model was most wrong: truth in green, its answer in red", fontsize=12)
    pixels, names = judged.items.take(order).inputs, judged.items.names
    for place, (index, picture) in enumerate(zip(order, pixels, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(picture)
        axes.set_axis_off()
        given, truth = judged.given["model"][index], judged.truth[index]
        if isinstance(judged.truth, np.ndarray):
            axes.set_title(names[truth], color=TRUE, fontsize=9, loc="left")
            told = f"{names[given.argmax()]} {given.max():.0%}"
            axes.text(0, 0.97, told, color="white", fontsize=8, va="top", transform=axes.transAxes,
                      bbox={"facecolor": GIVEN, "linewidth": 0, "pad": 1.5})  # fmt: skip
        else:
            _boxes(axes, truth, TRUE, names, len(picture), 0)
            _boxes(axes, given, GIVEN, names, len(picture), least)
    figures.save(path, figure)


def _boxes(axes: Any, boxes: Any, colour: str, names: tuple[str, ...], side: int, least: float) -> None:
    from matplotlib.patches import Rectangle

    for (left, top, right, bottom), score, label in zip(boxes.boxes * side, boxes.scores, boxes.labels, strict=True):
        if score >= least:
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour))
            told = names[label] if least == 0 else f"{names[label]} {score:.0%}"
            axes.text(left, bottom if least else top, told, color=colour, fontsize=6, va="top" if least else "bottom")


def _messages(path: Path, task: str, judged: Judged, order: Array) -> None:
    """A table as HTML; the messages are those of the joined data, in which personal data are masked already."""
    cells = ["<tr><th>message</th><th>true</th><th>given</th></tr>"]
    texts, names = judged.items.inputs, judged.items.names
    for index in order:
        given, truth = judged.given["model"][index], judged.truth[index]
        if isinstance(judged.truth, np.ndarray):
            told = [html.escape(_short(texts[index])), html.escape(names[truth])]
            told.append(f"{html.escape(names[given.argmax()])} {given.max():.0%}")
        else:
            told = [html.escape(_short(texts[index])), *(_marked(texts[index], s, names) for s in (truth, given))]
        cells.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in told) + "</tr>")
    files.write_bytes(path, page(f"{task}: where the model was most wrong", "".join(cells)).encode())


def page(title: str, rows: str) -> str:
    """A page of HTML with one table."""
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:14px sans-serif;margin:2em}td,th{border-bottom:1px solid #ddd;padding:.4em .8em;"
        "text-align:left;vertical-align:top}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><table>{rows}</table></body></html>\n"
    )


def _marked(text: str, spans: list[Any], names: tuple[str, ...]) -> str:
    """Its phrases, in order."""
    return "<br>".join(f"{html.escape(names[label])}: {html.escape(text[s:e])}" for s, e, label, *_ in spans) or "–"


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
