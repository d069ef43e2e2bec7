"""Messages as numbers of tokens, alike in training and serving. Tokenizers are those of `tokenizers`; no torch."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
TAIL = 4
"""Of a message that is too long, a fourth of what is read is its end, the rest its beginning."""
LONGEST = 16
"""Code points a token at most: of a message longer than so many a token that may be read, only as much is looked at."""
OVERLAP = 4
"""Windows over a long message overlap by a fourth."""


class Frame(NamedTuple):
    """What a tokenizer puts before and after each message, and what it fills up with."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: int

    def room(self, max_tokens: int) -> int:
        return max_tokens - len(self.before) - len(self.after)


class Windows(NamedTuple):
    """A message cut into overlapping windows, in order; W of them, L tokens each."""

    ids: Array
    """int64 [W, L]."""
    mask: Array
    """int64 [W, L]: 1 where there is a token."""
    offsets: Array
    """int64 [W, L, 2]: half-open ranges of code points; a token's own leading whitespace is left out."""
    own: Array
    """bool [W, L]: each of the message's tokens once, in the window where it has most on both sides."""


def load(content: bytes) -> Any:
    """The tokenizer in a tokenizer.json. Words of a message that look like special tokens are text to it.

    Raises ValueError when it is not one.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"not a tokenizer.json: {' '.join(str(error).split())[:200]}") from None
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def frame(tokenizer: Any) -> Frame:
    one = tokenizer.encode("a")
    text = [i for i, special in enumerate(one.special_tokens_mask) if not special] or [len(one.ids)]
    padding = (tokenizer.padding or {}).get("pad_id")
    if padding is None:
        found = (tokenizer.token_to_id(word) for word in ("[PAD]", "<pad>"))
        padding = next((i for i in found if i is not None), 0)
    return Frame(tuple(one.ids[: text[0]]), tuple(one.ids[text[-1] + 1 :]), padding)


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> tuple[Array, Array]:
    """`ids` and `mask`, int64 [B, L], L at most `max_tokens`; of a longer message its beginning and its end."""
    around, rows = frame(tokenizer), []
    room = around.room(max_tokens)
    tail = room // TAIL
    for text in texts:
        ends = LONGEST * room
        if len(text) > 2 * ends:
            ids = [i for part in (text[:ends], text[-ends:]) for i in _plain(tokenizer, part).ids]
        else:
            ids = _plain(tokenizer, text).ids
        if len(ids) > room:
            ids = ids[: room - tail] + ids[len(ids) - tail :]
        rows.append([*around.before, *ids, *around.after])
    return pad(rows, around.padding)


def windows(tokenizer: Any, text: str, max_tokens: int) -> Windows:
    """All of a message, in windows of at most `max_tokens`."""
    around = frame(tokenizer)
    room, encoded = around.room(max_tokens), _plain(tokenizer, text)
    ids, offsets = encoded.ids, [_trimmed(text, *pair) for pair in encoded.offsets]
    step = max(1, room - room // OVERLAP)
    starts = [0, *range(step, len(ids) - room + step, step)] if len(ids) > room else [0]
    rows = [[*around.before, *ids[s : s + room], *around.after] for s in starts]
    padded, mask = pad(rows, around.padding)
    where, own = np.zeros((*padded.shape, 2), np.int64), np.zeros(padded.shape, bool)
    first = len(around.before)
    # From the middle of one overlap to the middle of the next.
    cuts = [0, *(s + (room - step) // 2 for s in starts[1:]), len(ids)]
    for w, start in enumerate(starts):
        part = offsets[start : start + room]
        where[w, first : first + len(part)] = np.reshape(part, (-1, 2))
        own[w, first + cuts[w] - start : first + cuts[w + 1] - start] = True
    return Windows(padded, mask, where, own)


def pad(rows: Sequence[Sequence[int]], padding: int, length: int | None = None) -> tuple[Array, Array]:
    """Rows of token ids filled up to the longest, or to `length`: `ids` and `mask`, int64 [B, L]."""
    width = length or max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), width), padding, np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


def _plain(tokenizer: Any, text: str) -> Any:
    """Half a surrogate pair, which JSON may carry and UTF-8 may not, is an unknown character."""
    return tokenizer.encode(re.sub("[\ud800-\udfff]", "\ufffd", text), add_special_tokens=False)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return (start + len(part) - len(part.lstrip()), end) if part.strip() else (start, end)
