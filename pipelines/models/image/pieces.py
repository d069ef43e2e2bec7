"""What a locator learns from: pieces of pictures, most of them cut about a thing of a class drawn by lot.

Rare classes come more often than they are there (repeat-factor sampling: Gupta et al., 2019, with the root of their
number), and pieces leave most of an empty street out (SNIPER: Singh et al., 2018). What answers sees whole pictures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ABOUT = 0.75
"""Share of the pieces that are cut about a thing; the others lie anywhere."""
LEAST = 0.4
"""Of a thing's area that must be in a piece, or it cannot be asked for."""


@dataclass(frozen=True)
class Pieces:
    boxes: Array
    """float32 [N, M, 4]: x0, y0, x1, y1 as fractions of the square."""
    classes: Array
    """int64 [N, M], -1 for none."""
    things: list[Array]
    """By class that is there: row and box of each thing that may be learnt from, int64 [K, 2]."""
    side: int
    """Pixels of a piece; as many as a picture's where it is to be whole."""

    @classmethod
    def of(cls, boxes: Array, classes: Array, rows: Array, side: int) -> "Pieces":
        """rows: pictures to learn from."""
        mine = classes[rows]
        found = [np.argwhere(mine == c) for c in range(classes.max(initial=-1) + 1)]
        return cls(boxes, classes, [np.stack([rows[t[:, 0]], t[:, 1]], 1) for t in found if len(t)], side)

    def choose(self, rows: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """`rows`, most of them exchanged for a picture with a thing; and the thing's box, -1 where there is none."""
        rows, box = rows.copy(), np.full(len(rows), -1)
        if self.things:
            chance = np.sqrt([len(t) for t in self.things])
            kind = rng.choice(len(self.things), len(rows), p=chance / chance.sum())
            for i in np.flatnonzero(rng.random(len(rows)) < ABOUT):
                there = self.things[kind[i]]
                rows[i], box[i] = there[rng.integers(len(there))]
        return rows, box

    def cut(self, pixels: Array, rows: Array, box: Array, seed: int, turns: Iterable[int]) -> dict[str, Array]:
        """Pieces of pictures `rows` of `pixels`, each about its `box`: `values`, `boxes` and `classes`.

        turns: which of the step's pieces these are.
        """
        each = zip(rows.tolist(), box.tolist(), turns, strict=True)
        made = [self.piece(pixels[row], row, b, np.random.default_rng([seed, turn])) for row, b, turn in each]
        return dict(zip(("values", "boxes", "classes"), map(np.stack, zip(*made, strict=True)), strict=True))

    def piece(self, pixels: Array, row: int, box: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """A piece of picture `row` [S, S, 3], that holds `box` as far as it can; its boxes [M, 4] and classes [M]."""
        whole, boxes, classes = len(pixels), self.boxes[row], self.classes[row]
        if self.side == whole:
            return pixels, boxes, classes
        low, high = np.zeros(2), np.full(2, whole - self.side)
        if box >= 0:
            first, last = boxes[box, :2] * whole, boxes[box, 2:] * whole
            # The former holds the thing's end, the latter its beginning; a larger thing gives them the other way round.
            ends = np.clip(np.stack([np.ceil(last - self.side), np.floor(first)]), low, high)
            low, high = ends.min(0), ends.max(0)
        x, y = np.round(low + (high - low) * rng.random(2)).astype(int)
        moved = (boxes * whole - np.array([x, y, x, y])) / self.side
        inside = np.clip(moved, 0, 1).astype(np.float32)
        left = _area(inside) >= LEAST * _area(moved)
        return pixels[y : y + self.side, x : x + self.side], inside, np.where(left, classes, -1)


def _area(boxes: Array) -> Array:
    area: Array = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return area
