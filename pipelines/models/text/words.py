"""A message as a bag of words: runs of one to three tokens, weighed by how rare they are in the corpus (TF-IDF).

The commonest runs have a place each; a hash, which a graph can do as torch does, finds it, and the others are left out.
What a message begins with, often its subject, is a bag of its own beside the whole.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
PLACES = 1 << 16
"""Of runs; the first is for all that have none."""
HASHES = 1 << 20
LEAST = 2
"""A run that stands in fewer messages has no place."""
RUN = 3
BEGINNING = 64
"""Tokens of it, at most; less where the first line is shorter."""
FACTORS = (1_000_003, 15_485_863, 179_424_673)


class Words(nn.Module):
    """`ids`, `mask` [B, L] → [B, 2 × PLACES]: the beginning and the whole, each of length 1."""

    idf: Tensor
    place: Tensor
    breaks: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.zeros(PLACES))
        self.register_buffer("place", torch.zeros(HASHES, dtype=torch.int32))
        self.register_buffer("breaks", torch.zeros(vocabulary))  # 1 for tokens that end a line

    @property
    def width(self) -> int:
        return 2 * PLACES

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([self._bag(ids, self.beginning(ids, mask)), self._bag(ids, mask)], 1)

    def beginning(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`mask` of the beginning alone."""
        first = (mask.cumsum(1) <= BEGINNING) & (self.breaks[ids].cumsum(1) < 0.5)
        return mask * first.to(mask.dtype)

    def places(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of all runs that begin at each token, and 1 where all of the run is there: [B, RUN × L] twice."""
        at, there = runs(ids, mask)
        return self.place[at].to(torch.int64), there

    def _bag(self, ids: Tensor, mask: Tensor) -> Tensor:
        at, there = self.places(ids, mask)
        count = torch.zeros(ids.shape[0], PLACES, device=ids.device).scatter_add(1, at, there.to(self.idf.dtype))
        weight = (1 + torch.log(count.clamp(min=1))) * (count > 0) * self.idf
        return weight / weight.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)

    @torch.no_grad()
    def learn(self, rows: Iterable[Array], tokenizer: Any) -> None:
        """Places and weights from messages, each int64 [T] with what stands around it."""
        seen, count = np.zeros(HASHES, np.int64), 0
        for row in rows:
            ids = torch.from_numpy(row)[None]
            at, there = runs(ids, torch.ones_like(ids))
            seen[np.unique(at[there > 0].numpy())] += 1
            count += 1
        common = np.argsort(-seen, kind="stable")[: PLACES - 1]
        common = common[seen[common] >= LEAST]
        self.place.zero_()
        self.place[common] = torch.arange(1, len(common) + 1, dtype=torch.int32)
        self.idf.zero_()
        self.idf[1 : len(common) + 1] = torch.from_numpy(np.log((1 + count) / (1 + seen[common])) + 1).float()
        # As byte-level tokenizers write it; others drop line ends, and the beginning is the first tokens.
        ends = [i for word, i in tokenizer.get_vocab().items() if "Ċ" in word and i < len(self.breaks)]
        self.breaks[ends] = 1


def runs(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hashes of all runs that begin at each token, and 1 where all of the run is there: [B, RUN × L] twice."""
    at, there, key, whole = [], [], torch.zeros_like(ids), mask
    for n in range(RUN):
        gone = nn.functional.pad(ids, (0, n))[:, n:]
        whole = whole * nn.functional.pad(mask, (0, n))[:, n:]
        key = key + (gone + 1) * FACTORS[n]
        at.append((key + n * FACTORS[0]) % HASHES)
        there.append(whole)
    return torch.cat(at, 1), torch.cat(there, 1)
