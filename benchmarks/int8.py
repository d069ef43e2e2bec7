"""What an int8 graph costs and gains, on the test of each task of a finished city that has one.

    python benchmarks/int8.py CITY [--windows 256]

CITY is a root in which `finetune` has run. Both graphs answer the same test windows, evenly spaced; the error is the
MAE of the median, for classes the share of wrong ones. Milliseconds are medians of one window and of 32 on one thread,
preparation included, the two variants measured in turn in processes of their own.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.models import objectives
from pipelines.models.data import Windows, spread_out
from pipelines.release import latency
from pipelines.release.predictor import Predictor

TARGET = 0.01
VARIANTS = ("float", "int8")
HEADER = "| task | metric | float | int8 | worse | size | one, ms | x | 32, ms | x |\n|" + "---|" * 10


def errors(predictor: Predictor, data: Windows, most: int) -> float:
    """Mean error on at most `most` test windows."""
    objective = objectives.of_bundle(predictor.config)
    aux: dict[str, Any] = {**predictor.config["aux"], "reference": predictor.tables["reference"][: predictor.targets]}
    aux["decision"] = predictor.tables.get("decision", 1)
    rows = spread_out(data.rows("test", data.spec.patch), most)
    parts = [rows[i : i + 32] for i in range(0, len(rows), 32)]
    answer = np.concatenate([predictor.predict(data.given(p), data.starts(p)) for p in parts])
    values = np.concatenate([data.read(p + data.known, data.spec.horizon)[..., : data.targets] for p in parts])
    if "decision" in predictor.tables:
        return float(np.nanmean(objective.errors(answer, objective.truth(values, aux), aux)))
    return float(np.nanmean(np.abs(answer[..., 1] - values)))


def row(city: Path, task: str, most: int) -> tuple[str, float]:
    """A line of the table, and how much worse int8 is."""
    folder = city / "models" / "tasks" / task
    loaded = [Predictor.load(folder, variant=v) for v in VARIANTS]
    data = Windows.of_task(city / "data" / "joined" / task, loaded[0].spec, loaded[0].reconstruct)
    exact, rough = (errors(p, data, most) for p in loaded)
    runs = [[latency.measure(folder, v) for v in VARIANTS] for _ in range(3)]
    size = runs[0][1]["graph_bytes"] / runs[0][0]["graph_bytes"]
    times = {n: [np.median([run[i][n]["median_ms"] for run in runs]) for i in (0, 1)] for n in ("one", "batch")}
    worse = rough / exact - 1
    metric = "wrong classes" if "decision" in loaded[0].tables else "MAE"
    cells = [task, metric, f"{exact:.5g}", f"{rough:.5g}", f"{worse:+.2%}", f"{size:.2f}"]
    cells += [c for a, b in times.values() for c in (f"{a:.3g} → {b:.3g}", f"{a / b:.2f}")]
    return "| " + " | ".join(cells) + " |", worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("city", type=Path)
    parser.add_argument("--windows", type=int, default=256)
    options = parser.parse_args()
    tasks = sorted(p.parent.name for p in (options.city / "models" / "tasks").glob("*/config.json"))
    print(HEADER)
    missed = []
    for task in tasks:
        told = files.read_json(options.city / "models" / "tasks" / task / "config.json").get("int8", {})
        if not told.get("included"):
            print(f"| {task} | no int8 graph: it did not pay on validation |" + " |" * 8)
            continue
        line, worse = row(options.city, task, options.windows)
        print(line, flush=True)
        missed += [task] * (worse > TARGET)
    print(f"\n{'worse by over 1 %: ' + ', '.join(missed) if missed else 'every int8 graph within 1 %'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
