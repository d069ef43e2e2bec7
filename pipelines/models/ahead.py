"""Batches made in a thread, so that a training step finds its own ready."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipelines.core.errors import UserError

DEPTH = 2
Batch = dict[str, Any]
Draw = Callable[[int, int, int], Batch]


def check_parts(batch: int, parts: int, what: str) -> None:
    """Raises UserError when a batch cannot be cut into so many parts."""
    if batch < parts:
        raise UserError(
            f"{what}: batch {batch} cannot be shared by {parts} parts (processes × accumulate); "
            "raise `batch`, or lower `accumulate` or `devices`"
        )


class Ahead:
    """Steps' batches, each cut into `accumulate` parts of this process; `waited` is for how many seconds in all.

    with Ahead(draw, range(10, 300), rank=0, world=2, accumulate=1, pin=False) as ahead:
        parts = ahead.take()
    """

    def __init__(self, draw: Draw, steps: range, rank: int, world: int, accumulate: int, pin: bool) -> None:
        self._draw, self._steps, self._pin = draw, steps, pin
        self._parts = [(rank * accumulate + i, world * accumulate) for i in range(accumulate)]
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(DEPTH)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
        self.waited = 0.0

    def take(self) -> list[Batch]:
        """The next step's parts. Raises what making them raised."""
        began = time.perf_counter()
        found = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(found, BaseException):
            raise found
        return found

    def _make(self) -> None:
        try:
            for step in self._steps:
                self._put([self._pinned(self._draw(step, part, parts)) for part, parts in self._parts])
                if self._stop.is_set():
                    return
        except BaseException as error:  # raised again where the batch is taken
            self._put(error)

    def _put(self, item: list[Batch] | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def _pinned(self, batch: Batch) -> Batch:
        if not self._pin:
            return batch
        return {k: v.pin_memory() if isinstance(v, Tensor) and not v.is_cuda else v for k, v in batch.items()}

    def __enter__(self) -> "Ahead":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
