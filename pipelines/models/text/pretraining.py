"""Masked-language pretraining on all messages of a corpus, without labels (Devlin et al., 2019).

Of a message a stretch is read; 15 % of its tokens are to be guessed, of which 80 % are hidden, 10 % are another token
and 10 % stand as they are. A source is drawn in proportion to its size to the power of `temperature`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.core import files, params, tokens
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.models import lit
from pipelines.models.made import Pretrained
from pipelines.models.text import backbone

Array = np.ndarray[Any, Any]
GUESSED = 0.15
STRETCH = 128
"""Tokens of a message read at once."""
HELD = 4
"""Batches of each source that validation looks at."""
HELD_EACH = 20
"""Where no message lies in the validation period, one in so many is held out."""


def pretrain(key: str, settings: params.Backbone, corpus: Path, paths: Paths) -> Pretrained:
    """Pretrain on corpus/<source>/items.parquet. Raises UserError when there are none, or all are empty."""
    sources = _read(key, corpus)
    model, max_tokens, made = backbone.begin(key, settings, [t for s in sources.values() for t in s[0]], paths.root)
    tokenizer = tokens.load(made)
    sampler = Sampler.of(sources, tokenizer, model.config.vocab_size, min(STRETCH, max_tokens), settings.pretrain)
    held = sampler.held()
    before = by_source(model, held)
    trained = lit.train(
        model, lambda batch: loss(model, batch), sampler.draw, [b for bs in held.values() for b in bs],
        settings.pretrain, f"pretrain {key}", paths=paths, data=files.sha256_json([s[0] for s in sources.values()]),
    )  # fmt: skip
    after = by_source(model, held)
    made_of = backbone.Backbone(model.base_model, max_tokens)
    made_of.words.learn(sampler.whole(), tokenizer)
    from safetensors.torch import save

    return Pretrained(
        {
            "config.json": files.to_json(made_of.config(settings)),
            "weights.safetensors": save({k: v.contiguous() for k, v in made_of.state_dict().items()}),
            "tokenizer.json": made,
        },
        {
            "train": {"loss": trained.curve[-1]["train_loss"]},
            "validation": {
                "loss": trained.best,
                "loss_untrained": trained.curve[0]["validation_loss"],
                "perplexity": float(np.exp(trained.best)),
                "by_source": {n: {"loss": after[n], "loss_untrained": before[n]} for n in sources},
            },
            "shares": dict(zip(sampler.rows, sampler.shares.round(4).tolist(), strict=True)),
            "parameters": sum(p.numel() for p in made_of.parameters()),
            "steps": trained.curve[-1]["step"],
            "sources": len(sources),
            "messages": sum(len(s[0]) for s in sources.values()),
            "vocabulary": tokenizer.get_vocab_size(),
        },
        trained.curve,
        trained.forget,
    )


def _read(key: str, corpus: Path) -> dict[str, tuple[list[str], list[bool]]]:
    """Messages of each source, and which of them are held out."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted(corpus.glob("*/items.parquet")):
        table = pq.read_table(path, columns=["text", "split"], partitioning=None)
        texts, held = table["text"].to_pylist(), [split == "validation" for split in table["split"].to_pylist()]
        if len(texts) > 1 and (not any(held) or all(held)):
            held = [i % HELD_EACH == HELD_EACH - 1 or i == len(texts) - 1 for i in range(len(texts))]
        if len(texts) > 1 and any(texts):
            found[path.parent.name] = texts, held
    if not found:
        raise UserError(f"{corpus}: no source with messages in the corpus; run `cityloop corpus {key}` first")
    return found


@dataclass(frozen=True)
class Sampler:
    """Batches of the sources. Every choice of a step comes from its number."""

    rows: dict[str, list[Array]]
    """Tokens of each message to learn from."""
    apart: dict[str, list[Array]]
    """Of those held out."""
    frame: tokens.Frame
    hidden: int
    """The token that hides another."""
    vocabulary: int
    stretch: int
    settings: params.Pretrain

    @classmethod
    def of(
        cls, sources: dict[str, tuple[list[str], list[bool]]], tokenizer: Any, vocabulary: int, stretch: int,
        settings: params.Pretrain,
    ) -> "Sampler":  # fmt: skip
        rows: dict[str, list[Array]] = {}
        apart: dict[str, list[Array]] = {}
        for name, (texts, held) in sources.items():
            read = [np.array(e.ids, np.int64) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
            rows[name] = [row for row, h in zip(read, held, strict=True) if not h]
            apart[name] = [row for row, h in zip(read, held, strict=True) if h]
        names = (tokenizer.token_to_id(word) for word in ("[MASK]", "<mask>"))
        hidden = next((i for i in names if i is not None), None)
        if hidden is None:
            raise UserError("from: this tokenizer has no [MASK]; take a model that was pretrained by masking")
        return cls(rows, apart, tokens.frame(tokenizer), hidden, vocabulary, stretch, settings)

    @cached_property
    def shares(self) -> Array:
        size = np.array([sum(map(len, rows)) for rows in self.rows.values()], float)
        weight: Array = (np.maximum(size, 1) / max(size.max(), 1)) ** self.settings.temperature
        return weight / weight.sum()

    def whole(self) -> Iterator[Array]:
        """Each message to learn from, with what stands around it."""
        for rows in self.rows.values():
            for row in rows:
                yield np.array([*self.frame.before, *row, *self.frame.after], np.int64)

    def draw(self, step: int, part: int, parts: int) -> dict[str, Any]:
        """See `lit.Draw`."""
        rng = np.random.default_rng([self.settings.seed, step])
        name = str(rng.choice(list(self.rows), p=self.shares))
        chosen = rng.integers(0, len(self.rows[name]), self.settings.batch)
        return self._batch(name, [self.rows[name][i] for i in chosen], rng, part, parts)

    def held(self) -> dict[str, list[dict[str, Any]]]:
        size, out = self.settings.batch, {}
        for i, (name, rows) in enumerate(self.apart.items()):
            some = rows[:: max(1, len(rows) // (HELD * size))][: HELD * size]
            starts = range(0, len(some), size)
            out[name] = [self._batch(name, some[j : j + size], np.random.default_rng([1, i, j])) for j in starts]
        return out

    def _batch(self, name: str, rows: list[Array], rng: np.random.Generator, part: int = 0, parts: int = 1) -> Any:
        room = self.frame.room(self.stretch)
        cut = []
        for row in rows:
            at = int(rng.integers(0, max(1, len(row) - room + 1)))
            cut.append([*self.frame.before, *row[at : at + room], *self.frame.after])
        ids, mask = tokens.pad(cut, self.frame.padding, self.stretch)
        plain = mask.astype(bool)
        plain[:, : len(self.frame.before)] = False
        for i, framed in enumerate(cut):
            plain[i, len(framed) - len(self.frame.after) :] = False
        guessed = plain & (rng.random(ids.shape) < GUESSED)
        guessed[:, len(self.frame.before)] |= plain[:, len(self.frame.before)] & ~guessed.any(1)
        how, other = rng.random(ids.shape), rng.integers(0, self.vocabulary, ids.shape)
        shown = np.where(guessed & (how < 0.8), self.hidden, np.where(guessed & (how >= 0.9), other, ids))
        arrays = {"values": shown, "mask": mask, "truth": np.where(guessed, ids, -1)}
        return {**{k: torch.from_numpy(v[part::parts].copy()) for k, v in arrays.items()}, "name": name}


def loss(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the tokens to guess: sum and count."""
    asked = batch["truth"] >= 0
    head: Any = getattr(model, "cls", getattr(model, "lm_head", None))
    base: Any = model.base_model
    if head is not None:  # most tokens are not asked for
        hidden = base(input_ids=batch["values"], attention_mask=batch["mask"]).last_hidden_state
        logits = head(hidden[asked])
    else:
        logits = model(input_ids=batch["values"], attention_mask=batch["mask"]).logits[asked]
    total = nn.functional.cross_entropy(logits.float(), batch["truth"][asked], reduction="sum")
    return total, asked.sum()


@torch.no_grad()
def by_source(model: nn.Module, held: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    model.eval()
    sums = {n: torch.stack([torch.stack(loss(model, b)).double() for b in bs]).sum(0) for n, bs in held.items()}
    return {n: float(s[0] / s[1]) for n, s in sums.items()}
