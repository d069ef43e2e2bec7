"""A city small enough to train on in seconds: hourly sensors that follow the clock, each other, and nothing else."""

import datetime as dt
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_city import Row, city, kind, put, source

from pipelines import corpus, features, finetune, join, pretrain
from pipelines.core import windows
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.core.windows import Spec
from pipelines.models.data import Windows
from pipelines.release.store import Pointer, Store

Array = np.ndarray[Any, Any]
START, UNTIL, TEST_FROM = "2025-01-20", "2025-03-01", "2025-02-20"
SENSORS = ("s1", "s2", "s3", "s4")
TRAINER = {"steps": 6, "batch": 4, "accelerator": "cpu"}
LONGER = {**TRAINER, "steps": 40, "patience": 40, "batch": 8, "learning_rate": 0.002}
"""Until it is better than the profile that it starts from, so that what is tested is a model that has learnt."""
TRAFFIC: dict[str, Any] = {
    "department": "dept",
    "question": "?",
    "objective": "forecast",
    "backbone": "series",
    "target": {"source": "x", "kinds": ["a"]},
    "inputs": [{"source": "x", "kinds": ["w"]}],
    "context": "1d",
    "horizon": "6h",
    "finetune": TRAINER,
    "evaluate": {"bootstrap": 20},
}
TASKS = {
    "ahead": TRAFFIC,
    "state": {**TRAFFIC, "objective": "classify", "classes": {"names": ["low", "mid", "high"], "edges": [0.6, 0.9]}},
    "leaks": {**TRAFFIC, "objective": "anomaly", "inputs": [], "label": "leak", "finetune": LONGER},
}


def params(**tasks: Any) -> dict[str, Any]:
    """Keyword arguments of `small_city.city`: the toy tasks, or those given."""
    backbone = {"pretrain": {"steps": 4, "batch": 2, "accelerator": "cpu"}}
    return {"backbones": {"series": backbone}, "tasks": {**TASKS, **tasks}}


def write_params(root: Path, **tasks: Any) -> None:
    kinds = {"a": kind(), "w": kind(), "leak": kind(range=[0, 1], aggregate="max", label=True)}
    sources = {"x": source(kinds=kinds, timezone="Europe/Amsterdam", test_from=TEST_FROM)}
    city(root, sources, until=UNTIL, **params(**tasks))


def rows(change_test: bool = False) -> list[Row]:
    """Validated records. A leak lowers `a` for some hours; `change_test` alters every value of the test period."""
    begin, end, test = (dt.datetime.fromisoformat(d).replace(tzinfo=dt.UTC) for d in (START, UNTIL, TEST_FROM))
    hours = int((end - begin).total_seconds() // 3600)
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, (hours, len(SENSORS), 2))
    gone = rng.random((hours, len(SENSORS))) < 0.05
    out: list[Row] = []
    for i in range(hours):
        at = begin + dt.timedelta(hours=i)
        later = change_test and at >= test
        wind = 30 + 10 * np.sin(i / 17)
        for j, sensor in enumerate(SENSORS):
            leak = (i + 5 * j) % 97 < 6
            value = 50 + 15 * np.sin(2 * np.pi * at.hour / 24) + 0.3 * wind + 3 * j + noise[i, j, 0] - 12 * leak
            if not gone[i, j]:
                out.append((at, sensor, "a", float(90 - value / 2 if later else value)))
            out.append((at, sensor, "leak", float((not leak) if later else leak)))
        out.append((at, "m", "w", float(11 if later else wind + noise[i, 0, 1])))
    return out


def data(root: Path, *tasks: str, change_test: bool = False) -> Path:
    """Params, records, features, corpus and the joined grids of `tasks`."""
    write_params(root)
    put(root, "x", rows(change_test))
    features.run("x", root=root)
    corpus.run("series", root=root)
    for task in tasks:
        join.run(task, root=root)
    return root


@cache
def _ready(top: Path) -> Path:
    data(top, *TASKS)
    pretrain.run("series", root=top)
    for task in TASKS:
        finetune.run(task, root=top)
    return top


def ready(factory: pytest.TempPathFactory) -> Path:
    """A toy city with its backbone and all three bundles, made once a session. Read it; change copies only."""
    return _ready(factory.getbasetemp() / "toy")


def serving(made: Path, folder: Path, *parts: str) -> Path:
    """A city in `folder` with these parts of the data of `made`, where all its bundles serve from the store at hand."""
    write_params(folder)
    for part in parts:
        shutil.copytree(made / "data" / part, folder / "data" / part)
    store = Store.of(Paths(folder))
    for task in TASKS:
        store.point(Pointer(task, 1, store.put(task, made / "models/tasks" / task)))
    return folder


def opened(root: Path, task: str, reconstruct: bool = False, horizon: int = 6) -> Windows:
    spec = Spec.of(3600, 24, horizon, "Europe/Amsterdam")
    return Windows.of_task(root / "data/joined" / task, spec, reconstruct)


def batch(spec: Spec, n: int, size: int = 3, seed: int = 0, missing: float = 0.1, known: int | None = None) -> Any:
    """Random windows as a model is given them, without any grid: `prepare`'s four, and `mean`, `std`."""
    rng = np.random.default_rng(seed)
    slots = 604800 // spec.step_s
    profile = rng.normal(50, 5, (slots, n)).astype(np.float32)
    values = rng.normal(50, 8, (size, spec.context, n)).astype(np.float32)
    values[rng.random(values.shape) < missing] = np.nan
    starts = np.datetime64("2025-03-01T00", "s") + rng.integers(0, 500, size) * np.timedelta64(spec.step_s, "s")
    return {
        **windows.prepare(values, starts, profile, spec),
        "mean": rng.normal(50, 2, n).astype(np.float32),
        "std": rng.uniform(3, 9, n).astype(np.float32),
    }


def series(root: Path, task: str) -> Series:
    return Series.open(root / "data/joined" / task)
