"""Pictures of a validation: records a day by outcome, and where records are missing."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.checks.profile import Profile
from pipelines.core import files


def draw(folder: Path, source: str, found: Profile) -> None:
    """Write `records.png` and `missing.png`; equal input gives equal bytes."""
    from matplotlib.figure import Figure

    days = found.days
    x = np.arange(len(days))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    good, bad = (np.array([d[k] for d in days], float) for k in ("validated", "quarantined"))
    axes.bar(x, good, width=1.0, color="#4c9f70", label="validated")
    axes.bar(x, bad, width=1.0, bottom=good, color="#c0392b", label="quarantined")
    axes.set(title=f"{source}: records a day by outcome", ylabel="records")
    _dates(axes, days)
    axes.legend(loc="lower left")
    _save(figure, folder / "records.png")

    figure = Figure(figsize=(9, max(2.4, 0.16 * len(found.heat) + 1.2)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(found.heat, aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap="magma_r")
    names = [row["sensor"] for row in found.sensors]
    every = max(1, len(names) // 40)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=7)
    axes.set_title(f"{source}: share of expected records without a valid one")
    _dates(axes, days)
    figure.colorbar(shown, ax=axes)
    _save(figure, folder / "missing.png")


def _dates(axes: Any, days: list[dict[str, Any]]) -> None:
    every = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), every), [d["day"] for d in days[::every]], fontsize=8)


def _save(figure: Any, path: Path) -> None:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100, metadata={"Software": None})
    files.write_bytes(path, sink.getvalue())
