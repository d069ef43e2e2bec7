"""Training with Lightning: one module whose loss is given, and the callback that keeps what validated best."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.core.params import Trainer

Batch = dict[str, Any]
Draw = Callable[[int, int, int], Batch]
"""(step, part, parts) → one of `parts` equal slices of that step's batch, the same batch for any number of parts."""
Loss = Callable[[Batch], tuple[Tensor, Tensor]]
"""Sum over a batch's points, and how much they weigh."""


class Draws(IterableDataset[Batch]):
    """Batches made on demand, each from its own step number."""

    def __init__(self, draw: Draw, steps: int, part: int = 0, parts: int = 1) -> None:
        self.draw, self.steps, self.part, self.parts = draw, steps, part, parts

    def __iter__(self) -> Iterator[Batch]:
        return (self.draw(step, self.part, self.parts) for step in range(self.steps))


class Module(pl.LightningModule):
    """A model with a loss; AdamW under a cosine schedule with warm-up."""

    def __init__(self, model: nn.Module, loss: Loss, trainer: Trainer) -> None:
        super().__init__()
        self.model, self._settings = model, trainer
        # A plain function is copied by reference when the averaging callback copies this module; a method is not.
        self._loss: Loss = lambda batch: loss(batch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        total, weight = self._loss(batch)
        loss = total / weight.clamp(min=1)
        if not torch.isfinite(loss):
            raise UserError(
                f"loss is {loss.item()} at step {self.global_step}; lower `learning_rate` or look at this batch's data"
            )
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        total, weight = self._loss(batch)
        self.log("validation_loss", total / weight.clamp(min=1), batch_size=len(batch["values"]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self._settings.learning_rate, weight_decay=0.01)
        warm, total = max(1, self._settings.steps // 20), self._settings.steps

        def scale(step: int) -> float:
            return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))) + 0.01)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KeepBest(pl.Callback):
    """Keeps the weights of the lowest validation loss, the untrained model's included; stops when patience is spent."""

    def __init__(self, what: str, steps: int, patience: int) -> None:
        self.patience, self.best, self.worse = patience, math.inf, 0
        self.weights: dict[str, Tensor] = {}
        self._candidate: dict[str, Tensor] = {}
        self.curve: list[dict[str, float]] = []
        self.shown = log.Progress(what, steps, "steps")
        self._recent: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._recent.append(float(outputs["loss"]))
        self.shown.add(1, f"loss {self._recent[-1]:.4f}, best validation {self.best:.4f}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Here the averaged weights that were just validated are still in place; at on_validation_end no longer.
        self._candidate = copy.deepcopy(module.model.state_dict())

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["validation_loss"])
        train = sum(self._recent) / len(self._recent) if self._recent else math.nan
        self._recent.clear()
        self.curve.append({"step": trainer.global_step, "train_loss": train, "validation_loss": loss})
        if loss < self.best:
            self.best, self.worse = loss, 0
            self.weights = self._candidate
        else:
            self.worse += 1
            if self.worse >= self.patience:
                trainer.should_stop = True


def train(model: nn.Module, loss: Loss, draw: Draw, validation: list[Batch], settings: Trainer, what: str) -> KeepBest:
    """Train in place, leave `model` with its best weights, and return the callback with curve and best loss."""
    # Lightning greets, counts and advises at length; our own lines say what matters here.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(settings.seed, verbose=False)
    keep = KeepBest(what, settings.steps, settings.patience)
    # Short runs are noisy; a moving average over about a tenth of the steps is what is validated and kept.
    average = EMAWeightAveraging(decay=max(0.5, 1 - 10 / settings.steps))
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=settings.strategy,
        precision=settings.precision,
        max_steps=settings.steps,
        val_check_interval=max(1, settings.steps // 10),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, average],  # in this order: see KeepBest.on_validation_epoch_end
    )
    module = Module(model, loss, settings)
    held: DataLoader[Batch] = DataLoader(validation, batch_size=None)  # type: ignore[arg-type]
    trainer.validate(module, held, verbose=False)
    drawn: DataLoader[Batch] = DataLoader(
        Draws(draw, settings.steps, trainer.global_rank, trainer.world_size), batch_size=None
    )
    trainer.fit(module, drawn, held)
    keep.shown.close()
    if not keep.weights:
        raise UserError(f"{what}: no validation loss was a number; look at the data of the validation period")
    model.load_state_dict(keep.weights)
    model.eval()
    return keep
