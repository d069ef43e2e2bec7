"""What of a task's model is trained: all of it, the head, or low-rank adapters; and how it is held to its start.

LoRA: Hu et al., 2022; AdaLoRA: Zhang et al., 2023, both by peft; L2-SP: Li et al., 2018. Adapters are merged into
plain weights after training, so that a bundle has one shape whatever the method.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.core.errors import UserError
from pipelines.core.params import Finetune

RATE = {"full": 1.0, "head": 2.0, "lora": 1.0, "adalora": 4.0}
"""What `learning_rate` is multiplied with by method, so that one value serves all; as validation chose."""
ORTHOGONAL = 0.1
"""AdaLoRA's weight of its penalty for factors that are not orthogonal."""


@dataclass
class Tuning:
    """A method applied to a model: its trained parameters require gradients, the others do not."""

    model: Any
    settings: Finetune
    """The task's, with the learning rate of the method."""
    parameters: int
    """Numbers the model has without adapters."""
    trained: int
    """Numbers that training may change, those of adapters included."""
    _tuner: Any = None
    _start: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)

    @classmethod
    def apply(cls, model: Any, settings: Finetune, started: bool = False) -> "Tuning":
        """Choose what of `model` (its `backbone`, and whatever else it has) is trained.

        started: the head, too, has learnt already, so that `l2_to_start` holds it as well. Raises UserError when the
        backbone has not so many blocks, or none that adapters fit.
        """
        parameters = sum(p.numel() for p in model.parameters())
        _freeze(model.backbone, settings.freeze)
        if settings.method != "full":
            model.backbone.requires_grad_(False)
        tuner = _adapters(model.backbone, settings) if settings.method in ("lora", "adalora") else None
        if settings.method == "adalora":
            model.ranks = Ranks(tuner)
        trained = [p for p in model.parameters() if p.requires_grad]
        held = trained if started else [p for p in model.backbone.parameters() if p.requires_grad]
        if settings.l2_to_start and settings.strategy == "fsdp":
            raise UserError("finetune.l2_to_start: not with strategy fsdp, which spreads the weights; take ddp")
        start = [(p, p.detach().clone()) for p in held] if settings.l2_to_start else []
        rate = settings.learning_rate * RATE[settings.method]
        return cls(
            model, settings.model_copy(update={"learning_rate": rate}), parameters, sum(p.numel() for p in trained),
            tuner, start,
        )  # fmt: skip

    def penalty(self) -> Tensor | float:
        """What is added to a training step's loss per point."""
        total: Tensor | float = 0.0
        if self._start:
            square = sum(((p - start.to(p.device)) ** 2).sum() for p, start in self._start)
            total = total + 0.5 * self.settings.l2_to_start * square
        if self.settings.method == "adalora":
            factors = [p for n, p in self.model.named_parameters() if "lora_A" in n]
            factors += [p.T for n, p in self.model.named_parameters() if "lora_B" in n]
            off = [((f @ f.T - torch.eye(len(f), device=f.device)) ** 2).sum() for f in factors]
            total = total + ORTHOGONAL * sum(off) / len(off)
        return total

    def after(self, step: int) -> None:
        """To be called after each step while its gradients stand: AdaLoRA moves its ranks to where they matter."""
        if self.settings.method == "adalora":
            self.model.ranks.update(self._tuner, step)

    def merge(self) -> None:
        """Adapters become part of the weights they adapt."""
        if self._tuner is not None:
            self._tuner.merge_and_unload()
            self._tuner = None
        if hasattr(self.model, "ranks"):
            del self.model.ranks


class Ranks(nn.Module):
    """What AdaLoRA remembers between steps, as buffers, so that a checkpoint has it and a resumed training goes on."""

    def __init__(self, tuner: Any) -> None:
        super().__init__()
        self._names = [n for n, _ in tuner.model.named_parameters() if "lora_" in n]
        for i, (_, p) in enumerate((n, p) for n, p in tuner.model.named_parameters() if "lora_" in n):
            for what, value in (("weighs", 0.0), ("doubt", 0.0), ("kept", 1.0)):
                self.register_buffer(f"{what}_{i}", torch.full_like(p.detach(), value))

    @torch.no_grad()
    def update(self, tuner: Any, step: int) -> None:
        """Weigh each rank by how its gradients and values move the loss, and keep those within the step's budget."""
        ranks, settings = tuner.rankallocator, tuner.peft_config["default"]
        for i, name in enumerate(self._names):
            ranks.ipt[name] = ranks.exp_avg_ipt[name] = getattr(self, f"weighs_{i}")
            ranks.exp_avg_unc[name] = getattr(self, f"doubt_{i}")
        kept = {n: getattr(self, f"kept_{i}") for i, n in enumerate(self._names) if "lora_E" in n}
        settings.rank_pattern = {n: (k[:, 0] > 0).tolist() for n, k in kept.items()}
        for name, parameter in tuner.model.named_parameters():
            if "lora_" in name and parameter.grad is None:  # nothing of this batch went through it
                parameter.grad = torch.zeros_like(parameter)
        tuner.update_and_allocate(step)
        for name, told in (settings.rank_pattern or {}).items():
            kept[name].copy_(torch.tensor(told, device=kept[name].device)[:, None])
        for i, name in enumerate(self._names):
            if name in ranks.exp_avg_ipt:
                getattr(self, f"weighs_{i}").copy_(ranks.exp_avg_ipt[name])
                getattr(self, f"doubt_{i}").copy_(ranks.exp_avg_unc[name])


def _freeze(backbone: Any, count: int) -> None:
    """Keep the lowest `count` blocks and, if any, the embeddings as they are."""
    if count > len(backbone.blocks):
        raise UserError(f"finetune.freeze: {count}, but the backbone has {len(backbone.blocks)} blocks")
    if count:
        above = [*backbone.blocks[count:].parameters(), *backbone.norm.parameters()]
        backbone.requires_grad_(False)
        for parameter in above:
            parameter.requires_grad_(True)


def _adapters(backbone: Any, settings: Finetune) -> Any:
    """Put adapters beside the linear maps of the blocks that are not frozen; peft's tuner."""
    from peft import AdaLoraConfig, AdaLoraModel, LoraConfig, LoraModel

    blocks = backbone.blocks[settings.freeze :]
    names = [name for name, part in blocks.named_modules() if type(part) is nn.Linear]
    if not names:
        raise UserError(
            f"finetune.method: {settings.method} needs linear maps in the backbone's blocks, and there are none above "
            f"the {settings.freeze} frozen; take method full or head"
        )
    if settings.method == "lora":
        plain = LoraConfig(r=settings.rank, lora_alpha=settings.rank, lora_dropout=0.0, target_modules=names)
        return LoraModel(blocks, plain, "default")
    if settings.strategy == "fsdp":
        raise UserError("finetune.method: adalora ranks whole matrices, which fsdp spreads; take lora or strategy ddp")
    warm, last = settings.steps // 10, settings.steps // 3
    adaptive = AdaLoraConfig(
        init_r=2 * settings.rank, target_r=settings.rank, lora_alpha=2 * settings.rank, lora_dropout=0.0, tinit=warm,
        tfinal=last, deltaT=max(1, settings.steps // 50), total_step=max(settings.steps, 3), target_modules=names,
    )  # fmt: skip
    tuner: Any = AdaLoraModel(blocks, adaptive, "default")
    for name, parameter in blocks.named_parameters():
        if "lora_A" in name or "lora_B" in name:  # peft begins far from orthogonal, too small for short trainings
            nn.init.orthogonal_(parameter)
    return tuner
