"""Phrases in a message: half-open ranges of code points, each with a label."""

import re
from collections import Counter
from typing import Any

import numpy as np

from pipelines.models.items.held import Items
from pipelines.models.items.sums import Tallies, f1

Array = np.ndarray[Any, Any]
Span = tuple[int, int, int]
"""Start, end, number of the label."""
PRIMARY = "span_f1"
ACT = "marks {names} in"
BESIDE = "dictionary"


def asked(items: Items) -> Items:
    return items.take(np.array([spans is not None for spans in items.column("spans")], bool))


def truth(items: Items) -> list[list[Span]]:
    """The spans of each item, in order; those of other labels are left out."""
    number = {name: i for i, name in enumerate(items.names)}
    return [
        sorted((s["start"], s["end"], number[s["label"]]) for s in spans or () if s["label"] in number)
        for spans in items.column("spans")
    ]


def counts(items: Items) -> Array:
    """How often each label occurs, [C]."""
    return np.bincount([label for each in truth(items) for *_, label in each], minlength=len(items.names))


def ask(predictor: Any) -> Any:
    return lambda inputs, items: predictor.spans(inputs)


def baselines(fit: Items) -> dict[str, Any]:
    """Nothing at all; and every phrase that was marked more often than not where it occurs."""
    return {"none": lambda inputs, items: [[] for _ in inputs], "dictionary": _dictionary(fit)}


def _dictionary(fit: Items) -> Any:
    texts, spans = fit.inputs, truth(fit)
    marked = Counter((text[s:e], label) for text, each in zip(texts, spans, strict=True) for s, e, label in each)
    label_of: dict[str, int] = {}
    for (phrase, label), _ in sorted(marked.items(), key=lambda m: (m[1], m[0])):  # the commonest label stays
        label_of[phrase] = label
    pattern = _any_of(label_of)
    seen = Counter(m[0] for text in texts for m in pattern.finditer(text)) if pattern else Counter()
    kept = {p: label for p, label in label_of.items() if 2 * marked[p, label] >= seen[p] > 0}
    chosen = _any_of(kept)

    def answer(inputs: Any, items: Items) -> list[list[Span]]:
        if chosen is None:
            return [[] for _ in inputs]
        return [[(m.start(), m.end(), kept[m[0]]) for m in chosen.finditer(text)] for text in inputs]

    return answer


def _any_of(phrases: dict[str, int]) -> re.Pattern[str] | None:
    """Finds any of them, the longest first."""
    ordered = sorted((p for p in phrases if p.strip()), key=lambda p: (-len(p), p))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def score(answer: list[list[Span]], truth: list[list[Span]], names: tuple[str, ...]) -> dict[str, float]:
    """F1 of spans met exactly, overall and by label, and of spans of the right label that overlap a true one."""
    exact, partial = counted(answer, truth, len(names)), counted(answer, truth, len(names), partly=True)
    whole = exact.sum((0, 1))
    return {
        "span_f1": _value(whole),
        "partial_f1": _value(partial.sum((0, 1))),
        "precision": float(whole[0] / max(whole[0] + whole[1], 1)),
        "recall": float(whole[0] / max(whole[0] + whole[2], 1)),
        **{f"f1_{name}": _value(exact[:, c].sum(0)) for c, name in enumerate(names)},
    }


def _value(tally: Array) -> float:
    return float(f1(tally))


def points(answer: list[list[Span]], truth: list[list[Span]], names: tuple[str, ...]) -> Tallies:
    return Tallies(counted(answer, truth, len(names)).sum(1), f1)


def by_class(answer: list[list[Span]], truth: list[list[Span]], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    exact, partial = counted(answer, truth, len(names)), counted(answer, truth, len(names), partly=True)
    told = {}
    for c, name in enumerate(names):
        right, wrong, missed = exact[:, c].sum(0)
        told[name] = {
            "precision": float(right / max(right + wrong, 1)),
            "recall": float(right / max(right + missed, 1)),
            "f1": _value(exact[:, c].sum(0)),
            "partial_f1": _value(partial[:, c].sum(0)),
            "n": int(right + missed),
        }
    return told


def counted(answer: list[list[Span]], truth: list[list[Span]], classes: int, partly: bool = False) -> Array:
    """Found rightly, found wrongly and missed, by item and label [N, C, 3]. Each true span is met once at most."""
    out = np.zeros((len(truth), classes, 3))
    for i, (given, true) in enumerate(zip(answer, truth, strict=True)):
        left = list(true)
        for start, end, label, *_ in given:
            met = next((t for t in left if t[2] == label and _meets(start, end, t, partly)), None)
            out[i, label, 0 if met else 1] += 1
            if met:
                left.remove(met)
        for *_, label in left:
            out[i, label, 2] += 1
    return out


def _meets(start: int, end: int, true: Span, partly: bool) -> bool:
    return (start < true[1] and true[0] < end) if partly else (start, end) == true[:2]


def wrong(answer: list[list[Span]], truth: list[list[Span]]) -> Array:
    """Spans found wrongly or missed."""
    return np.array([len({s[:3] for s in a} ^ set(t)) for a, t in zip(answer, truth, strict=True)], float)


def said(answer: list[list[Span]], names: tuple[str, ...]) -> Array:
    """The answers as counts of each label, [N, C]."""
    each = [np.bincount([label for _, _, label, *_ in spans], minlength=len(names)) for spans in answer]
    return np.array(each, float).reshape(-1, len(names))
