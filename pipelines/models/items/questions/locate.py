"""Where things stand in a picture: boxes with labels and scores, and how many there are."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.models.items.held import Items
from pipelines.models.items.sums import Tallies, curve_cells

Array = np.ndarray[Any, Any]
PRIMARY = "map50"
ACT = "finds {names} in"
BESIDE = "usual"
DECISION, LEAST = 0.5, 0.001
"""The score from which on a box counts, where the bundle does not say; and below which nobody looks at it."""
MET = 0.5
"""Intersection over union from which on a box is the one that was meant."""
PICKED, LOOKED_AT = 20, 400
"""Usual places a camera and label; boxes they are chosen from."""


def asked(items: Items) -> Items:
    return items.take(np.array([boxes is not None for boxes in items.column("boxes")], bool))


@dataclass(frozen=True)
class Boxes:
    """Of one picture: boxes float [K, 4] (left, top, right, bottom; fractions of the square), scores [K], label numbers
    [K], and how many there are of each label, [C]."""

    boxes: Array
    scores: Array
    labels: Array
    counts: Array


def truth(items: Items) -> list[Boxes]:
    """Boxes of other labels are left out."""
    number = {name: i for i, name in enumerate(items.names)}
    return [
        true([(number[b["label"]], b) for b in boxes or () if b["label"] in number], len(number))
        for boxes in items.column("boxes")
    ]


def true(boxes: list[tuple[int, dict[str, float]]], classes: int) -> Boxes:
    corners = [(b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]) for _, b in boxes]
    labels = np.array([label for label, _ in boxes], int)
    counts = np.bincount(labels, minlength=classes).astype(float)
    return Boxes(np.array(corners, float).reshape(-1, 4), np.ones(len(boxes)), labels, counts)


def counts(items: Items) -> Array:
    """How often each label occurs, [C]."""
    return _there(truth(items), len(items.names)).sum(0)


def ask(predictor: Any) -> Any:
    classes, least = len(predictor.names), decision(predictor.config)
    return lambda inputs, items: [found(b, s, c, classes, least) for b, s, c in predictor.boxes(inputs)]


def decision(config: dict[str, Any]) -> float:
    """The score from which on a box counts."""
    return float(config.get("decision") or DECISION)


def found(boxes: Array, scores: Array, labels: Array, classes: int, least: float) -> Boxes:
    counts = np.bincount(labels[scores >= least].astype(int), minlength=classes)[:classes].astype(float)
    kept = scores >= LEAST
    return Boxes(boxes[kept], scores[kept], labels[kept].astype(int), counts)


def baselines(fit: Items) -> dict[str, Any]:
    """Nothing at all; and where things of each label usually stand in that camera's view, as many as usual."""
    classes = len(fit.names)
    nothing = true([], classes)
    cameras, known = np.array(fit.column("camera")), truth(fit)
    usual = {c: _usual([known[i] for i in np.flatnonzero(cameras == c)], classes) for c in dict.fromkeys(cameras)}
    anywhere = _usual(known, classes)
    return {
        "none": lambda inputs, items: [nothing] * len(items),
        "usual": lambda inputs, items: [usual.get(c, anywhere) for c in items.column("camera")],
    }


def _usual(known: list[Boxes], classes: int) -> Boxes:
    """Boxes that most others of their label met, each scored by the share of pictures that had one there."""
    if not known:
        return true([], classes)
    every = np.concatenate([k.boxes for k in known])
    label = np.concatenate([k.labels for k in known])
    boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, int)]
    for c in range(classes):
        mine = every[label == c]
        mine = mine[np.unique(np.linspace(0, len(mine) - 1, min(LOOKED_AT, len(mine))).astype(int))]
        close = overlap(mine, mine) >= MET
        votes = close.sum(1).astype(float)
        picked: list[tuple[int, float]] = []
        while len(picked) < PICKED and len(votes) and votes.max() > 0:
            best = int(votes.argmax())
            picked.append((best, votes[best]))
            votes[close[best]] = 0
        boxes.append(mine[[i for i, _ in picked]].reshape(-1, 4))
        scores.append(np.array([min(v / len(known), 1.0) for _, v in picked]))
        labels.append(np.full(len(picked), c))
    counts = np.mean([k.counts for k in known], axis=0)
    return Boxes(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels), counts)


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [K, 4] with boxes [L, 4], [K, L]."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    size = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    union = size[0][:, None] + size[1][None] - inside
    return inside / np.where(union > 0, union, 1)


def score(answer: list[Boxes], truth: list[Boxes], names: tuple[str, ...]) -> dict[str, float]:
    """Mean average precision at an overlap of 0.5, and over 0.5 to 0.95, as COCO has them; how far counts are off."""
    at50, over, _ = _coco(answer, truth, len(names))
    off = np.abs(_counts(answer) - _counts(truth))
    total = np.abs(_counts(answer).sum(1) - _counts(truth).sum(1))
    return {
        "map50": _mean(at50),
        "map50_95": _mean(over),
        "count_mae": float(total.mean()),
        "count_mae_by_label": float(off.mean()),
        **{f"ap50_{name}": float(at50[c]) for c, name in enumerate(names)},
    }


def _counts(boxes: Iterable[Boxes]) -> Array:
    return np.array([b.counts for b in boxes])


def _mean(each: Array) -> float:
    known = each[np.isfinite(each)]
    return float(known.mean()) if len(known) else float("nan")


def points(answer: list[Boxes], truth: list[Boxes], names: tuple[str, ...]) -> Tallies:
    scores, right, label, item = _coco(answer, truth, len(names))[2]
    return curve_cells(scores, right, label, item, _there(truth, len(names)))


def _there(truth: list[Boxes], classes: int) -> Array:
    return np.array([np.bincount(t.labels, minlength=classes) for t in truth], float).reshape(-1, classes)


def by_class(answer: list[Boxes], truth: list[Boxes], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    at50, over, _ = _coco(answer, truth, len(names))
    off, there = np.abs(_counts(answer) - _counts(truth)), _there(truth, len(names)).sum(0)
    return {
        name: {"ap50": float(at50[c]), "ap50_95": float(over[c]), "count_mae": float(off[:, c].mean()),
               "n": int(there[c])}
        for c, name in enumerate(names)
    }  # fmt: skip


def curves(answer: list[Boxes], truth: list[Boxes], names: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
    """Recall and precision at an overlap of 0.5, by label, highest score first."""
    score, right, label, _ = _coco(answer, truth, len(names))[2]
    there, told = _there(truth, len(names)).sum(0), {}
    for c, name in enumerate(names):
        hits = np.cumsum(right[label == c][np.argsort(-score[label == c], kind="stable")])
        if there[c] and len(hits):
            told[name] = (hits / there[c], hits / (np.arange(len(hits)) + 1))
    return told


def _coco(answer: list[Boxes], truth: list[Boxes], classes: int) -> tuple[Array, Array, tuple[Array, ...]]:
    """Average precision by class, at 0.5 and over 0.5 to 0.95 [C], NaN where there was none to find; and of every box
    answered its score, whether it is right at 0.5, its class and its picture."""
    from pycocotools.coco import COCO  # type: ignore[import-untyped]
    from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

    with contextlib.redirect_stdout(io.StringIO()):
        known, said = COCO(), COCO()
        for coco, boxes in ((known, truth), (said, answer)):
            coco.dataset = {
                "images": [{"id": i} for i in range(len(truth))],
                "categories": [{"id": c} for c in range(classes)],
                "annotations": _annotations(boxes),
            }
            coco.createIndex()
        judge = COCOeval(known, said, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [100]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0, 0].transpose(2, 0, 1)  # class, overlap, recall; −1: none to find
    precision = np.where(precision < 0, np.nan, precision)
    rows: list[tuple[Array, ...]] = [(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.zeros(0, int))]
    for one in filter(None, judge.evalImgs):
        n = len(one["dtScores"])
        right = np.asarray(one["dtMatches"])[0].reshape(-1) > 0
        rows.append((np.array(one["dtScores"]), right, np.full(n, one["category_id"]), np.full(n, one["image_id"])))
    matched = tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
    return precision[:, 0].mean(-1), precision.mean((1, 2)), matched


def _annotations(boxes: list[Boxes]) -> list[dict[str, Any]]:
    """COCO's form, in thousandths of the square; ids begin at 1, for 0 is its word for no match."""
    made: list[dict[str, Any]] = []
    for image, some in enumerate(boxes):
        for (left, top, right, bottom), score, label in zip(some.boxes * 1000, some.scores, some.labels, strict=True):
            width, height = float(right - left), float(bottom - top)
            made.append(
                {"id": len(made) + 1, "image_id": image, "category_id": int(label), "score": float(score),
                 "bbox": [float(left), float(top), width, height], "area": width * height, "iscrowd": 0}
            )  # fmt: skip
    return made


def wrong(answer: list[Boxes], truth: list[Boxes]) -> Array:
    """How many things are counted too much or too little, label by label."""
    off: Array = np.abs(_counts(answer) - _counts(truth)).sum(1)
    return off


def said(answer: list[Boxes], names: tuple[str, ...]) -> Array:
    """The answers as counts of each label, [N, C]."""
    return _counts(answer).reshape(-1, len(names))
