"""What a model finds in pictures and messages, counted by camera and step: a series that other models may read.

Of boxes: the mean over the camera's pictures of a step, and no row where there was none. Of labels and phrases: how
many there were; of a source without cameras under the source's own name, and 0 in a step without messages.
"""

from typing import Any

import numpy as np

from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]


def table(objective: Any, ask: Any, items: Items, source: str, names: tuple[str, ...], step_s: int) -> dict[str, Array]:
    """Long rows, sorted: `time` (the step's begin, UTC), `sensor`, `kind` (count_<label>), `value`."""
    items = items.take(~np.isnat(items.times))
    counts = objective.said(ask(items.inputs, items), names)
    step = items.times.astype("datetime64[s]").astype(np.int64) // step_s
    cameras = items.column("camera") if "camera" in items.columns else [source] * len(items)
    sensors, sensor = np.unique(np.array(cameras, str), return_inverse=True)
    first, length = (int(step.min()), int(np.ptp(step)) + 1) if len(step) else (0, 0)
    total = np.zeros((length, len(sensors), len(names)))
    seen = np.zeros((length, len(sensors)))
    np.add.at(total, (step - first, sensor), counts)
    np.add.at(seen, (step - first, sensor), 1)
    if objective.PRIMARY == "map50":
        total /= np.maximum(seen, 1)[..., None]
    there = np.ones_like(seen, bool) if "camera" not in items.columns else seen > 0
    at, which = np.nonzero(there)
    kinds = np.array([f"count_{name}" for name in names])
    return {
        "time": np.repeat(((first + at) * step_s).astype("datetime64[s]"), len(names)).astype("datetime64[us]"),
        "sensor": np.repeat(sensors[which], len(names)),
        "kind": np.tile(kinds, len(at)),
        "value": total[there].reshape(-1),
    }
