"""How fast a training is and what it takes: a meter, a file in the state's logs, and MLflow while it runs.

None of it is a result: nothing here reaches a stage's outputs.
"""

import queue
import resource
import threading
import time
from typing import Any

import torch
from torch import Tensor

from pipelines.core import files, log, tracking
from pipelines.core.paths import Paths
from pipelines.core.tracking import Point

PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12}
"""Dense bfloat16 operations a second, as the makers state them, by a word of the device's name."""
SHORT_S = 10.0
"""A training that is over sooner is not told to MLflow while it runs: nobody could watch."""
Batch = dict[str, Any]


def tokens(batch: Batch) -> int:
    """Channel-patches in a batch that has `values` [B, T, N] and `calendar` [B, S, …]; else 0."""
    values, moments = batch.get("values"), batch.get("calendar")
    if values is None or moments is None or values.dim() != 3:
        return 0
    return int(values.shape[0] * moments.shape[1] * values.shape[2])


def peak(device: torch.device) -> float | None:
    """Operations a second that MFU is measured against; None for a processor and for devices not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((v for k, v in PEAKS.items() if k in name), None)


def joules(device: torch.device) -> float | None:
    """The driver's energy counter, where there is one."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1000
    except Exception:  # no driver, no library, no permission: nothing is told
        return None


def memory(device: torch.device) -> int:
    """Peak bytes: of the accelerator's allocator, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Rates over the steps of this process, without validation and checkpoints; the first tenth warms up."""

    def __init__(self, device: torch.device, steps: int, world: int) -> None:
        self._device, self._world, self._peak, self._warm = device, world, peak(device), steps // 10
        self._flops: dict[Any, float] = {}
        self._energy = joules(device)
        self._seen, self._all = 0, 0
        self._sums = {"seconds": 0.0, "waited": 0.0, "tokens": 0.0, "flops": 0.0}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def flops(self, module: Any, batches: list[Batch]) -> float:
        """Of a step, forward and backward; counted once for each shape, by every process at the same step."""
        if self._peak is None:
            return 0.0
        from torch.utils.flop_counter import FlopCounterMode

        values = batches[0]["values"]
        key = (batches[0].get("cadence"), values.shape[1:])
        if key not in self._flops:
            with FlopCounterMode(display=False) as counted, torch.no_grad(), torch.compiler.set_stance("force_eager"):
                module(batches[0])
            self._flops[key] = 3 * counted.get_total_flops() / len(values)
        return self._flops[key] * sum(len(b["values"]) for b in batches)

    def step(self, seconds: float, waited: float, patches: int, flops: float) -> None:
        self._seen, self._all = self._seen + 1, self._all + patches
        if self._seen == self._warm + 1:
            self._sums = dict.fromkeys(self._sums, 0.0)
        for name, value in zip(self._sums, (seconds, waited, patches, flops), strict=True):
            self._sums[name] += value

    def summary(self) -> dict[str, float]:
        """patches_per_s over all processes, data_wait and mfu as shares, memory in bytes, energy of this device."""
        seconds = self._sums["seconds"] or float("inf")
        told = {
            "patches_per_s": self._world * self._sums["tokens"] / seconds,
            "step_seconds": self._sums["seconds"]
            / max(1, self._seen if self._seen <= self._warm else self._seen - self._warm),
            "data_wait": self._sums["waited"] / seconds,
            "memory_bytes": float(memory(self._device)),
            "processes": float(self._world),
        }
        if self._peak:
            told["mfu"] = self._sums["flops"] / seconds / self._peak
        if self._energy is not None:
            told["energy_joules"] = used = (joules(self._device) or self._energy) - self._energy
            if self._all:
                told["joules_per_million"] = 1e6 * used / self._all
        return told


def write(paths: Paths | None, what: str, told: dict[str, Any]) -> None:
    """Into the state's logs, by stage and key."""
    stage, _, key = what.partition(" ")
    if paths:
        files.write_json(paths.state / "logs" / stage / f"{key}.json", told)


class Live:
    """Curves for whoever watches: told from a thread, so that training neither waits for MLflow nor fails with it.

    The MLflow run is found by its tag `inputs`, so that a training that goes on goes on in its run.
    """

    def __init__(self, paths: Paths | None, what: str, inputs: str) -> None:
        self._paths, self._what, self._inputs = paths, what, inputs
        self._points: queue.Queue[list[Point] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self._wanted = paths is not None and tracking.configured(paths)

    def tell(self, step: int, values: dict[str, float]) -> None:
        if not self._wanted:
            return
        self._points.put([Point(k, v, step) for k, v in values.items() if v == v])
        if self._thread is None and time.monotonic() - self._began > SHORT_S:
            self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._points.put(None)
            self._thread.join(timeout=60)

    def _send(self) -> None:
        try:
            assert self._paths
            with tracking.connect(self._paths) as mlflow:
                run = mlflow.run(mlflow.experiment(f"cityloop training/{self._what}"), self._inputs, self._what)
                while (points := self._points.get()) is not None:
                    mlflow.log(run, {}, points)
                mlflow.client.set_terminated(run.info.run_id, "FINISHED")
        except Exception as error:  # whatever MLflow's trouble is, it is not the training's
            told = " ".join(str(error).split())
            log.logger.warning("%s: no curves in MLflow while it trains: %s", self._what, told)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
