"""How long a bundle takes to answer and how large it is, measured in a process of its own.

    latency.measure(Path("models/tasks/traffic_speed"))
    python -m pipelines.release.latency models/tasks/traffic_speed int8 batch

Timings differ from run to run: no file that another stage reads may hold them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.release import items
from pipelines.release.predictor import Predictor

BATCH = 32
REPEATS = 20
SECONDS = 3.0
"""At most so long a measurement of one batch size, three repeats at least."""


def measure(folder: Path, variant: str = "float", batch: bool = True) -> dict[str, Any]:
    """Milliseconds of `load`, and of `one` window, picture or message and a `batch` of BATCH on one thread (preparation
    and calibration included), each `median` and `p95`; bytes of the `graph` and the `bundle`; `peak_rss_mb`. Two
    significant digits.

    batch: measure that too.

    Raises UserError as `Predictor.load` does.
    """
    items.load(folder, threads=1, variant=variant)  # says here, in one line, what is wrong with the folder
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [str(folder.resolve()), variant, *(["batch"] if batch else [])]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.release.latency", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, cwd=root, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _measured(folder: Path, variant: str, batch: bool) -> dict[str, Any]:
    began = time.perf_counter()
    predictor = items.load(folder, threads=1, variant=variant)
    took = time.perf_counter() - began
    graph = folder / ("model.onnx" if variant == "float" else f"model.{variant}.onnx")
    return {
        "variant": variant,
        "load_ms": _short(1000 * took),
        "one": _times(predictor, 1),
        **({"batch": {"windows": BATCH, **_times(predictor, BATCH)}} if batch else {}),
        "graph_bytes": graph.stat().st_size,
        "bundle_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "peak_rss_mb": _short(_peak_rss() / 2**20),
    }


def _times(predictor: Any, size: int) -> dict[str, float]:
    ask = _readings(predictor, size) if isinstance(predictor, Predictor) else _item(predictor, size)
    ask()  # the first allocates
    took: list[float] = []
    while len(took) < 3 or (len(took) < REPEATS and sum(took) < SECONDS):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return {"median_ms": _short(1000 * np.median(took)), "p95_ms": _short(1000 * np.quantile(took, 0.95))}


def _item(predictor: Any, size: int) -> Callable[[], Any]:
    """The golden picture or message, `size` times, from its bytes to the answer."""
    some = [predictor.example()] * size
    return lambda: predictor.predict(some)


def _readings(predictor: Predictor, size: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    mean, std = predictor.tables["mean"], predictor.tables["std"]
    shape = (size, predictor.spec.context, len(predictor.channels))
    values = (mean + std * rng.standard_normal(shape)).astype(np.float32)
    starts = np.datetime64("2025-03-03", "s") + np.arange(size) * np.timedelta64(predictor.spec.step_s, "s")
    return lambda: predictor.predict(values, starts)


def _short(value: Any) -> float:
    return float(f"{float(value):.2g}")


def _peak_rss() -> float:
    """Bytes. The kernel's own note of this process; `getrusage` would count what its parent was before it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    _variant, *_more = sys.argv[2:] or ["float", "batch"]
    json.dump(_measured(Path(sys.argv[1]), _variant, "batch" in _more), sys.stdout)
