"""What marking phrases begins with: phrases that were marked before, found again, and how far that is to be believed.

A phrase is a run of tokens, whatever their letters' case, that was marked more often than not where it occurs. How
often tokens are of each class where it says so is counted on messages that the dictionary was made without.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.models.text.prior import folds

Array = np.ndarray[Any, Any]
Phrase = tuple[int, ...]
LONGEST = 16
"""Tokens of a phrase; longer ones are left out."""
PLACES = 1 << 16
FACTORS = np.random.default_rng(16).integers(1 << 39, 1 << 40, LONGEST).tolist()
"""A sum of tokens times these tells runs apart, and stays below 2 ** 63."""
SMOOTH = 1.0
"""Tokens as common as they are anywhere, added to each count."""


class Dictionary(nn.Module):
    """`ids`, `mask` [B, L] → logits [B, L, 1 + 2C] of each token's class, see `core.spans`."""

    fold: Tensor
    keys: Tensor
    labels: Tensor
    logits: Tensor

    def __init__(self, vocabulary: int, classes: int) -> None:
        """classes: 1 + 2C."""
        super().__init__()
        self.register_buffer("fold", torch.arange(vocabulary))  # tokens that differ by case or by a space before them
        self.register_buffer("keys", torch.zeros(PLACES, dtype=torch.int64))
        self.register_buffer("labels", torch.zeros(PLACES, dtype=torch.int64))  # 1 + the phrase's label
        self.register_buffer("logits", torch.zeros(classes, classes))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.logits[self.said(ids, mask)]

    def said(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The class of each token, int64 [B, L]; of phrases that overlap, the longest."""
        ids, key, whole, begins = self.fold[ids], torch.zeros_like(ids), mask, []
        for n in range(LONGEST):
            key = key + (nn.functional.pad(ids, (0, n))[:, n:] + 1) * FACTORS[n]
            whole = whole * nn.functional.pad(mask, (0, n))[:, n:]
            place = key % PLACES
            begins.append(torch.where(self.keys[place] == key, self.labels[place], 0) * whole)
        labels = torch.arange(1, len(self.logits) // 2 + 1, device=ids.device)
        out = torch.zeros_like(ids)
        for n in range(LONGEST, 0, -1):
            begin = begins[n - 1] * (_within((out > 0).to(ids.dtype), n)[:, n - 1 :] == 0)
            begun = _within((begin[..., None] == labels).to(ids.dtype), n)[:, : begin.shape[1]]
            inside = ((begun > 0) * labels).amax(2)
            out = torch.where(out > 0, out, torch.where(begin > 0, 2 * begin - 1, 2 * inside))
        return out

    @torch.no_grad()
    def learn(self, rows: list[Array], truth: list[Array], groups: Array, tokenizer: Any) -> list[Array]:
        """Phrases, and how far they are to be believed, from rows of tokens and their classes, each int64 [T].

        groups: [N]; rows of one are in one fold. Returns logits of each row, float32 [T, 1 + 2C], by a dictionary
        that was made without its fold.
        """
        self.fold.copy_(torch.from_numpy(_folded(tokenizer, len(self.fold))))
        read = [self.fold[torch.from_numpy(row)].tolist() for row in rows]
        fold = folds(np.array([int((t > 0).any()) for t in truth]), groups)
        book = Book.of(read, truth, fold)
        said: list[Array] = [np.zeros(0, int)] * len(rows)
        for f in np.unique(fold):
            self._write(book.phrases(without=int(f)))
            for i in np.flatnonzero(fold == f):
                row = torch.from_numpy(rows[i])[None]
                said[i] = self.said(row, torch.ones_like(row))[0].numpy()
        asked = np.concatenate(truth) >= 0
        classes = len(self.logits)
        count = np.zeros((classes, classes))
        np.add.at(count, (np.concatenate(said)[asked], np.concatenate(truth)[asked]), 1)
        usual = (count.sum(0) + 1) / (count.sum() + classes)
        logits = np.log((count + SMOOTH * usual) / (count.sum(1, keepdims=True) + SMOOTH))
        self.logits.copy_(torch.from_numpy(logits))
        self._write(book.phrases())
        return [logits[s].astype(np.float32) for s in said]

    def _write(self, phrases: dict[Phrase, int]) -> None:
        """Where two would lie in one place, the former in `phrases` does."""
        self.keys.zero_()
        self.labels.zero_()
        for phrase, label in phrases.items():
            key = sum((token + 1) * factor for token, factor in zip(phrase, FACTORS, strict=False))
            if not self.keys[key % PLACES]:
                self.keys[key % PLACES], self.labels[key % PLACES] = key, 1 + label


@dataclass(frozen=True)
class Book:
    """How often phrases were marked with a label, and how often they were there, by fold."""

    marked: dict[Phrase, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    """(fold, label) → how often."""
    there: dict[Phrase, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def of(cls, rows: list[list[int]], truth: list[Array], fold: Array) -> "Book":
        book = cls()
        for row, classes, f in zip(rows, truth, fold.tolist(), strict=True):
            for begin in np.flatnonzero((classes > 0) & (classes % 2 == 1)).tolist():
                end = begin + 1
                inside = classes[begin] + 1
                while end < len(row) and classes[end] in (inside, -1):  # -1: a further byte of a code point
                    end += 1
                while classes[end - 1] == -1:
                    end -= 1
                if end - begin <= LONGEST:
                    book.marked[tuple(row[begin:end])][f, (int(classes[begin]) - 1) // 2] += 1
        heads = defaultdict(set)
        for phrase in book.marked:
            heads[phrase[0]].add(len(phrase))
        for row, f in zip(rows, fold.tolist(), strict=True):
            for begin, token in enumerate(row):
                for length in heads.get(token, ()):
                    run = tuple(row[begin : begin + length])
                    if run in book.marked:
                        book.there[run][f] += 1
        return book

    def phrases(self, without: int | None = None) -> dict[Phrase, int]:
        """Each phrase's label, the commonest first, as if fold `without` had not been."""
        chosen: list[tuple[int, Phrase, int]] = []
        for phrase, marked in self.marked.items():
            by_label: Counter[int] = Counter()
            for (f, label), times in marked.items():
                by_label[label] += times * (f != without)
            label, times = max(by_label.items(), key=lambda m: (m[1], -m[0]))
            seen = sum(n for f, n in self.there[phrase].items() if f != without)
            if 2 * times >= seen > 0:
                chosen.append((-times, phrase, label))
        return {phrase: label for _, phrase, label in sorted(chosen)}


def _within(count: Tensor, width: int) -> Tensor:
    """Sums of [B, L, …] over the `width` places up to each, from the first to `width` − 1 beyond the last."""
    rest = [0, 0] * (count.ndim - 2)
    sums = nn.functional.pad(count, (*rest, 0, width - 1)).cumsum(1)
    return sums - nn.functional.pad(sums, (*rest, width, 0))[:, : sums.shape[1]]


def _folded(tokenizer: Any, size: int) -> Array:
    """For each token, the first that differs by nothing but the case of Latin letters and a space before it, [size]."""
    small = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
    first: dict[str, int] = {}
    out = np.arange(size)
    for word, i in sorted(tokenizer.get_vocab().items(), key=lambda w: w[1]):
        plain = word.translate(small).lstrip("Ġ▁") or word
        if i < size:
            out[i] = first.setdefault(plain, i)
    return out
