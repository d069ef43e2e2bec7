"""Which characters of a message speak for its class, or for the phrase that is surest in it: a weight a code point.

The network's part by integrated gradients (Sundararajan et al., 2017) from the mean token to the message's own; the
bags of words are linear up to their length, and each run's share is spread over its tokens, as is the dictionary's of a
phrase. Weights add up to about what the message moves the class's logit above the other classes' mean; of a phrase, at
its surest token.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.core import tokens
from pipelines.models.text import model
from pipelines.models.text.words import RUN

Array = np.ndarray[Any, Any]
STEPS = 16


def weights(whole: Any, tokenizer: Any, text: str, max_tokens: int, wanted: int) -> Array:
    """float32 [len(text)] for class number `wanted`; of a message that is too long, zero beyond its first window."""
    read = tokens.windows(tokenizer, text, max_tokens)
    ids, mask = (torch.from_numpy(a[:1]) for a in (read.ids, read.mask))
    if isinstance(whole, model.Classify):
        found = _network(whole, ids, mask, wanted, 0) + _words(whole, ids, mask, wanted)
    else:
        with torch.no_grad():
            surest = int(_margins(whole(ids, mask)[0], mask)[:, wanted].argmax())
        found = _network(whole, ids, mask, wanted, surest) + _phrase(whole, ids, mask, wanted, surest)
    return spread(found.numpy(), read.offsets[0], len(text))


def spread(each: Array, offsets: Array, length: int) -> Array:
    """Tokens' weights [L] over the code points they stand for; float32 [length]."""
    out = np.zeros(length, np.float32)
    for weight, (start, end) in zip(each, offsets, strict=True):
        if end > start:
            out[start:end] += weight / (end - start)
    return out


def words_of(text: str, weights: Array, most: int = 10) -> list[tuple[str, float]]:
    """The strongest words, or characters of scripts without spaces, each with its weight, strongest first."""
    pieces: dict[str, float] = {}
    start = 0
    for end in range(1, len(text) + 1):
        ends = end == len(text) or not (_letter(text[end]) and _letter(text[end - 1]))
        if ends:
            pieces[text[start:end]] = pieces.get(text[start:end], 0.0) + float(weights[start:end].sum())
            start = end
    ranked = sorted(((w, x) for w, x in pieces.items() if w.strip()), key=lambda p: (-abs(p[1]), p[0]))
    return ranked[:most]


def _letter(character: str) -> bool:
    return character.isalnum() and character < "\u0900"


def _network(whole: Any, ids: Tensor, mask: Tensor, wanted: int, row: int) -> Tensor:
    """What the correction gives to the logit in `row`: a message's only one, or a token's."""
    table: Tensor = whole.backbone.encoder.get_input_embeddings().weight.detach()
    vectors, base = table[ids], table.mean(0)
    total = torch.zeros_like(vectors)
    for i in range(STEPS):
        at = (base + (i + 0.5) / STEPS * (vectors - base)).requires_grad_()
        logits = whole.correct(whole.backbone.embedded(at, mask), mask)
        score = _margins(logits if logits.ndim == 2 else logits[0], mask)[row, wanted]
        total += torch.autograd.grad(score, at)[0] / STEPS
    return ((vectors - base) * total).sum(-1)[0].detach()


def _margins(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits above their mean, of a message [1, C], or of its tokens [L, C]: -inf beyond its end."""
    margins = logits - logits.mean(-1, keepdim=True)
    return margins if len(logits) == 1 else margins.masked_fill(~mask[0].bool()[:, None], -torch.inf)


@torch.no_grad()
def _phrase(whole: Any, ids: Tensor, mask: Tensor, wanted: int, surest: int) -> Tensor:
    """What the dictionary gives, spread over the phrase's tokens where it found one, else at the token."""
    said = whole.dictionary.said(ids, mask)[0]
    margin = _margins(whole.before(ids, mask)[0], mask)[surest, wanted]
    first, last = surest, surest + 1
    while said[first] and not said[first] % 2:  # goes on with what began before
        first -= 1
    while last < len(said) and said[last] and not said[last] % 2:
        last += 1
    out = torch.zeros(len(said))
    out[first:last] = margin / (last - first)
    return out


@torch.no_grad()
def _words(whole: Any, ids: Tensor, mask: Tensor, wanted: int) -> Tensor:
    words = whole.backbone.words
    row = whole.prior.weight[wanted] - whole.prior.weight.mean(0)
    moved = words(ids, mask)[0] * row
    out = torch.zeros(ids.shape[1])
    half = len(row) // 2
    for part, seen in ((moved[:half], words.beginning(ids, mask)), (moved[half:], mask)):
        at, there = (a[0].reshape(RUN, -1) for a in words.places(ids, seen))
        count = torch.zeros(half).scatter_add(0, at.reshape(-1), there.reshape(-1).to(part.dtype))
        share = (part[at] / count[at].clamp(min=1)) * there
        for n in range(RUN):
            for back in range(n + 1):
                length = share.shape[1] - back
                out[back : back + length] += share[n, :length] / (n + 1)
    return out


def of_texts(whole: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[Array]:
    """`weights` of each message for the class it is given; where phrases are asked, for the surest kind of phrase."""
    out = []
    for text in texts:
        read = tokens.windows(tokenizer, text, max_tokens)
        ids, mask = torch.from_numpy(read.ids[:1]), torch.from_numpy(read.mask[:1])
        with torch.no_grad():
            logits = whole(ids, mask)[0]
        if isinstance(whole, model.Classify):
            wanted = int(logits.argmax())
        else:  # class 0 is no phrase
            wanted = 1 + int(logits.softmax(-1)[mask[0].bool(), 1:].amax(0).argmax())
        out.append(weights(whole, tokenizer, text, max_tokens, wanted))
    return out
