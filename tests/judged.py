"""A city whose gate has something to judge: toy bundles that say `factor` × the mean of their context, and readings for
which that is a good answer."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import carded
import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from pipelines.core import files, grid
from pipelines.core.paths import Paths
from pipelines.release import bundle

TASK = carded.TASK
START, VALIDATION, TEST, END = (
    dt.datetime.fromisoformat(f"{day}T00:00:00+00:00")
    for day in ("2025-01-06", "2025-02-24", "2025-03-17", "2025-04-07")
)
GATE = {"versus": ["last_value", "profile"]}
"""The mean of the context is what a ridge finds too: no bundle here is better than it."""
REPORT = {"records": 9, "expectations": {"passed": 16, "failed": 0, "warnings": 1}}


def city(folder: Path, sensors: tuple[str, ...] = carded.SENSORS) -> Paths:
    """A city with the good bundle (factor 1), its joined readings and a report of sound data."""
    paths = carded.city(folder)
    gate(paths, **GATE)
    join(paths, sensors)
    files.write_json(paths.metrics("validate", "air"), files.read_json(paths.metrics("validate", "air")) | REPORT)
    bundle.write(paths.task(TASK), contents())
    return paths


def gate(paths: Paths, **settings: Any) -> None:
    """Set the task's gate in params.yaml."""
    text = carded.PARAMS.replace(
        "    finetune: {steps: 200}\n", f"    finetune: {{steps: 200}}\n    gate: {settings}\n"
    )
    files.write_bytes(paths.root / "params.yaml", text.encode())


def join(paths: Paths, sensors: tuple[str, ...]) -> None:
    """Hourly readings around a level that drifts over days, without any rhythm; one in twenty is missing."""
    hours, n = int((END - START).total_seconds() // 3600), len(sensors)
    rng = np.random.default_rng(3)
    steps = rng.normal(0, 0.08, (hours, n))
    level = np.zeros((hours, n))
    for i in range(1, hours):
        level[i] = 0.998 * level[i - 1] + steps[i]
    values = (20 + level + rng.normal(0, 1.5, level.shape)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    at = [int((day - START).total_seconds() // 3600) for day in (VALIDATION, TEST)]
    none = [None] * n
    rows = [list(sensors), ["pm25"] * n, ["ug/m3"] * n, ["mean"] * n, [False] * n, none, none, none]
    months = grid.months(START, dt.timedelta(hours=1), hours)
    grid.write(
        paths.joined(TASK),
        start=START,
        step=dt.timedelta(hours=1),
        months=((name, values[lo:hi]) for name, lo, hi in months),
        channels=pa.Table.from_arrays([pa.array(r, t) for r, t in zip(rows, grid.CHANNELS.types, strict=True)],
                                      schema=grid.CHANNELS),
        splits={"train": (0, at[0]), "validation": (at[0], at[1]), "test": (at[1], hours)},
        roles={"target": (0, n), "label": (n, n), "input": (n, n)},
        timezone="Europe/Amsterdam",
    )  # fmt: skip


def contents(factor: float = 1.0, spread: float = 1.0, **config: Any) -> dict[str, bytes]:
    """The bundle's files; `spread` stretches its interval, `config` replaces keys of its config."""
    made = carded.contents(TASK, factor)
    n, horizon = len(carded.SENSORS), carded.SPEC.horizon
    tables = load(made["tables.safetensors"])
    tables |= {"profile": np.full((168, n), 20, np.float32), "ahead": np.zeros((n, 0), np.float32)}
    tables |= {"spread": np.full((2, horizon), spread, np.float32)}
    changed = files.to_json({**json.loads(made["config.json"]), **config})
    return {**made, "tables.safetensors": save(tables), "config.json": changed}
