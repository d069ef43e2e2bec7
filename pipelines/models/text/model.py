"""A task's model of messages: what bags of words or a dictionary say, and what the backbone and a head that begins with
nothing add."""

from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.text.backbone import Backbone
from pipelines.models.text.dictionary import Dictionary

DROPOUT = 0.1


class Classify(nn.Module):
    """`ids`, `mask` [B, L] → a message's logits [B, C]: the prior's, and the correction by the mean of its tokens."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.prior = nn.Linear(backbone.words.width, classes).requires_grad_(False)
        self.head = nn.Linear(backbone.width, classes)
        self.drop = nn.Dropout(DROPOUT)
        for layer in (self.prior, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def before(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.prior(self.backbone.words(ids, mask))
        return logits

    def correct(self, hidden: Tensor, mask: Tensor) -> Tensor:
        share = mask.to(hidden.dtype)[..., None]
        logits: Tensor = self.head(self.drop((hidden * share).sum(1) / share.sum(1)))
        return logits

    def forward(self, ids: Tensor, mask: Tensor, prior: Tensor | None = None) -> Tensor:
        """prior: logits in place of the prior's own."""
        prior = self.before(ids, mask) if prior is None else prior
        return prior + self.correct(self.backbone(ids, mask), mask)


class Tag(nn.Module):
    """`ids`, `mask` [B, L] → each token's logits [B, L, C]: the dictionary's, and the correction by the token."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dictionary = Dictionary(backbone.encoder.config.vocab_size, classes)
        self.head = nn.Linear(backbone.width, classes)
        self.drop = nn.Dropout(DROPOUT)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def before(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.dictionary(ids, mask)
        return logits

    def correct(self, hidden: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(hidden))
        return logits

    def forward(self, ids: Tensor, mask: Tensor, prior: Tensor | None = None) -> Tensor:
        """prior: logits in place of the dictionary's own."""
        prior = self.before(ids, mask) if prior is None else prior
        return prior + self.correct(self.backbone(ids, mask), mask)


class Served(nn.Module):
    """Probabilities, calibrated."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, mask)
        return torch.softmax(logits / self.temperature, -1)


def of(objective: str, backbone: Backbone, names: int) -> Any:
    return Tag(backbone, 1 + 2 * names) if objective == "tag" else Classify(backbone, names)
