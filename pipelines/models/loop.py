"""The training loop, the same for one process or many: it keeps what validated best and can go on where it was.

A step's gradient is that of the sum of all points' losses over the sum of their weights, whatever number of processes
and parts the step's batch was shared by. Everything a step changes is in `Training.tensors` and `Training.header`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from pipelines.core import log
from pipelines.core.errors import Interrupted, UserError
from pipelines.core.params import Trainer
from pipelines.models import processes, telemetry
from pipelines.models.ahead import Ahead, Batch, Draw
from pipelines.models.checkpoints import Checkpoints, Header
from pipelines.models.processes import local

Loss = Callable[[Batch], tuple[Tensor, Tensor]]
"""Sum over a batch's points, and how much they weigh."""
SAVE_S = 300.0
"""Seconds between checkpoints where validations are further apart."""
STOP, SAVE = 1, 2


class Sums(NamedTuple):
    """What a step added up to over all processes, not yet looked at."""

    step: int
    sums: Tensor
    finite: list[Tensor]
    names: list[str]


class Weighed(nn.Module):
    """A model and its loss as one module, so that wrapping it wraps all that a step computes."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._loss(batch)


class Training:
    """The state of a training, and the steps that change it: AdamW, cosine schedule with warm-up, averaged weights."""

    def __init__(
        self, fabric: Any, model: nn.Module, loss: Loss, settings: Trainer, what: str, checkpoints: Checkpoints,
        after: Callable[[int], None] | None, enough: Callable[[dict[str, float]], bool] | None = None,
    ) -> None:  # fmt: skip
        self.enough, self.cut = enough, False
        self.fabric, self.settings, self.what, self.checkpoints, self.after = fabric, settings, what, checkpoints, after
        self.laid = processes.Laid(model, lambda m: Weighed(m, loss), fabric, settings)
        self.module = self.laid.module
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        kept = model.state_dict()
        self.buffers = {n: b for n, b in model.named_buffers() if n in kept}
        self.sharded = settings.strategy == "fsdp"
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, weight_decay=0.01,
            # What is sharded over CPUs has no fused step.
            fused=True if fabric.device.type == "cuda" or not self.sharded else None,
        )  # fmt: skip
        # Short runs are noisy; a moving average over about a tenth of the steps is what is validated and kept.
        self.decay = max(0.5, 1 - 10 / settings.steps)
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.lowest, self.worse, self.step_number = math.inf, 0, 0
        self.curve: list[dict[str, float]] = []
        self._recent = (0.0, 0)
        self._pending: Sums | None = None
        self._saved = time.monotonic()
        self.meter = telemetry.Meter(fabric.device, settings.steps, fabric.world_size)
        self.live = telemetry.Live(checkpoints.paths, what, checkpoints.inputs)
        self.shown = log.Progress(what, settings.steps, "steps") if fabric.global_rank == 0 else None

    @property
    def done(self) -> bool:
        return self.cut or self.step_number >= self.settings.steps or self.worse >= self.settings.patience

    def fit(self, draw: Draw, validation: list[Batch], asked: Callable[[], bool]) -> None:
        """Steps and validations to the end."""
        if not self.curve:
            self.validate(validation)
        self.module.train()
        every = max(1, self.settings.steps // 10)
        rest = range(self.step_number, self.settings.steps)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        with Ahead(draw, rest, rank, world, self.settings.accumulate, self.fabric.device.type == "cuda") as ahead:
            while not self.done:
                began, before = time.perf_counter(), ahead.waited
                batches = [telemetry.to_device(b, self.fabric.device) for b in ahead.take()]
                waited = ahead.waited - before
                asks = self.step(batches, asked())
                if world == 1 and asked():  # many must agree first, in the next step
                    asks |= STOP
                seconds = time.perf_counter() - began
                flops = self.meter.flops(self.module, batches)
                self.meter.step(seconds, waited, sum(map(telemetry.tokens, batches)), flops)
                due = self.step_number % every == 0 or self.step_number == self.settings.steps
                if due or asks:
                    asks |= self._settle()
                    if due:
                        self.validate(validation)
                    self.save()
                if asks & STOP:
                    self._stop()
        if self.fabric.all_reduce(torch.tensor(float(asked()), device=self.fabric.device), reduce_op="sum"):
            self._stop()

    def _stop(self) -> NoReturn:
        kept = "run it again to go on" if self.checkpoints.inputs else "nothing was kept"
        self._end(Interrupted(f"{self.what}: stopped after step {self.step_number} as asked; {kept}"))

    def _end(self, error: UserError) -> NoReturn:
        """All processes come here; the first tells."""
        if self.fabric.global_rank:
            processes.leave()
        raise error

    def step(self, batches: list[Batch], asked: bool) -> int:
        """One step over its parts. Returns what is asked of all processes, STOP or SAVE or both."""
        torch.manual_seed(self.settings.seed + 1 + self.step_number)
        finite = []
        # Total, weight, parts that are not finite, processes that were asked to stop, whether it is time to save.
        sums = torch.zeros(5, dtype=torch.float64)
        sums[3], sums[4] = float(asked), float(self.fabric.global_rank == 0 and time.monotonic() > self._saved + SAVE_S)
        sums = sums.to(self.fabric.device)
        for i, batch in enumerate(batches):
            with self.fabric.no_backward_sync(self.module, enabled=i + 1 < len(batches)):
                total, weight = self.module(batch)
                self.fabric.backward(total)
            finite.append(total.detach().isfinite())
            sums[:3] += torch.stack([total.detach(), weight.detach().to(total), (~finite[-1]).to(total)])
        sums = self.fabric.all_reduce(sums, reduce_op="sum")
        # A look at the numbers waits for the accelerator: there it is one step late.
        names = [str(b.get("name", b.get("cadence", "batch"))) for b in batches]
        lag, self._pending = self._pending, Sums(self.step_number, sums, finite, names)
        asks = self._look(lag) if self.fabric.device.type != "cpu" else self._settle()
        self._move(sums[1])
        return asks

    @torch.no_grad()
    def _move(self, weight: Tensor) -> None:
        """Change the weights by gradients that are sums over points, and the average by the weights."""
        grads = [local(p.grad) for p in self.weights.values() if p.grad is not None]
        # Both DDP and FSDP2 give the mean over processes of what we need the sum of.
        factor = self.fabric.world_size / weight.clamp(min=1e-6).float()
        if self.settings.clip and grads:
            square = torch.stack(torch._foreach_norm(grads)).float().square().sum()
            square = self.fabric.all_reduce(square, reduce_op="sum") if self.sharded else square
            factor = factor * (self.settings.clip / (square.sqrt() * factor + 1e-6)).clamp(max=1)
        torch._foreach_mul_(grads, factor)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.schedule(self.step_number)
        self.optimizer.step()
        self.step_number += 1
        if self.after:
            self.after(self.step_number)
        self.optimizer.zero_grad(set_to_none=True)
        if not self.average:
            self.average = {n: p.detach().float().clone() for n, p in self.weights.items()}
        else:
            averages = [local(self.average[n]) for n in self.weights]
            now = [local(p.detach()).float() for p in self.weights.values()]
            torch._foreach_lerp_(averages, now, 1 - self.decay)

    def schedule(self, step: int) -> float:
        """Share of the learning rate: a twentieth of the steps of warm-up, then a cosine to a hundredth."""
        warm, total = max(1, self.settings.steps // 20), self.settings.steps
        return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))) + 0.01)

    def _settle(self) -> int:
        pending, self._pending = self._pending, None
        return self._look(pending)

    def _look(self, found: Sums | None) -> int:
        """Read a step's sums. Raises UserError when its loss is not a number."""
        if found is None:
            return 0
        total, weight, broken, stop, save = found.sums.tolist()
        loss = total / max(weight, 1e-6)
        if broken or not math.isfinite(loss):
            self._end(
                UserError(
                    f"{self.what}: loss is {loss} at step {found.step}, batch {self._broken(found)}; "
                    "lower `learning_rate` or look at this batch's data; the last checkpoint is kept"
                )
            )
        self._recent = (self._recent[0] + loss, self._recent[1] + 1)
        if found.step % max(1, self.settings.steps // 100) == 0:
            self.live.tell(found.step, {"step_loss": loss})
        if self.shown:
            self.shown.add(1, f"loss {loss:.4f}, best validation {self.lowest:.4f}")
        return (STOP if stop else 0) | (SAVE if save else 0)

    def _broken(self, found: Sums) -> str:
        """Names of the parts, of all processes, whose loss is not a number."""
        names = [name for name, finite in zip(found.names, found.finite, strict=True) if not finite]
        if self.fabric.world_size > 1:
            gathered: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(gathered, names)
            names = [name for part in gathered for name in part]
        return ", ".join(dict.fromkeys(names)) or "as a whole"

    @torch.no_grad()
    def validate(self, batches: list[Batch]) -> None:
        """The averaged weights' loss on all `batches`, which processes share; the lowest so far is kept."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        self.module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        with self._averaged():
            for i in range(0, len(batches), world):
                # Where batches do not come out even, some process looks at one that does not count: all must forward.
                mine = min(i + rank, len(batches) - 1)
                found = self.module(telemetry.to_device(batches[mine], self.fabric.device))
                sums += torch.stack([f.double() for f in found]) * (i + rank < len(batches))
            total, weight = self.fabric.all_reduce(sums, reduce_op="sum").tolist()
            loss = total / weight if weight else math.nan
            if loss < self.lowest:
                self.lowest, self.worse = loss, 0
                self.best = {n: t.detach().clone() for n, t in {**self.weights, **self.buffers}.items()}
            else:
                self.worse += 1
        if not self.best:
            self._end(
                UserError(f"{self.what}: no validation loss was a number; look at the data of the validation period")
            )
        self.module.train()
        train = self._recent[0] / self._recent[1] if self._recent[1] else math.nan
        self._recent = (0.0, 0)
        self.curve.append({"step": self.step_number, "train_loss": train, "validation_loss": loss})
        self.cut = self.enough is not None and self.enough(self.curve[-1])
        rate = self.settings.learning_rate * self.schedule(self.step_number)
        rates = self.meter.summary() if self.step_number else {}
        self.live.tell(self.step_number, {"train_loss": train, "validation_loss": loss, "learning_rate": rate, **rates})

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        own = {n: local(self.weights[n].detach()).clone() for n in self.average}
        for n, tensor in self.average.items():
            local(self.weights[n]).copy_(local(tensor))
        yield
        for n, tensor in own.items():
            local(self.weights[n]).copy_(tensor)

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name, as it lies here."""
        kept = {f"model/{n}": t for n, t in {**self.weights, **self.buffers}.items()}
        kept |= {f"average/{n}": t for n, t in self.average.items()} | {f"best/{n}": t for n, t in self.best.items()}
        for n, parameter in self.weights.items():
            kept |= {f"optimizer/{slot}/{n}": t for slot, t in self.optimizer.state.get(parameter, {}).items()}
        return kept

    def header(self) -> Header:
        return {
            "step": self.step_number,
            "curve": self.curve,
            "lowest": self.lowest,
            "worse": self.worse,
            "recent": self._recent,
        }

    def save(self) -> None:
        """Write a checkpoint; every process takes part, the first writes."""
        self._saved = time.monotonic()
        if self.fabric.broadcast(self.checkpoints.folder is None):
            return
        tensors = processes.whole(self.tensors(), self.fabric.global_rank)
        if self.fabric.global_rank == 0:
            self.checkpoints.save(tensors, self.header())

    def resume(self) -> None:
        """Go on from the newest checkpoint of equal inputs, written by any number of processes, if there is one."""
        shapes = {n: t.shape for n, t in {**self.weights, **self.buffers}.items()}
        tensors, header = self.checkpoints.load(shapes) or ({}, None)
        header, names = self.fabric.broadcast((header, list(tensors)))
        if header is None:
            return
        for name in names:
            group, _, rest = name.partition("/")
            if group == "average":
                self.average[rest] = torch.zeros_like(self.weights[rest].detach(), dtype=torch.float32)
            elif group == "best":
                self.best[rest] = torch.zeros_like({**self.weights, **self.buffers}[rest].detach())
            elif group == "optimizer":
                slot, _, rest = rest.partition("/")
                parameter = self.weights[rest]
                like = torch.zeros((), device=self._clock) if slot == "step" else torch.zeros_like(parameter.detach())
                self.optimizer.state[parameter][slot] = like
        processes.spread(self.fabric, self.tensors(), tensors)
        self.step_number, self.curve = header["step"], header["curve"]
        self.lowest, self.worse, self._recent = header["lowest"], header["worse"], tuple(header["recent"])
        if self.shown:
            self.shown.add(self.step_number)
        log.logger.info("%s: goes on after step %d of %d", self.what, self.step_number, self.settings.steps)

    @property
    def _clock(self) -> torch.device:
        """Where AdamW counts its steps."""
        return self.fabric.device if self.optimizer.defaults["fused"] else torch.device("cpu")

    def close(self) -> None:
        self.live.close()
        if self.shown:
            self.shown.close()
