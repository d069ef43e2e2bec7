"""Pictures of a validation: items a day and class by outcome; quarantined pictures by reason, to look at."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, pictures
from pipelines.core.params import Source
from pipelines.items.profile import Profile
from pipelines.items.rules import Judged, Rows

TILE, ACROSS = 72, 12
_GOOD, _BAD = "#4c9f70", "#c0392b"

Array = np.ndarray[Any, Any]


def draw(folder: Path, name: str, source: Source, found: Profile, rows: Rows, judged: Judged, blobs: Path) -> None:
    """Write `records.png` and `missing.png`; equal input gives equal bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * (2 if found.classes else 1)), layout="constrained")
    days, *rest = figure.subplots(2 if found.classes else 1, squeeze=False).ravel()
    _bars(days, found.days if found.metrics["days"] > 1 else found.cameras, name)
    if rest:
        labels = [c["label"] for c in found.classes]
        rest[0].bar(np.arange(len(labels)), [c["count"] for c in found.classes], color="#3b6ea5")
        rest[0].set_xticks(np.arange(len(labels)), labels, fontsize=8)
        rest[0].set(title="validated annotations a class", ylabel="annotations")
    _save(figure, folder / "records.png")
    reasons = [(r, judged.flags[:, i]) for i, r in enumerate(judged.reasons) if judged.flags[:, i].any()]
    figure = Figure(figsize=(9.6, max(1.6, 0.75 * len(reasons) + 0.8)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{name}: what is in quarantine, by reason")
    told = [f"{reason.replace('_', ' ')} ({int(mine.sum()):,})" for reason, mine in reasons]
    if source.modality == "image" and reasons:
        axes.imshow(_sheet([[rows[i]["blob"] for i in np.flatnonzero(mine)[:ACROSS]] for _, mine in reasons], blobs))
        axes.set_yticks([TILE * (i + 0.5) for i in range(len(told))], told, fontsize=8)
        axes.set_xticks([])
    else:
        axes.barh(np.arange(len(told)), [int(mine.sum()) for _, mine in reasons], color=_BAD)
        axes.set_yticks(np.arange(len(told)), told or [], fontsize=8)
        axes.invert_yaxis()
    _save(figure, folder / "missing.png")


def _bars(axes: Any, frame: Rows, name: str) -> None:
    """Items by outcome: a bar a day, or a camera where there is only one day."""
    by_day = "day" in frame[0]
    good = np.array([r["validated"] for r in frame], float)
    bad = np.array([r["quarantined"] if by_day else r["raw"] - r["validated"] for r in frame], float)
    x = np.arange(len(frame))
    for low, high, colour, label in ((0 * good, good, _GOOD, "validated"), (good, good + bad, _BAD, "quarantined")):
        if len(x) > 200:  # a patch a bar takes a second for each thousand
            axes.fill_between(x, low, high, step="mid", color=colour, label=label, linewidth=0)
        else:
            axes.bar(x, high - low, width=0.9, bottom=low, color=colour, label=label)
    axes.set(title=f"{name}: items a {'day' if by_day else 'camera'} by outcome", ylabel="items")
    every = max(1, len(x) // 8)
    axes.set_xticks(x[::every], [r["day" if by_day else "camera"] for r in frame[::every]], fontsize=8)
    axes.legend(loc="lower left")


def _sheet(reasons: list[list[str]], blobs: Path) -> Array:
    """Contact sheet uint8 [reasons · TILE, ACROSS · TILE, 3]; what cannot be decoded is a crossed-out square."""
    sheet = np.full((len(reasons) * TILE, ACROSS * TILE, 3), 255, np.uint8)
    crossed = np.full((TILE - 4, TILE - 4, 3), 225, np.uint8)
    diagonal = np.eye(TILE - 4, dtype=bool)
    crossed[diagonal | diagonal[::-1]] = (192, 57, 43)
    for row, names in enumerate(reasons):
        for column, name in enumerate(names):
            try:
                tile, _ = pictures.square((blobs / name).read_bytes(), TILE - 4, pictures.ANY)
            except (pictures.Unfit, OSError):
                tile = crossed
            sheet[row * TILE + 2 : (row + 1) * TILE - 2, column * TILE + 2 : (column + 1) * TILE - 2] = tile
    return sheet


def _save(figure: Any, path: Path) -> None:
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # labels in a script that the font lacks
        figure.savefig(sink, format="png", dpi=100, metadata={"Software": None})
    files.write_bytes(path, sink.getvalue())
