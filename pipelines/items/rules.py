"""The contract of pictures and messages as flags: what is wrong with each item, and which are nearly the same.

Items are held against the whole window, since a duplicate may lie years apart; what costs (decoding) was done before.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.params import Source
from pipelines.items import near, words

Array = np.ndarray[Any, Any]
Rows = list[dict[str, Any]]
UNFIT = ("not_a_picture", "truncated", "too_small", "too_large", "aspect", "animated", "colours", "altered")
PICTURES = (
    *UNFIT, "blank", "frozen", "unknown_label", "box_outside", "box_degenerate", "contradiction", "duplicate"
)  # fmt: skip
MESSAGES = (
    "empty", "too_short", "too_long", "encoding", "language", "unknown_label", "span_outside", "span_overlap",
    "repeated_id", "contradiction", "duplicate",
)  # fmt: skip
STILL = 2
"""Frames whose thumbnails differ by no more, of 255, in any place are the same: noise averages out, a car does not."""
SLACK = 1.0
"""Pixels by which a box may leave its picture: annotators round."""


@dataclass(frozen=True)
class Judged:
    """Of items [n], in the order of time: bool [n, reasons], the group int64 [n], the language (messages)."""

    reasons: tuple[str, ...]
    flags: Array
    group: Array
    language: list[str]

    @property
    def bad(self) -> Array:
        return np.asarray(self.flags.any(axis=1))

    def told(self) -> pa.Array:
        """Each item's reasons, list<string>."""
        return pa.array([[self.reasons[i] for i in np.flatnonzero(row)] for row in self.flags], pa.list_(pa.string()))


def pictures(source: Source, rows: Rows, looks: dict[str, dict[str, Any]]) -> Judged:
    """`rows` in schema IMAGES, in the order of time; `looks` by blob."""
    contract = source.contract
    wrong = _Flags(PICTURES, len(rows))
    seen = [looks[row["blob"]] for row in rows]
    for i, (row, look) in enumerate(zip(rows, seen, strict=True)):
        if look["reason"]:
            wrong(i, look["reason"])
            continue
        if look["spread"] < contract.blank:
            wrong(i, "blank")
        if not _known(source, "label", row["labels"] or ()):
            wrong(i, "unknown_label")
        if not _known(source, "boxes", [box["label"] for box in row["boxes"] or ()]):
            wrong(i, "unknown_label")
        for box in row["boxes"] or ():
            right, bottom = box["x"] + box["width"], box["y"] + box["height"]
            if not all(map(np.isfinite, (right, bottom))) or min(box["width"], box["height"]) < 1:
                wrong(i, "box_degenerate")
            elif min(box["x"], box["y"]) < -SLACK or right > look["width"] + SLACK or bottom > look["height"] + SLACK:
                wrong(i, "box_outside")
    for i in _frozen(rows, seen, contract.frozen):
        wrong(i, "frozen")
    _twins(wrong, [row["blob"] for row in rows], [_said(row, "labels", "boxes") for row in rows])
    good = np.flatnonzero(~wrong.flags.any(1))
    hashes = np.array([seen[i]["hash"] for i in good], np.uint64)
    thumbs = np.array([np.frombuffer(seen[i]["thumb"], np.uint8) for i in good]).reshape(len(good), 768)
    pairs = near.pairs_of_pictures(hashes, thumbs, contract.near)
    group = _groups(len(rows), good, pairs, [row["blob"] for row in rows])
    return Judged(PICTURES, wrong.flags, group, [])


def messages(source: Source, rows: Rows) -> Judged:
    """`rows` in schema TEXTS, in the order of time."""
    contract = source.contract
    least, most = contract.length
    wrong = _Flags(MESSAGES, len(rows))
    spoken = []
    for i, row in enumerate(rows):
        text = row["text"] or ""
        spoken.append(words.language(text))
        if not text.strip():
            wrong(i, "empty")
        elif len(text) < least:
            wrong(i, "too_short")
        if len(text) > most:
            wrong(i, "too_long")
        if words.damage(text):
            wrong(i, "encoding")
        if contract.languages and spoken[-1] not in (*contract.languages, words.UNKNOWN):
            wrong(i, "language")
        spans = sorted(row["spans"] or (), key=lambda span: (span["start"], span["end"]))
        labels = [] if row["label"] is None else [row["label"]]
        if not (_known(source, "label", labels) and _known(source, "spans", [span["label"] for span in spans])):
            wrong(i, "unknown_label")
        if any(not 0 <= span["start"] < span["end"] <= len(text) for span in spans):
            wrong(i, "span_outside")
        if any(b["start"] < a["end"] for a, b in pairwise(spans)):
            wrong(i, "span_overlap")
    for same in _same(row["id"] for row in rows):
        if len({_key(rows[i]) for i in same}) > 1:
            for i in same:
                wrong(i, "repeated_id")
    said = [_said(row, "label", "spans") for row in rows]
    _twins(wrong, [words.normal(row["text"] or "") for row in rows], said)
    good = np.flatnonzero(~wrong.flags.any(1))
    texts = [words.normal(rows[i]["text"]) for i in good]
    names = [_key(row) for row in rows]
    return Judged(MESSAGES, wrong.flags, _groups(len(rows), good, near.pairs_of_texts(texts), names), spoken)


class _Flags:
    def __init__(self, reasons: Sequence[str], n: int) -> None:
        self.flags = np.zeros((n, len(reasons)), bool)
        self._column = {reason: i for i, reason in enumerate(reasons)}

    def __call__(self, row: int, reason: str) -> None:
        self.flags[row, self._column[reason]] = True


def _known(source: Source, kind: str, labels: Iterable[str]) -> bool:
    """Whether all labels are of the kind's; a kind that the source does not have is not looked at."""
    return kind not in source.kinds or set(labels) <= set(source.kinds[kind].labels)


def _key(row: dict[str, Any]) -> str:
    return hashlib.sha256(words.normal(row["text"] or "").encode("utf-8", "replace")).hexdigest()


def _said(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """What somebody said of an item, comparable; None where nobody did."""
    return tuple(None if row[name] is None else repr(row[name]) for name in names)


def _same(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys, where there are two or more."""
    where: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        where[key].append(i)
    return [found for found in where.values() if len(found) > 1]


def _twins(wrong: _Flags, keys: list[str], said: list[tuple[Any, ...]]) -> None:
    """Of equal items one stays: the best annotated of those without another fault, the earliest of them. Where they
    are annotated differently nobody knows which is right, and none stays."""
    faulty = np.asarray(wrong.flags.any(1))
    for same in _same(keys):
        if any(len({said[i][part] for i in same} - {None}) > 1 for part in range(len(said[0]))):
            for i in same:
                wrong(i, "contradiction")
            continue
        kept = min(same, key=lambda i: (faulty[i], said[i].count(None), i))
        for i in same:
            if i != kept:
                wrong(i, "duplicate")


def _frozen(rows: Rows, looks: Rows, limit: int) -> list[int]:
    """All but the first of each run of `limit` or more equal frames of one camera at different times."""
    runs: dict[str, list[int]] = {}
    found: list[int] = []

    def closed(run: list[int]) -> None:
        if len(run) >= limit > 1:
            found.extend(run[1:])

    for i, (row, look) in enumerate(zip(rows, looks, strict=True)):
        run = runs.get(row["camera"], [])
        if run and rows[run[-1]]["time"] < row["time"] and _still(looks[run[0]], look):
            run.append(i)
        else:
            closed(run)
            runs[row["camera"]] = [i]
    for run in runs.values():
        closed(run)
    return found


def _still(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["thumb"] is None or b["thumb"] is None:
        return False
    one, two = (np.frombuffer(look["thumb"], np.uint8).astype(np.int16) for look in (a, b))
    return bool(np.abs(one - two).max() <= STILL)


def _groups(n: int, good: Array, pairs: list[tuple[int, int]], names: list[str]) -> Array:
    """int64 [n]: a number from the least name (a hash) in a group of near-duplicates; -1 of what is not good."""
    lowest = near.groups(len(good), pairs)
    least: dict[int, str] = {}
    for i, root in enumerate(lowest.tolist()):
        name = names[good[i]]
        least[root] = min(name, least.get(root, name))
    out = np.full(n, -1, np.int64)
    out[good] = [int(least[root][:15], 16) for root in lowest.tolist()]
    return out
