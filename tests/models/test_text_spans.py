"""Messages to tokens and back: any text survives, spans come back where they were, long and odd messages are read."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import spans, tokens
from pipelines.models.text import tokenizer

CORPUS = [
    "人民路堵车了，请处理！",
    "Traffic jam on Main Road near the school.",
    "环境噪声 😀 café",
    "the road is free",
] * 3
TOKENIZER = tokens.load(tokenizer.train(CORPUS, 400))
NAMES = ["jam", "free"]
TEXT = st.text(st.one_of(st.characters(), st.sampled_from("人民路堵 abc.\n😀é")), max_size=60)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    whole = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert TOKENIZER.decode(TOKENIZER.encode(whole, add_special_tokens=False).ids, skip_special_tokens=False) == whole


@given(TEXT, st.data())
@settings(max_examples=150, deadline=None)
def test_spans_come_back_exactly(text: str, data: st.DataObject) -> None:
    read = tokens.windows(TOKENIZER, text, data.draw(st.sampled_from([12, 64])))
    offsets = read.offsets[read.own]
    # Where a span can begin and end: where no token reaches across.
    edges = [e for e in range(len(text) + 1) if not any(a < e < b for a, b in offsets.tolist())]
    cuts = sorted(data.draw(st.sets(st.sampled_from(edges), max_size=6)))
    given_ = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        inside = [(a, b) for a, b in offsets.tolist() if max(a, start) < min(b, end)]
        if inside and inside[0][0] == start and inside[-1][1] == end:
            given_.append({"start": start, "end": end, "label": data.draw(st.sampled_from(NAMES))})
    told = spans.tags(offsets, given_, NAMES)
    sure = np.eye(5)[np.maximum(told, 0)]
    found = spans.decode(sure, offsets, NAMES)
    assert [{k: s[k] for k in ("start", "end", "label")} for s in found] == given_
    assert all(s["score"] == pytest.approx(1) for s in found)


def test_a_character_in_bytes_is_one() -> None:
    text = "堵在龘路"  # the third was never seen
    read = tokens.windows(TOKENIZER, text, 64)
    offsets = read.offsets[read.own]
    assert len(offsets) > 4
    told = spans.tags(offsets, [{"start": 2, "end": 3, "label": "jam"}], NAMES)
    assert (told == spans.IGNORED).sum() >= 1
    assert [(s["start"], s["end"]) for s in spans.decode(np.eye(5)[np.maximum(told, 0)], offsets, NAMES)] == [(2, 3)]


def test_answers_are_valid_whatever_the_probabilities() -> None:
    rng, text = np.random.default_rng(0), "人民路 堵 the road is free 龘龘"
    read = tokens.windows(TOKENIZER, text, 64)
    for _ in range(50):
        found = spans.decode(rng.dirichlet(np.ones(5), int(read.own.sum())), read.offsets[read.own], NAMES)
        assert all(0 <= s["start"] < s["end"] <= len(text) and 0 < s["score"] <= 1 for s in found)
        assert all(a["end"] <= b["start"] for a, b in pairwise(found))
    inside = np.tile([0.1, 0.0, 0.9, 0.0, 0.0], (int(read.own.sum()), 1))  # goes on without having begun
    assert spans.decode(inside, read.offsets[read.own], NAMES) == []


def test_long_messages_are_read_in_windows() -> None:
    text = "人民路堵车了 the road " * 40
    plain = TOKENIZER.encode(text, add_special_tokens=False)
    read = tokens.windows(TOKENIZER, text, 32)
    assert read.ids.shape[1] == 32
    assert len(read.ids) > 5
    assert read.ids[read.own].tolist() == plain.ids, "every token once, in order"
    assert [b for _, b in read.offsets[read.own].tolist()] == [b for _, b in plain.offsets]
    asked = []

    def ask(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        asked.append(len(ids))
        return np.eye(5)[np.where(ids == TOKENIZER.token_to_id(plain.tokens[0]), 1, 0)]

    found = spans.find(ask, TOKENIZER, text, 32, NAMES)
    assert [text[s["start"]] for s in found] == ["人"] * 40
    assert sum(asked) == len(read.ids)


def test_empty_and_huge_messages() -> None:
    ids, mask = tokens.encode(TOKENIZER, ["", "路" * 400_000, "a\ud800b", " \n "], 48)
    assert ids.shape == mask.shape == (4, 48)
    assert mask.sum(1)[:2].tolist() == [2, 48]
    assert spans.find(lambda i, m: np.ones((*i.shape, 5)) / 5, TOKENIZER, "", 48, NAMES) == []


def test_of_a_long_message_beginning_and_end_are_read() -> None:
    head, tail = (
        TOKENIZER.encode("人民", add_special_tokens=False).ids,
        TOKENIZER.encode("噪声", add_special_tokens=False).ids,
    )
    row = tokens.encode(TOKENIZER, ["人民" + "堵" * 500 + "噪声"], 32)[0][0].tolist()
    assert row[1 : 1 + len(head)] == head
    assert row[-1 - len(tail) : -1] == tail


def test_equal_corpora_give_equal_bytes() -> None:
    assert tokenizer.train(CORPUS, 400) == tokenizer.train(iter(CORPUS), 400)
    assert tokenizer.train([], 10), "no text at all is a tokenizer of bytes"


def test_words_like_special_tokens_are_text() -> None:
    assert tokenizer.MASK not in TOKENIZER.encode("[MASK] [CLS]", add_special_tokens=False).ids
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        tokens.load(b"{}")
