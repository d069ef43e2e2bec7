"""How much of the truth lies inside the 80 % intervals, on the test of each task of a finished city.

    python benchmarks/coverage.py CITY

CITY is a root in which `evaluate` has run: metrics/evaluate/<task>.json are read, nothing is computed. Intervals were
stretched on validation alone. Tasks without intervals (classes, alarms) are left out.
"""

import argparse
import sys
from pathlib import Path

from pipelines.core import files

MEAN, EACH = (0.77, 0.83), (0.70, 0.90)
"""Where the mean of the tasks and each of them should lie."""


def verdict(value: float, within: tuple[float, float]) -> str:
    """Met or missed."""
    return "met" if within[0] <= value <= within[1] else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("city", type=Path)
    folder = parser.parse_args().city / "metrics" / "evaluate"
    reports = {path.stem: files.read_json(path) for path in sorted(folder.glob("*.json"))}
    found = {task: r["model"]["coverage80"] for task, r in reports.items() if "coverage80" in r["model"]}
    if not found:
        print(f"{folder}: no report of a task with intervals; run `cityloop evaluate` first", file=sys.stderr)
        return 2
    print("| task | coverage | points | 70-90 % |\n|---|---|---|---|")
    for task, value in found.items():
        print(f"| {task} | {value:.1%} | {reports[task]['test']['points']:,} | {verdict(value, EACH)} |")
    mean = sum(found.values()) / len(found)
    met = [verdict(mean, MEAN), *(verdict(v, EACH) for v in found.values())]
    print(f"| mean of {len(found)} | {mean:.1%} | | 77-83 %: {met[0]} |")
    return int("MISSED" in met)


if __name__ == "__main__":
    sys.exit(main())
