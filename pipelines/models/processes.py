"""Where a training runs: Lightning Fabric over one process or many, and how the model lies on them."""

import copy
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.core.params import Trainer

OWN = nn.Module().__dict__.keys() - {"_modules"}
"""What torch keeps in a module beside its parts: weights, buffers, hooks."""
DIED = ("Connection closed by peer", "Connection reset", "Broken pipe", "NCCL", "Gloo", "gloo", "process group")


def launch(settings: Trainer, what: str, alone: bool = False) -> Any:
    """A launched Fabric. Under torchrun its processes are used; else Lightning starts `devices` by running us again.

    alone: this process only, whatever started it.
    Raises UserError when the machine has no such accelerator, or not as many.
    """
    from lightning_fabric import Fabric

    # Lightning greets, counts and advises at length; our own lines say what matters here.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")

    devices, nodes = (1, 1) if alone else _shape(settings)
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(settings, devices * nodes),
            precision=settings.precision,
        )
        fabric.launch()
    except (ValueError, ImportError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{what}: accelerator {settings.accelerator}, devices {settings.devices}: {told}") from None
    if fabric.global_rank:
        log.logger.setLevel(logging.ERROR)
    return fabric


def _shape(settings: Trainer) -> tuple[int, int]:
    """Devices a node, and nodes."""
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return devices, int(os.environ["WORLD_SIZE"]) // devices
    if settings.devices != "auto":
        return settings.devices, settings.nodes
    return 1 if settings.accelerator == "cpu" else max(1, torch.accelerator.device_count()), settings.nodes


def _strategy(settings: Trainer, world: int) -> Any:
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if settings.strategy == "fsdp":
        cpu = settings.accelerator == "cpu" or not torch.accelerator.is_available()
        backend = "gloo" if cpu else None
        return ModelParallelStrategy(_shard, world, 1, process_group_backend=backend)
    if settings.strategy == "ddp" or world > 1:
        # A step uses the layers of one cadence only.
        return DDPStrategy(find_unused_parameters=True)
    return "auto"


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone, wherever in `model` it stands."""
    lists = (m for name, m in model.named_modules() if name.split(".")[-1] == "blocks")
    return [block for found in lists if isinstance(found, nn.ModuleList) for block in found]


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 a block. Resharded after each forward: weights are exchanged for their average between two of them."""
    from torch.distributed.fsdp import fully_shard

    for part in (*blocks(module), module):
        fully_shard(part, mesh=mesh["data_parallel"], reshard_after_forward=True)
    return module


class Laid:
    """A model as it lies on the processes while it trains; `plain` gives it back as it was, with whole weights."""

    def __init__(
        self, model: nn.Module, wrap: Callable[[nn.Module], nn.Module], fabric: Any, settings: Trainer
    ) -> None:
        self.model = model
        self._plain = copy.deepcopy(model) if settings.strategy == "fsdp" else None
        self._compiled = blocks(model) if settings.compile and _can_compile(fabric.device) else []
        for block in self._compiled:
            block.forward = torch.compile(block.forward)
        self.module = fabric.setup_module(wrap(model))

    def plain(self) -> nn.Module:
        """The model without what training put on it, on the CPU."""
        for block in self._compiled:
            del block.__dict__["forward"]
        if self._plain is not None:
            # Sharding cannot be undone: every module, the same object still, takes class and content of its copy.
            for module, former in zip(self.model.modules(), self._plain.modules(), strict=True):
                module.__class__ = type(former)
                for key in module.__dict__.keys() - former.__dict__.keys():
                    del module.__dict__[key]
                for key in OWN & former.__dict__.keys():
                    module.__dict__[key] = former.__dict__[key]
        return self.model.cpu()


def _can_compile(device: torch.device) -> bool:
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # whatever it is that is missing: training goes on without
        log.logger.warning("no compiler for torch.compile, trained without: %s", str(error).strip().split("\n")[0])
        return False
    return True


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Unsharded tensors on the CPU; on other processes than the first they take part and get nothing."""
    out = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        full = full.full_tensor() if isinstance(full, DTensor) else full
        if rank == 0:
            out[name] = full.cpu()
    return out


@torch.no_grad()
def spread(fabric: Any, targets: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Fill `targets` on all processes from the whole `values` of the first."""
    for name, target in targets.items():
        full = values[name].to(fabric.device) if fabric.global_rank == 0 else None
        if isinstance(target, DTensor):
            full = torch.empty(target.shape, dtype=target.dtype, device=fabric.device) if full is None else full
            local(target).copy_(local(distribute_tensor(full, target.device_mesh, target.placements)))
        elif fabric.world_size > 1:
            full = torch.empty_like(target, device=fabric.device) if full is None else full
            torch.distributed.broadcast(full, 0)
            target.copy_(full)
        else:
            assert full is not None
            target.copy_(full)


def part(fabric: Any) -> None:
    """The end of the processes' common work: all but the first leave, quietly."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        fabric.barrier()
        # Gloo's threads need Python's lock to let go of their last tensors; whoever frees the group waits for them and
        # holds it. A moment without it, and they are done.
        time.sleep(0.1)
        torch.distributed.destroy_process_group()
    if fabric.global_rank:
        leave()


def leave() -> NoReturn:
    """End this process at once and without an error: what there is to say, the first process says."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
