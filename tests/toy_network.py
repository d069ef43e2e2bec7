"""A network of hourly channels given as an array: whoever leads whom, and by which law each goes on, is the test's."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import grid
from pipelines.core.windows import Spec
from pipelines.models.data import Windows

Array = np.ndarray[Any, Any]
HOURS, TRAIN, HELD = 24 * 70, 24 * 42, 24 * 56


def windows(folder: Path, away: Array, horizon: int = 12, reconstruct: bool = False, targets: int = 0) -> Windows:
    """Channels `c0` … that deviate by `away` [HOURS, N] from a day's shape that all share; a month a chunk."""
    n = away.shape[1]
    day = 50 + 10 * np.sin(2 * np.pi * np.arange(HOURS)[:, None] / 24)
    blank = {"unit": "u", "aggregate": "mean", "label": False, "district": None, "latitude": None, "longitude": None}
    folder.mkdir(parents=True, exist_ok=True)
    grid.write(
        folder,
        start=dt.datetime(2025, 3, 1, tzinfo=dt.UTC),
        step=dt.timedelta(hours=1),
        months=_months((day + away).astype(np.float32)),
        channels=pa.Table.from_pylist([{"sensor": f"c{i}", "kind": "a", **blank} for i in range(n)], grid.CHANNELS),
        splits={"train": (0, TRAIN), "validation": (TRAIN, HELD), "test": (HELD, HOURS)},
    )
    spec = Spec.of(3600, 24, horizon, "UTC")
    return Windows(grid.Series.open(folder), spec, tuple(range(n)), targets or n, reconstruct)


def _months(values: Array) -> list[tuple[str, Array]]:
    march, april = 24 * 31, 24 * 61
    return [("2025-03", values[:march]), ("2025-04", values[march:april]), ("2025-05", values[april:])]


def drifting(n: int, keep: float = 0.9, seed: int = 0) -> Array:
    """Deviations [HOURS, N] that keep a share of themselves from hour to hour and know nothing of one another."""
    noise = np.random.default_rng(seed).normal(0, 1, (HOURS, n))
    out = np.zeros((HOURS, n))
    for i in range(1, HOURS):
        out[i] = keep * out[i - 1] + noise[i]
    return out


def following(n: int, lag: int = 3, seed: int = 0) -> Array:
    """As `drifting`, but c1 does what c0 did `lag` hours before."""
    away = drifting(n, seed=seed)
    away[:, 1] = np.roll(away[:, 0], lag) + 0.1 * np.random.default_rng(seed + 1).normal(0, 1, HOURS)
    return away
