"""How long `cityloop monitor` takes, and how much memory: many logged answers, and few new ones after a history.

    python benchmarks/monitor.py --rows 10000000

A made-up city of `--sensors` detectors every five minutes, asked about the next hour. First all `--rows` are new, an
answer for all sensors every five minutes. Then as many, an answer an hour, are history that was scored already, and one
day more is new; and the same after twice the history. Each is the command in a process of its own: seconds with its
start, and the peak resident memory as the kernel counts it.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipelines.core import files, grid
from pipelines.core.windows import Spec
from pipelines.models.objectives import forecast
from pipelines.release import bundle, predictions
from pipelines.release.predictions import Answered
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store

ROOT = Path(__file__).parents[1]
TASK, HORIZON = "traffic_speed", 12
START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
STEP = dt.timedelta(minutes=5)
FILE_ROWS = 200_000
"""As `release.predictions.Log` writes them."""


def city(folder: Path, days: int, sensors: int) -> Predictor:
    """A city with readings of so many days, and a release in its store."""
    from safetensors.numpy import save

    names = [f"s{i}" for i in range(sensors)]
    last = START + dt.timedelta(days=days)
    source = {
        "department": "x", "start": f"{START:%F}", "validation_from": f"{START + STEP * 288:%F}",
        "test_from": f"{last:%F}", "step": "5min", "read": {"connector": "simulator", "feed": "traffic"},
        "kinds": {"speed": {"unit": "km/h", "range": [0, 150]}},
    }  # fmt: skip
    task = {"department": "x", "question": "?", "objective": "forecast", "backbone": "series", "context": "12h",
            "target": {"source": "traffic", "kinds": ["speed"]}, "horizon": "1h"}  # fmt: skip
    params = {
        "city": {"name": "live"},
        "sources": {"traffic": source},
        "backbones": {"series": {}},
        "tasks": {TASK: task},
    }
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "window.yaml").write_text(yaml.safe_dump({"traffic": f"{last:%F}"}))
    rng, length = np.random.default_rng(0), days * 288
    months = (
        (m, rng.normal(50, 9, (b - a, sensors)).astype(np.float32)) for m, a, b in grid.months(START, STEP, length)
    )
    table: dict[str, list[Any]] = {"sensor": names}
    table |= {
        k: [v] * sensors for k, v in {"kind": "speed", "unit": "km/h", "aggregate": "mean", "label": False}.items()
    }
    table |= {k: [None] * sensors for k in ("latitude", "longitude", "district")}
    splits = {"train": (0, 288), "validation": (288, length), "test": (length, length)}
    path = folder / "data/features/series/traffic"
    grid.write(path, start=START, step=STEP, months=months, channels=pa.table(table), splits=splits)
    spec = Spec.of(300, 144, HORIZON, "UTC")
    config = {"task": TASK, "objective": "forecast", "head": None, "names": list(forecast.NAMES), "aux": {},
              "channels": [{"sensor": s, "kind": "speed"} for s in names], "targets": sensors,
              "spec": spec.to_json(), "reconstruct": False}  # fmt: skip
    ones = np.ones(sensors, np.float32)
    tables = {"profile": np.full((2016, sensors), 50, np.float32), "reference": ones, "std": 9 * ones}
    bundle.write(folder / "bundle", {"config.json": files.to_json(config), "tables.safetensors": save(tables)})
    return Predictor(config, tables, Store(str(folder / "state/store"), folder).put(TASK, folder / "bundle"), None)


def log(folder: Path, predictor: Predictor, day: int, answers: int) -> int:
    """Log so many answers, evenly over a day; how many rows that makes."""
    store, rng, n = Store(str(folder / "state/store"), folder), np.random.default_rng(day), predictor.targets
    begin = np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(day, "D")
    each = max(1, FILE_ROWS // (HORIZON * n))
    for i in range(0, answers, each):
        made = []
        for j in range(i, min(i + each, answers)):
            issued = begin + np.timedelta64(300, "s") * (j * 288 // answers)
            said = rng.normal(50, 3, (HORIZON, n, 1)) + np.array([-9, 0, 9, 0])
            made.append(Answered(TASK, predictor, "stable", f"r{day}-{j}", issued, issued, said.astype(np.float32)))
        key = f"{predictions.FOLDER}/{TASK}/date={np.datetime_as_string(begin, unit='D')}/server-{i:06d}.parquet"
        store.objects.put(key, predictions.encode(made))
    return answers * HORIZON * n


def measure(folder: Path) -> tuple[float, float]:
    """Seconds and peak resident MiB of the command."""
    command = [sys.executable, "-m", "pipelines", "-C", str(folder), "monitor", TASK]
    state = {**os.environ, "CITYLOOP_STATE": str(folder / "state")}
    state.pop("CITYLOOP_STORE", None)
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=state) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "monitor failed"
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--sensors", type=int, default=400)
    options = parser.parse_args()
    asked = HORIZON * options.sensors
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        answers = -(-options.rows // asked)
        full, rest = divmod(answers, 288)
        place = Path(scratch) / "all"
        predictor = city(place, full + 3, options.sensors)
        made = sum(log(place, predictor, day, n) for day, n in enumerate([288] * full + [rest] * (rest > 0)))
        rows.append(("all new", made, made, *measure(place)))
    for times in (1, 2):
        with tempfile.TemporaryDirectory() as scratch:
            days, place = times * max(2, options.rows // (24 * asked)), Path(scratch) / "city"
            predictor = city(place, days + 3, options.sensors)
            history = sum(log(place, predictor, day, 24) for day in range(days))
            measure(place)
            new = log(place, predictor, days, 24)
            rows.append((f"a day after {days}", history, new, *measure(place)))
    print(f"`python benchmarks/monitor.py --rows {options.rows} --sensors {options.sensors}`\n")
    print("| what | rows logged | new | s | peak, MiB |\n|---|---|---|---|---|")
    for what, before, new, seconds, peak in rows:
        print(f"| {what} | {before:,} | {new:,} | {seconds:.1f} | {peak:.0f} |")
    print(f"\ntwice the history, the same new rows: {rows[2][3] / rows[1][3]:.2f}× the time (target ≤ 1.1×)")


if __name__ == "__main__":
    main()
