"""Pieces of pictures: what is drawn is in them, rare classes come oftener, and boxes stay on what they are around."""

from typing import Any

import numpy as np
import pytest

from pipelines.models.image.pieces import ABOUT, LEAST, Pieces

SIDE, PIECE = 160, 96
Array = np.ndarray[Any, Any]


def street(count: int = 200, seed: int = 0) -> tuple[Array, Array, Array]:
    """Pictures in which each box is painted with its class and number; a car in each second, a bus in each tenth."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    boxes, classes = np.zeros((count, 3, 4), np.float32), np.full((count, 3), -1)
    for i in range(count):
        for j, (every, kind) in enumerate(((2, 0), (10, 1), (40, 2))):
            if i % every:
                continue
            size = rng.integers(4, 130 if j == 2 else 40, 2)
            x, y = (int(rng.integers(0, SIDE - s + 1)) for s in size)
            boxes[i, j] = np.array([x, y, x + size[0], y + size[1]]) / SIDE
            classes[i, j] = kind
            pixels[i, y : y + size[1], x : x + size[0], kind] = 255
    return pixels, boxes, classes


def test_a_piece_holds_what_it_was_cut_about_and_boxes_stay_where_things_are() -> None:
    pixels, boxes, classes = street()
    pieces = Pieces.of(boxes, classes, np.arange(len(pixels)), PIECE)
    rng, places = np.random.default_rng(1), set()
    for row, box in [(r, b) for r in range(len(pixels)) for b in np.flatnonzero(classes[r] >= 0)]:
        cut, inside, kinds = pieces.piece(pixels[row], row, box, rng)
        assert cut.shape == (PIECE, PIECE, 3)
        fits = (boxes[row, box, 2:] - boxes[row, box, :2]) * SIDE < PIECE - 1
        if fits.all():
            assert kinds[box] == classes[row, box]
            sizes = [np.ptp(b[box].reshape(2, 2), axis=0) for b in (PIECE * inside, SIDE * boxes[row])]
            assert sizes[0] == pytest.approx(sizes[1], abs=1e-3), "the whole of it"
        for kind, corners in zip(kinds, inside, strict=True):
            if kind >= 0:
                x0, y0, x1, y1 = np.round(corners * PIECE).astype(int)
                assert (cut[y0:y1, x0:x1, kind] == 255).all()
        places.add(cut.tobytes())
    assert len(places) > 100


def test_what_is_hardly_in_a_piece_is_not_asked_for() -> None:
    boxes, classes = np.array([[[0, 0, 0.1, 0.1], [0.45, 0.45, 0.55, 0.55]]], np.float32), np.array([[0, 0]])
    pieces = Pieces.of(boxes, classes, np.arange(1), PIECE)
    rng, pixels = np.random.default_rng(0), np.zeros((SIDE, SIDE, 3), np.uint8)
    seen = set()
    for _ in range(200):
        _, inside, kinds = pieces.piece(pixels, 0, -1, rng)
        share = (inside[0, 2:] - inside[0, :2]).prod() * PIECE**2 / (0.1 * SIDE) ** 2
        assert (kinds[0] >= 0) == (share >= LEAST)
        seen.add(bool(kinds[0] >= 0))
    assert seen == {True, False}


def test_rare_classes_come_by_the_root_of_their_number() -> None:
    _, boxes, classes = street(400)
    rows = np.arange(0, 400, 2)
    pieces, rng, count = Pieces.of(boxes, classes, rows, PIECE), np.random.default_rng(2), np.zeros(3)
    drawn = 0
    for _ in range(500):
        chosen, box = pieces.choose(rng.choice(rows, 16), rng)
        drawn += len(box)
        about = box >= 0
        assert np.isin(chosen, rows).all()
        np.add.at(count, classes[chosen[about], box[about]], 1)
    assert count.sum() / drawn == pytest.approx(ABOUT, abs=0.02)
    wanted = np.sqrt([(classes[rows] == c).sum() for c in range(3)])
    assert count / count.sum() == pytest.approx(wanted / wanted.sum(), abs=0.02)


def test_without_a_thing_pieces_lie_anywhere_and_whole_pictures_stay_whole() -> None:
    pixels, boxes, classes = street(20)
    rows, rng = np.arange(20), np.random.default_rng(3)
    bare = Pieces.of(boxes, np.full_like(classes, -1), rows, PIECE)
    chosen, box = bare.choose(rows, rng)
    assert (chosen == rows).all()
    assert (box == -1).all()
    whole = Pieces.of(boxes, classes, rows, SIDE)
    cut, inside, kinds = whole.piece(pixels[0], 0, 0, rng)
    assert (cut == pixels[0]).all()
    assert (inside == boxes[0]).all()
    assert (kinds == classes[0]).all()
