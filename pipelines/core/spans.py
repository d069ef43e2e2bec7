"""Spans of a message as classes of its tokens (BIO: outside, beginning of, inside a label), and back; no torch.

A code point that takes several tokens (a rare character in bytes) is decided by the first of them; the others are not
asked. Ranges are half-open, in code points.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.core import tokens

Array = np.ndarray[Any, Any]
IGNORED = -1
Span = dict[str, Any]


def tags(offsets: Array, spans: Sequence[Span], names: Sequence[str]) -> Array:
    """Classes of tokens in order, int64 [T]: 0 outside, 1 + 2i begins label i, 2 + 2i goes on with it.

    offsets: [T, 2], see `tokens.Windows`. A token that a span touches is in it; of two spans in the first one.
    """
    out = np.zeros(len(offsets), np.int64)
    taken = np.zeros(len(offsets), bool)
    out[_repeated(offsets)] = IGNORED
    for span in sorted(spans, key=lambda s: s["start"]):
        inside = (np.maximum(offsets[:, 0], span["start"]) < np.minimum(offsets[:, 1], span["end"])) & ~taken
        taken |= inside
        where = np.flatnonzero(inside & (out != IGNORED))
        out[where] = 2 + 2 * names.index(span["label"])
        out[where[:1]] -= 1
    return out


def decode(probabilities: Array, offsets: Array, names: Sequence[str]) -> list[Span]:
    """The most probable valid sequence of classes as spans with `start`, `end`, `label`, `score`.

    probabilities: [T, 1 + 2 len(names)] of tokens in order. score: mean probability of the span's label, 0 … 1.
    """
    kept = ~_repeated(offsets)
    probabilities, offsets = probabilities[kept], offsets[kept]
    out: list[Span] = []
    mass = probabilities[:, 1::2] + probabilities[:, 2::2]
    for t, tag in enumerate(_best(probabilities)):
        if tag == 0:
            continue
        i = (tag - 1) // 2
        if tag % 2:  # begins
            out.append({"start": int(offsets[t, 0]), "end": 0, "label": names[i], "score": []})
        out[-1]["end"] = int(offsets[t, 1])
        out[-1]["score"].append(float(mass[t, i]))
    for former, span in pairwise(out):  # tokens of bytes may share a code point
        span["start"] = max(span["start"], former["end"])
    return [{**s, "score": sum(s["score"]) / len(s["score"])} for s in out if s["start"] < s["end"]]


def find(
    ask: Callable[[Array, Array], Array], tokenizer: Any, text: str, max_tokens: int, names: Sequence[str]
) -> list[Span]:
    """Spans of a message of any length. ask: `ids` and `mask` [W, L] → probabilities [W, L, 1 + 2 len(names)]."""
    read = tokens.windows(tokenizer, text, max_tokens)
    if not read.own.any():
        return []
    answers = [ask(read.ids[w : w + 8], read.mask[w : w + 8]) for w in range(0, len(read.ids), 8)]
    return decode(np.concatenate(answers)[read.own], read.offsets[read.own], names)


def _repeated(offsets: Array) -> Array:
    """Tokens that are a further part of the code point before."""
    same = np.zeros(len(offsets), bool)
    same[1:] = (offsets[1:] == offsets[:-1]).all(1)
    return same


def _best(probabilities: Array) -> list[int]:
    """Viterbi over sequences in which what goes on has begun."""
    if not len(probabilities):
        return []
    count = probabilities.shape[1]
    allowed = np.zeros((count, count))
    for i in range(2, count, 2):
        allowed[:, i] = -np.inf
        allowed[[i - 1, i], i] = 0
    log = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    score = log[0].copy()
    score[2::2] = -np.inf
    back = []
    for row in log[1:]:
        paths = score[:, None] + allowed
        back.append(paths.argmax(0))
        score = paths.max(0) + row
    out = [int(score.argmax())]
    for step in reversed(back):
        out.append(int(step[out[-1]]))
    return out[::-1]
