"""What a task of messages is learnt from: tokens and their classes, by split; and the batches of a training."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.core import spans, tokens
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
HELD = 1024
"""Validation rows looked at while training, at most."""
NONE = -1
"""A class that is not asked."""
STEP = 32
"""Batches are filled up to a multiple of so many tokens: fewer shapes."""


@dataclass(frozen=True)
class Lessons:
    """Rows of tokens: a message each (classify), or a window of one (tag)."""

    items: Items
    frame: tokens.Frame
    rows: list[Array]
    """int64 [T] each, with what stands around a message."""
    truth: list[Array]
    """int64 [] or [T] each."""
    item: Array
    """The item of each row, by its number in the file."""
    new: Array
    """Rows to learn from."""
    old: Array
    """Rows of before `finetune.init` was trained."""
    held: Array
    """Rows of the validation."""
    prior: dict[int, Array] = field(default_factory=dict)
    """By row: what the prior says of it that was fitted without it."""

    @classmethod
    def of(
        cls, key: str, task: Task, joined: Path, tokenizer: Any, max_tokens: int, since: str | None = None
    ) -> "Lessons":
        """since: when the training of the bundle that is gone on from ended.

        Raises UserError when there is nothing to learn from or to validate with.
        """
        items = Items.open(joined, key)
        rows: list[Array] = []
        truth: list[Array] = []
        item: list[int] = []
        names, texts = list(items.names), items.column("text")
        number = {name: i for i, name in enumerate(names)}
        for at, text in enumerate(texts):
            if task.objective == "classify":
                ids, _ = tokens.encode(tokenizer, [text], max_tokens)
                found = [(ids[0], np.array(number.get(items.columns["label"][at], NONE)))]
            else:
                told = [s for s in items.columns["spans"][at] or () if s["label"] in number]
                found = list(_windows(tokenizer, text, told, max_tokens, names))
            for tokens_, classes in found:
                if (classes != NONE).any():
                    rows.append(tokens_)
                    truth.append(classes)
                    item.append(at)
        where = np.array(item, int)
        split = np.array(items.columns["split"], object)[where]
        new, held = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
        old = new[:0]
        if since and _dated(items):
            late = items.times[where[new]] >= np.datetime64(since)
            new, old = new[late], new[~late]
        for what, these in (("learn from", new), ("validate with", held)):
            if not len(these):
                raise UserError(f"{joined}: no message to {what}; move the source's validation_from and test_from")
        if task.finetune.replay and not len(old):
            raise UserError("finetune.replay: no training message lies before what finetune.init was trained until")
        return cls(items, tokens.frame(tokenizer), rows, truth, where, _few(task, new, where, items), old, held)

    def until(self) -> str | None:
        """Where validation begins, ISO 8601, UTC; None for messages without dates."""
        return str(self.items.times[self.item[self.held]].min()) if _dated(self.items) else None

    def draw(self, settings: Any, step: int, part: int, parts: int) -> dict[str, Any]:
        """See `lit.Draw`. Every row comes once before any comes again."""
        size, again = settings.batch, 0
        if settings.replay and size > 1:
            again = min(max(1, round(settings.replay * size)), size - 1)
        rows = _shuffled(self.new, settings.seed, step, size - again)
        if again:
            rows = np.concatenate([rows, _shuffled(self.old, settings.seed, step, again)])
        return self.batch(rows, part, parts)

    def validation(self, size: int) -> list[dict[str, Any]]:
        rows = self.held[np.unique(np.linspace(0, len(self.held) - 1, min(len(self.held), HELD)).astype(int))]
        return [self.batch(rows[i : i + size]) for i in range(0, len(rows), size)]

    def batch(self, rows: Array, part: int = 0, parts: int = 1) -> dict[str, Any]:
        some = [self.rows[i] for i in rows]
        width = -(-max(map(len, some)) // STEP) * STEP
        ids, mask = tokens.pad(some, self.frame.padding, width)
        truth: Array = (
            np.stack([self.truth[i] for i in rows]) if not self.truth[rows[0]].ndim else np.full(ids.shape, NONE)
        )
        arrays = {"values": ids, "mask": mask, "truth": truth}
        if truth.ndim == 2:
            prior = np.zeros((*ids.shape, 1 + 2 * len(self.items.names)), np.float32)
            for i, row in enumerate(rows):
                truth[i, : len(self.truth[row])] = self.truth[row]
                prior[i, : len(self.truth[row])] = self.prior[int(row)]
        else:
            prior = np.stack([self.prior[int(i)] for i in rows])
        arrays["prior"] = prior
        told = {k: torch.from_numpy(np.ascontiguousarray(v[part::parts])) for k, v in arrays.items()}
        return {**told, "name": f"message {self.items.columns['id'][self.item[rows[0]]]}"}


def _windows(tokenizer: Any, text: str, told: list[Any], max_tokens: int, names: list[str]) -> Any:
    read = tokens.windows(tokenizer, text, max_tokens)
    classes: Array = np.full(read.ids.shape, NONE, np.int64)
    classes[read.own] = spans.tags(read.offsets[read.own], told, names)
    for ids, mask, row in zip(read.ids, read.mask, classes, strict=True):
        there = mask > 0
        yield ids[there], row[there]


def _dated(items: Items) -> bool:
    times = items.times
    return bool(len(times) and not np.isnat(times).any() and times.min() < times.max())


def _few(task: Task, new: Array, item: Array, items: Items) -> Array:
    """The latest messages, a share or a count; by lot, where there are no dates. Raises UserError when too few."""
    labels, messages = task.finetune.labels, np.unique(item[new])
    count = math.ceil(labels * len(messages)) if labels <= 1 else int(labels)
    if count > len(messages):
        raise UserError(
            f"finetune.labels: {count} messages, but only {len(messages)} may be learnt from; ask for fewer"
        )
    if not _dated(items):
        messages = np.random.default_rng(task.finetune.seed).permutation(messages)
    return new[np.isin(item[new], messages[len(messages) - count :])]


def _shuffled(rows: Array, seed: int, step: int, size: int) -> Array:
    """The `step`-th `size` rows of an endless row of shuffles."""
    first, out = step * size, []
    while size > 0:
        turn, at = divmod(first, len(rows))
        part = np.random.default_rng([seed, turn]).permutation(rows)[at : at + size]
        out.append(part)
        first, size = first + len(part), size - len(part)
    return np.concatenate(out)
