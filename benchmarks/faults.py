"""How well validation finds what the simulator spoiled, on seeds of your choice.

    python benchmarks/faults.py --seeds 101 202 303

Each seed is a city of its own in a temporary folder. The real rooms run: ingest, then validate. Flags never look at
the truth; the score does, afterwards. Spikes count for recall above 5 sigma, freezes from `stuck_after` on. A record
in quarantine is right if the truth knows any fault of it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.checks.score import FAULTS
from pipelines.core import files, params

ROOT = Path(__file__).parents[1]
TARGET = {
    "missing": 0.95,
    "duplicate": 0.95,
    "out_of_range": 0.95,
    "stuck": 0.95,
    "spike": 0.8,
    "clock_skew": 0.9,
    "unit_mixup": 0.9,
}
Tally = dict[str, dict[str, float]]


def city(folder: Path, seed: int) -> Path:
    """The default city of another seed."""
    folder.mkdir(parents=True)
    text, found = re.subn(r"(?m)^  seed: \d+", f"  seed: {seed}", (ROOT / "params.yaml").read_text())
    assert found == 1, "params.yaml has one seed"
    (folder / "params.yaml").write_text(text)
    shutil.copy(ROOT / "window.yaml", folder)
    return folder


def score(folder: Path, source: str) -> tuple[Tally, float, int]:
    """What validate reports of `source`, the seconds it took, and how many records it saw."""
    command = [sys.executable, "-m", "pipelines", "-C", str(folder)]
    subprocess.run([*command, "ingest", source], check=True, cwd=ROOT, capture_output=True)
    began = time.perf_counter()
    subprocess.run([*command, "validate", source], check=True, cwd=ROOT, capture_output=True)
    took = time.perf_counter() - began
    report = files.read_json(folder / "metrics" / "validate" / f"{source}.json")
    return report["faults"], took, report["records"]


def add(total: Tally, part: Tally) -> None:
    for name, row in part.items():
        sums = total.setdefault(name, dict.fromkeys(("found", "n", "right", "flagged"), 0.0))
        sums["n"] += row["n"]
        sums["flagged"] += row["flagged"]
        sums["found"] += (row["recall"] or 0) * row["n"]
        sums["right"] += (row["precision"] or 0) * row["flagged"]


def line(name: str, fault: str, sums: dict[str, float]) -> str:
    recall, precision = (
        sums[a] / sums[b] if sums[b] else float("nan") for a, b in (("found", "n"), ("right", "flagged"))
    )
    target = TARGET.get(fault)
    verdict = "" if target is None else f"  target {target:.2f} {'met' if recall >= target else 'MISSED'}"
    return (
        f"{name:9s} {fault:13s} {recall:7.3f} {precision:10.3f} {int(sums['n']):8d} {int(sums['flagged']):8d}{verdict}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 202, 303])
    parser.add_argument("--sources", nargs="+", default=list(params.load(ROOT).sources))
    options = parser.parse_args()
    totals: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            folder = city(Path(scratch) / str(seed), seed)
            for source in options.sources:
                found, took, records = score(folder, source)
                print(f"seed {seed} {source}: {records:,} records validated in {took:.1f} s", file=sys.stderr)
                add(totals.setdefault(source, {}), found)
                add(totals.setdefault("all", {}), found)
            shutil.rmtree(folder)
    print(f"\n{'source':9s} {'fault':13s} {'recall':>7s} {'precision':>10s} {'faults':>8s} {'flagged':>8s}")
    for name, tally in sorted(totals.items(), key=lambda item: item[0] == "all"):
        for fault in (*FAULTS, "overall"):
            print(line(name, fault, tally[fault]))
    every = totals["all"]
    missed = [f for f, least in TARGET.items() if every[f]["n"] and every[f]["found"] < least * every[f]["n"]]
    if every["overall"]["right"] < 0.9 * every["overall"]["flagged"]:
        missed.append("precision")
    print(f"\n{'targets missed: ' + ', '.join(missed) if missed else 'all targets met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
