"""Whether the memory of a pretraining grows with the history: the same sensors over some days, and ten times as many.

    python benchmarks/memory.py --days 30

Each run is `cityloop pretrain` in a process of its own on a corpus written for it. What is measured is the process's
peak resident memory as the kernel counts it (`ru_maxrss`), mapped pages of the corpus included; that of a run over five
days, which is mostly libraries and the model, is given beside it.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipelines.core import grid

ROOT = Path(__file__).parents[1]
START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
STEP = dt.timedelta(minutes=5)


def corpus(folder: Path, days: int, sensors: int, steps: int) -> Path:
    """A city whose corpus holds one source of 5-minute readings."""
    validation = START + dt.timedelta(days=days * 4 // 5)
    source = {
        "department": "x", "start": "2025-01-01", "validation_from": f"{validation:%Y-%m-%d}",
        "test_from": f"{START + dt.timedelta(days=days):%Y-%m-%d}", "step": "5min",
        "read": {"connector": "simulator", "feed": "traffic"}, "kinds": {"a": {"unit": "u", "range": [0, 100]}},
    }  # fmt: skip
    backbone = {"pretrain": {"steps": steps, "batch": 8, "patience": 100, "accelerator": "cpu"}}
    city = {"city": {"name": "long"}, "sources": {"x": source}, "backbones": {"series": backbone}}
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(city))
    length = days * 288
    rng = np.random.default_rng(0)
    months = [
        (name, (50 + rng.standard_normal((hi - lo, sensors), np.float32)).astype(np.float32))
        for name, lo, hi in grid.months(START, STEP, length)
    ]
    table: dict[str, list[Any]] = {"sensor": [f"s{i}" for i in range(sensors)]}
    same = {"kind": "a", "unit": "u", "aggregate": "mean", "label": False}
    table |= {k: [v] * sensors for k, v in same.items()}
    table |= {k: [None] * sensors for k in ("latitude", "longitude", "district")}
    cut = length * 4 // 5
    splits = {"train": (0, cut), "validation": (cut, length), "test": (length, length)}
    path = folder / "data/corpus/series/x"
    grid.write(path, start=START, step=STEP, months=months, channels=pa.table(table), splits=splits)
    return folder


def peak(folder: Path) -> float:
    """Peak resident MiB of a pretraining there."""
    command = [sys.executable, "-m", "pipelines", "-C", str(folder), "pretrain", "series"]
    state = {**os.environ, "CITYLOOP_STATE": str(folder / "state")}
    with subprocess.Popen(command, cwd=ROOT, env=state, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "pretraining failed"
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"days": 30, "sensors": 400, "steps": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    found = {}
    for days in (5, options.days, 10 * options.days):
        with tempfile.TemporaryDirectory() as scratch:
            found[days] = peak(corpus(Path(scratch) / "city", days, options.sensors, options.steps))
    least, few, many = found.values()
    given = " ".join(f"--{name} {value}" for name, value in vars(options).items())
    print(f"`python benchmarks/memory.py {given}`\n")
    print("| days | corpus, MiB | peak resident, MiB |\n|---|---|---|")
    for days, size in found.items():
        print(f"| {days} | {days * 288 * options.sensors * 4 / 2**20:.0f} | {size:.0f} |")
    print(f"\n10× the days: {many / few:.3f}× the memory (target ≤ 1.1×), {many - few:+.0f} MiB")
    print(f"over the smallest run's {least:.0f} MiB: {few - least:+.0f} and {many - least:+.0f} MiB")


if __name__ == "__main__":
    main()
