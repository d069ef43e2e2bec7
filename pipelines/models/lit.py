"""Training with Lightning Fabric: `train` a model on one process or many, going on where a killed one was."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn

from pipelines.core.errors import UserError
from pipelines.core.params import Trainer
from pipelines.core.paths import Paths
from pipelines.models import processes, telemetry
from pipelines.models.ahead import Batch, Draw, check_parts
from pipelines.models.checkpoints import Checkpoints, input_key
from pipelines.models.loop import Loss, Training

__all__ = ["Batch", "Draw", "Enough", "Loss", "Trained", "train"]

Enough = Callable[[dict[str, float]], bool]
"""A row of the curve → whether to end."""


@dataclass
class Trained:
    """What a training came to; the model itself has its best weights."""

    curve: list[dict[str, float]]
    """`step`, `train_loss` (mean since the last row) and `validation_loss` of each validation."""
    best: float
    telemetry: dict[str, float]
    _checkpoints: Checkpoints = field(repr=False)

    def forget(self) -> None:
        """Remove the checkpoints: to be called once what was made of the model is written."""
        self._checkpoints.forget()


def train(
    model: nn.Module,
    loss: Loss,
    draw: Draw,
    validation: list[Batch],
    settings: Trainer,
    what: str,
    *,
    paths: Paths | None = None,
    data: Any = None,
    after: Callable[[int], None] | None = None,
    enough: Enough | None = None,
    alone: bool = False,
) -> Trained:
    """Train in place and leave `model` with its best weights, on the CPU; processes but the first end here.

    what: stage and key, such as "pretrain series". paths: whose state holds the checkpoints; None keeps none.
    data: JSON that tells the data's identity beyond what batches show. after: called with the number of each step
    once weights have changed and while gradients still stand. enough: told each row of the curve; true ends training.
    alone: on one process whatever `settings` say, for what follows a training of many.
    Raises UserError when a loss is not a number or memory does not suffice; Interrupted on SIGTERM.
    """
    # A loader's own randomness aside, layers that draw (dropout) do so from a seed of their step.
    torch.manual_seed(settings.seed)
    if alone:
        settings = settings.model_copy(update={"devices": 1, "nodes": 1, "strategy": "auto"})
    fabric = processes.launch(settings, what, alone)
    check_parts(settings.batch, fabric.world_size * settings.accumulate, what)
    key = input_key(model, settings, [*validation, draw(0, 0, 1)], data) if paths and not fabric.global_rank else ""
    checkpoints = Checkpoints(None if fabric.global_rank else paths, what, key)
    training = Training(fabric, model, loss, settings, what, checkpoints, after, enough)
    try:
        with _one_line(training), Terminated() as asked:
            training.resume()
            training.fit(draw, validation, lambda: asked.set)
            best = processes.whole(training.best, fabric.global_rank)
    finally:
        training.close()
    processes.part(fabric)
    plain = training.laid.plain()
    plain.load_state_dict({**plain.state_dict(), **best})
    plain.eval()
    told = training.meter.summary()
    telemetry.write(paths, what, {**told, "steps": training.step_number})
    return Trained(training.curve, training.lowest, told, checkpoints)


class Terminated:
    """Whether SIGTERM came; it ends nothing by itself while this is entered."""

    def __init__(self) -> None:
        self.set = False
        self._former: Any = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.set = True

    def __enter__(self) -> "Terminated":
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)


@contextlib.contextmanager
def _one_line(training: Training) -> Iterator[None]:
    """Errors of memory and of lost processes in a line that says what to do."""
    settings, at = training.settings, f"{training.what}: step"
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in told:
            raise UserError(
                f"{at} {training.step_number}: out of memory on {training.fabric.device}; raise `accumulate` "
                f"(now {settings.accumulate}), lower `batch` (now {settings.batch}) or take a smaller `size`"
            ) from None
        if training.fabric.world_size > 1 and any(word in told for word in processes.DIED):
            raise UserError(
                f"{at} {training.step_number}: another process of this training ended; run it again to go on"
            ) from error
        raise
