"""What isolation costs: a stage in a workspace of its own against the bare command, and runs with nothing to do.

A toy city whose commands take no time, so what is measured is git's and DVC's share: the city of tests/runs, real git
and real DVC on a local cache. Rounds are interleaved.

    python benchmarks/runs.py --rounds 5
    python benchmarks/runs.py --root my_city       # and how long a run with nothing new takes there
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/runs"))

from toy import TASKS, Toy

from pipelines.runs import merge, run, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="a city's checkout whose live is up to date")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        toy = Toy.make(Path(folder) / "city")
        run.run(jobs=2, root=toy.root)
        bare = Path(folder) / "bare"
        toy.say("git", "clone", "-q", "-b", "live", str(toy.root), str(bare))
        toy.say("dvc", "cache", "dir", "--local", str(toy.root / ".dvc/cache"), cwd=bare)
        toy.say("dvc", "checkout", "-q", cwd=bare)
        (bare / ".cityloop").mkdir()
        rows = [_round(toy, bare, power) for power in range(2, 2 + given.rounds)]
        idle = _seconds(lambda: run.run(root=toy.root))
    for name in rows[0]:
        spread = [row[name] for row in rows]
        print(f"{name:<34} {statistics.median(spread):6.2f} s   ({min(spread):.2f} … {max(spread):.2f})")
    print(f"{'a run with nothing new, 16 stages':<34} {idle:6.2f} s")
    if given.root:
        print(f"{'a run with nothing new, ' + given.root.name:<34} {_seconds(lambda: run.run(root=given.root)):6.2f} s")


def _round(toy: Toy, checkout: Path, power: int) -> dict[str, float]:
    """One stage bare in `checkout`, and isolated; then the others of that run, two at a time."""
    toy.powers(power)
    start.deploy(root=toy.root)
    name = start.begin(root=toy.root)
    say = [sys.executable, "-m", "pipelines"]
    bare = _seconds(lambda: subprocess.run([*say, "fit", TASKS[0]], cwd=checkout, env=toy.environ, check=True))
    apart = _seconds(lambda: toy.stage(f"fit@{TASKS[0]}", name))
    again = _seconds(lambda: toy.stage(f"fit@{TASKS[0]}", name))
    rest = _seconds(lambda: run.run(run=name, jobs=2, root=toy.root))
    merge.merge_run(name, root=toy.root)
    return {
        "the bare command": bare,
        "run-stage": apart,
        "run-stage, up to date": again,
        "run-stage less the bare command": apart - bare,
        "five more stages, two at a time": rest,
    }


def _seconds(work: object) -> float:
    began = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - began


if __name__ == "__main__":
    main()
