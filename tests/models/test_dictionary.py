"""Phrases marked before are found again, in torch and in words, and believed as far as other messages bear them out."""

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core import spans, tokens
from pipelines.models.text import tokenizer
from pipelines.models.text.dictionary import LONGEST, Book, Dictionary, _folded

NAMES = ["jam", "free"]
SIZE = 1 + 2 * len(NAMES)
MARKED = {"totally jammed": "jam", "all clear": "free", "堵死了": "jam", "clear": "free"}
FRAMES = ["The ring road is {} since noon.", "{} near the bridge", "人民路{}！", "Why is it {} again"]
PLAIN = ["No complaint, the road is fine.", "人民路的灯不亮。", "the queue at the office"]
WRITTEN = [f.format(p) for f in FRAMES for p in MARKED] + PLAIN
TOKENIZER = tokens.load(tokenizer.train([*WRITTEN, *map(str.upper, WRITTEN)] * 4, 600))


def read(text: str, phrase: str | None = None, label: str = "") -> tuple[Any, Any]:
    """Tokens, and their classes if `phrase` is marked."""
    window = tokens.windows(TOKENIZER, text, 512)
    start = text.index(phrase) if phrase else 0
    told = [{"start": start, "end": start + len(phrase), "label": label}] if phrase else []
    classes = np.full(window.ids.shape, -1)
    classes[window.own] = spans.tags(window.offsets[window.own], told, NAMES)
    return window.ids[0], classes[0]


def lessons(times: int = 3) -> tuple[list[Any], list[Any], Any]:
    made = [read(f.format(p), p, label) for f in FRAMES for p, label in MARKED.items()] + [read(p) for p in PLAIN]
    rows, truth = zip(*made * times, strict=True)
    return list(rows), list(truth), np.arange(times * len(made))


@pytest.fixture(scope="module")
def learnt() -> Dictionary:
    made = Dictionary(TOKENIZER.get_vocab_size(), SIZE)
    made.learn(*lessons(), TOKENIZER)
    return made


def found(made: Dictionary, text: str) -> list[tuple[str, str]]:
    ask = lambda ids, mask: made(torch.from_numpy(ids), torch.from_numpy(mask)).softmax(-1).numpy()  # noqa: E731
    return [(s["label"], text[s["start"] : s["end"]]) for s in spans.find(ask, TOKENIZER, text, 64, NAMES)]


def test_phrases_are_found_again_the_longest_first_and_whatever_their_case(learnt: Dictionary) -> None:
    assert found(learnt, "Market street is totally jammed, the bridge ALL CLEAR") == [
        ("jam", "totally jammed"), ("free", "ALL CLEAR"),
    ]  # fmt: skip
    assert found(learnt, "学堂巷堵死了。clear") == [("jam", "堵死了"), ("free", "clear")]
    assert found(learnt, "totally clear, 堵死, all jammed") == [("free", "clear")]
    assert found(learnt, "the road " * 60 + "totally jammed") == [("jam", "totally jammed")], "in any window"
    assert found(learnt, "") == []


def test_what_torch_finds_is_what_a_loop_finds() -> None:
    """Phrases drawn at random over few tokens, so that they overlap, end rows and lie beside one another."""
    rng = np.random.default_rng(0)
    phrases = {tuple(rng.integers(1, 4, rng.integers(1, 6)).tolist()): int(rng.integers(2)) for _ in range(30)}
    phrases[tuple([2] * LONGEST)] = 1
    made = Dictionary(5, SIZE)
    made._write(phrases)
    for length in (1, 3, 40):
        ids, mask = torch.from_numpy(rng.integers(1, 4, (50, length))), torch.ones(50, length, dtype=torch.int64)
        mask[:25, length // 2 :] = 0
        for row, there, said in zip(ids.tolist(), mask.tolist(), made.said(ids, mask).tolist(), strict=True):
            wanted = [0] * length
            for n in range(LONGEST, 0, -1):
                free = list(wanted)
                ones = [t for t in range(length - n + 1) if tuple(row[t : t + n]) in phrases]
                ones = [t for t in ones if all(there[t : t + n]) and not any(free[t : t + n])]
                labels = {t: phrases[tuple(row[t : t + n])] for t in ones}
                for at in range(length):
                    if at in labels:
                        wanted[at] = 1 + 2 * labels[at]
                    elif cover := [labels[t] for t in ones if t < at < t + n]:
                        wanted[at] = 2 + 2 * max(cover)
            assert said == wanted


def test_a_phrase_seldom_marked_is_none_and_of_two_labels_the_commoner_stays() -> None:
    rows = [[1, 2, 3], [1, 2, 4], [1, 2, 5], [7, 8], [7, 8], [7, 8]]
    truth = [np.array(t) for t in ([1, 2, 0], [0, 0, 0], [0, 0, 0], [1, 2], [3, 4], [3, 4])]
    book = Book.of(rows, truth, np.array([0, 0, 1, 0, 0, 1]))
    assert book.phrases() == {(7, 8): 1}
    assert book.phrases(without=1) == {(1, 2): 0, (7, 8): 0}, "once of twice; and one label as often as the other"


def test_belief_is_counted_where_the_dictionary_was_made_without() -> None:
    """Marks by lot are not to be believed, however well a dictionary knows those that it was made of."""
    rng = np.random.default_rng(1)
    own = sorted({int(made) for made in _folded(TOKENIZER, 600)})[10:]
    rows = [np.array([1, own[i], 2]) for i in range(200)]
    by_lot = [np.array([-1, int(rng.integers(2)), -1]) for _ in rows]
    made = Dictionary(600, SIZE)
    apart = made.learn(rows, by_lot, np.arange(200), TOKENIZER)
    assert np.ptp(np.concatenate(apart), axis=0).max() == 0, "each token is a fold's own: nothing is found apart"
    same = [np.array([1, 10 + i % 5, 2]) for i in range(200)]
    always = [np.array([-1, int(i % 5 == 0), -1]) for i in range(200)]
    apart = made.learn(same, always, np.arange(200), TOKENIZER)
    assert (np.concatenate(apart)[1::3].argmax(1) == [int(i % 5 == 0) for i in range(200)]).all()


def test_few_and_odd_messages_can_be_learnt_from() -> None:
    made = Dictionary(TOKENIZER.get_vocab_size(), SIZE)
    for rows in ([read("")], [read("nothing marked here")], [read("堵龘", "堵龘", "jam")] * 2):
        ids, truth = zip(*rows, strict=True)
        apart = made.learn(list(ids), list(truth), np.zeros(len(rows), int), TOKENIZER)
        assert all(np.isfinite(one).all() and one.shape == (len(r), SIZE) for one, r in zip(apart, ids, strict=True))
