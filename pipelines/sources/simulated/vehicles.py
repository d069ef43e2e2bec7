"""What drives through the simulated city's pictures: cars, trucks, buses and bikes, as painted blocks in metres."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipelines.sources.simulated.ground import Array

CLASSES = ("car", "truck", "bus", "bike")
Colour = tuple[int, int, int]
Patch = tuple[str, float, float, float, float, Colour]
"""A rectangle on a face of a block: face, from and to along it, from and to up it (shares), colour."""

GLASS, RUBBER, LAMP, TAIL = (38, 48, 58), (22, 22, 24), (250, 246, 214), (190, 22, 22)
PLATE, CHROME, DARK = (225, 225, 215), (150, 152, 156), (40, 41, 44)
PAINTS: tuple[Colour, ...] = (
    (236, 237, 238), (206, 208, 210), (168, 171, 174), (120, 123, 127), (72, 75, 79), (30, 31, 34), (150, 24, 28),
    (196, 42, 36), (28, 58, 120), (62, 104, 168), (34, 84, 62), (104, 84, 62), (226, 176, 34), (196, 110, 40),
)  # fmt: skip
FLEET: tuple[Colour, ...] = (
    (204, 32, 38),
    (244, 244, 240),
    (30, 92, 168),
    (38, 132, 86),
    (240, 180, 40),
    (90, 60, 140),
)
"""What buses and cargo wear."""
JACKETS: tuple[Colour, ...] = (
    (208, 52, 44),
    (40, 72, 150),
    (34, 36, 40),
    (228, 220, 60),
    (240, 120, 30),
    (96, 130, 90),
)
STYLES = {"car": 5, "truck": 5, "bus": 3, "bike": 3}
PAINTED = 30
"""So many paints a style."""
LENGTH = {"car": 4.5, "truck": 8.6, "bus": 11.5, "bike": 1.9}
"""Metres of road that one takes, about."""


@dataclass(frozen=True)
class Shape:
    """A vehicle heading north, its middle on the ground at the origin; metres."""

    quads: Array
    """[q, 4, 3]"""
    normals: Array
    """[q, 3], outward"""
    colours: Array
    """[q, 3]"""
    part: Array
    """[q] index into `centres`"""
    layer: Array
    """[q]: what stands on something is drawn after it"""
    centres: Array
    hull: Array
    """[h, 3]: the silhouette is the convex hull of these, seen from anywhere"""
    lamps: Array
    """[l, 3]: the first half white, at the front; the rest red, behind"""

    @property
    def height(self) -> float:
        return float(self.hull[:, 2].max())


class _Builder:
    def __init__(self) -> None:
        self.quads: list[Array] = []
        self.normals: list[Array] = []
        self.colours: list[Colour] = []
        self.part: list[int] = []
        self.layer: list[int] = []
        self.centres: list[Array] = []
        self.hull: list[Array] = []

    def block(
        self, x: float, y: tuple[float, float], z: tuple[float, float], colour: Colour, *, layer: int = 1,
        taper: tuple[float, float, float] = (0, 0, 0), roof: Colour | None = None, patches: Sequence[Patch] = (),
        wheels: Sequence[float] = (), middle: float = 0.0,
    ) -> None:  # fmt: skip
        """A block of half width `x`; its top is narrower by `taper` (either side, front, rear)."""
        (back, front), (low, high) = y, z
        base = [(-x, back), (x, back), (x, front), (-x, front)]
        side, nose, tail = taper
        top = [(-x + side, back + tail), (x - side, back + tail), (x - side, front - nose), (-x + side, front - nose)]
        c = np.array([(a + middle, b, low) for a, b in base] + [(a + middle, b, high) for a, b in top])
        faces = {
            "rear": c[[0, 1, 5, 4]],
            "right": c[[1, 2, 6, 5]],
            "front": c[[2, 3, 7, 6]],
            "left": c[[3, 0, 4, 7]],
            "top": c[[4, 5, 6, 7]],
        }
        self.centres.append(c.mean(0))
        self.hull.append(c)
        for name, face in faces.items():
            (a, b, k), (d, e, f) = (face[1] - face[0]).tolist(), (face[3] - face[0]).tolist()
            normal = np.array((b * f - k * e, k * d - a * f, a * e - b * d))
            normal /= np.sqrt((normal**2).sum()) or 1.0
            self._quad(face, normal, roof if name == "top" and roof else colour, layer)
            for on, u0, u1, v0, v1, paint in patches:
                if on == name or (on == "sides" and name in ("left", "right")):
                    ends = (1 - u1, 1 - u0) if name == "left" else (u0, u1)  # along it from the rear, on either side
                    self._quad(_patch(face, *ends, v0, v1), normal, paint, layer)
            if name in ("left", "right"):
                out = (x + 0.02) * (1 if name == "right" else -1) + middle
                for at in wheels:
                    self._wheel(out, at, normal, layer)

    def _wheel(self, x: float, y: float, normal: Array, layer: int) -> None:
        r, k = 0.36, 0.2
        for (low, wide), (high, narrow) in (((0, k), (k, r)), ((k, r), (2 * r - k, r)), ((2 * r - k, r), (2 * r, k))):
            corners = [(x, y - wide, low), (x, y + wide, low), (x, y + narrow, high), (x, y - narrow, high)]
            self._quad(np.array(corners), normal, RUBBER, layer)

    def _quad(self, quad: Array, normal: Array, colour: Colour, layer: int) -> None:
        self.quads.append(quad)
        self.normals.append(normal)
        self.colours.append(colour)
        self.part.append(len(self.centres) - 1)
        self.layer.append(layer)

    def done(self, lamps: Sequence[tuple[float, float, float]]) -> Shape:
        return Shape(
            np.array(self.quads, float), np.array(self.normals), np.array(self.colours, float), np.array(self.part),
            np.array(self.layer), np.array(self.centres), np.concatenate(self.hull), np.array(lamps, float),
        )  # fmt: skip


def _patch(face: Array, u0: float, u1: float, v0: float, v1: float) -> Array:
    u, v = np.array([[u0], [u1], [u1], [u0]]), np.array([[v0], [v0], [v1], [v1]])
    a, b, c, d = face
    return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)


def _lamps(x: float, front: float, rear: float, z: float) -> list[tuple[float, float, float]]:
    return [(-x, front, z), (x, front, z), (-x, rear, z + 0.1), (x, rear, z + 0.1)]


def _face(lamps: float = 0.2) -> list[Patch]:
    """Lights, grille and plates at both ends of a body."""
    return [
        ("front", 0.03, 0.03 + lamps, 0.5, 0.88, LAMP), ("front", 0.97 - lamps, 0.97, 0.5, 0.88, LAMP),
        ("front", 0.3, 0.7, 0.35, 0.75, DARK), ("front", 0.38, 0.62, 0.08, 0.26, PLATE),
        ("rear", 0.02, 0.02 + lamps, 0.5, 0.9, TAIL), ("rear", 0.98 - lamps, 0.98, 0.5, 0.9, TAIL),
        ("rear", 0.37, 0.63, 0.4, 0.62, PLATE), ("front", 0, 1, 0, 0.06, DARK), ("rear", 0, 1, 0, 0.16, DARK),
    ]  # fmt: skip


@cache
def shape(label: str, style: int, paint: int) -> Shape:
    """The vehicle of this class, `style` < STYLES[label] and any `paint`."""
    build = {"car": _car, "truck": _truck, "bus": _bus, "bike": _bike}[label]
    return build(style, paint)


def _car(style: int, paint: int) -> Shape:
    b, colour = _Builder(), PAINTS[paint % len(PAINTS)]
    # half length, half width, belt, roof; where the glass house begins and ends, and how its ends lean
    half, w, belt, roof, back, front, lean_b, lean_f = (
        (2.25, 0.90, 0.90, 1.42, -1.75, 0.85, 0.60, 0.70),  # saloon
        (1.95, 0.87, 0.95, 1.50, -1.88, 0.70, 0.25, 0.65),  # hatchback
        (2.30, 0.96, 1.05, 1.74, -2.15, 0.80, 0.25, 0.55),  # off-roader
        (2.35, 0.90, 0.92, 1.48, -2.25, 0.85, 0.35, 0.70),  # estate
        (2.45, 0.98, 1.10, 1.95, -2.42, 1.35, 0.08, 0.60),  # people carrier
    )[style]
    b.block(
        w,
        (-half, half),
        (0.28, belt),
        colour,
        patches=_face(),
        wheels=(-half * 0.62, half * 0.62),
        taper=(0.03, 0.06, 0.04),
    )
    pillars: list[Patch] = [
        ("front", 0.04, 0.96, 0.05, 0.92, GLASS), ("rear", 0.08, 0.92, 0.15 if style != 4 else 0.4, 0.9, GLASS),
        ("sides", 0.07, 0.46, 0.08, 0.88, GLASS), ("sides", 0.51, 0.9, 0.08, 0.88, GLASS),
    ]  # fmt: skip
    b.block(w - 0.05, (back, front), (belt, roof), colour, layer=2, taper=(0.16, lean_f, lean_b), patches=pillars)
    if style == 0 and paint % 5 == 0:  # a taxi
        b.block(0.3, (-0.4, -0.15), (roof, roof + 0.16), (244, 200, 40), layer=3)
    return b.done(_lamps(w - 0.22, half, -half, 0.68))


def _truck(style: int, paint: int) -> Shape:
    b, cab = _Builder(), PAINTS[(paint * 5 + 2) % len(PAINTS)]
    load = (*FLEET, (232, 232, 230), (150, 152, 155), (226, 222, 210))[paint % 9]
    half = (4.2, 4.6, 3.3, 4.4, 4.3)[style]
    low, nose = -half, half - 1.9
    head: list[Patch] = [
        ("front", 0.06, 0.94, 0.5, 0.9, GLASS), ("sides", 0.35, 0.85, 0.55, 0.88, GLASS),
        ("front", 0.04, 0.2, 0.1, 0.22, LAMP), ("front", 0.8, 0.96, 0.1, 0.22, LAMP),
        ("front", 0.25, 0.75, 0.16, 0.4, DARK), ("front", 0.36, 0.64, 0.03, 0.12, PLATE),
    ]  # fmt: skip
    b.block(
        1.0, (low, nose + 0.2), (0.5, 1.05), DARK, layer=0, wheels=(low + 0.9, low + 1.9, half - 1.0),
        patches=[("rear", 0.02, 0.22, 0.3, 0.9, TAIL), ("rear", 0.78, 0.98, 0.3, 0.9, TAIL),
                 ("rear", 0.4, 0.6, 0.3, 0.8, PLATE)],
    )  # fmt: skip
    b.block(1.18, (nose, half), (0.5, 2.75 if style != 2 else 2.3), cab, patches=head, taper=(0.04, 0.22, 0))
    if style in (0, 1, 2):  # a box
        top = (3.4, 3.7, 2.9)[style]
        doors: list[Patch] = [
            ("rear", 0.49, 0.51, 0.02, 0.98, DARK), ("rear", 0.0, 1.0, 0.0, 0.05, DARK),
            ("rear", 0.02, 0.14, 0.06, 0.12, TAIL), ("rear", 0.86, 0.98, 0.06, 0.12, TAIL),
            ("sides", 0.2, 0.8, 0.3, 0.62, tuple(int(0.75 * v + 40) for v in load[::-1])),  # type: ignore[list-item]
        ]  # fmt: skip
        b.block(1.25, (low, nose - 0.15), (0.95, top), load, patches=doors)
    elif style == 3:  # a tipper: low walls around sand or rubble
        heap = ((150, 122, 84), (112, 108, 104), (86, 70, 56))[paint % 3]
        walls = ((196, 110, 40), (60, 92, 66), (120, 40, 36))[paint % 3]
        ribs: list[Patch] = [("sides", k / 6, k / 6 + 0.03, 0, 1, DARK) for k in range(1, 6)]
        b.block(1.25, (low, nose - 0.15), (0.95, 1.95), walls, roof=heap, patches=ribs)
        b.block(0.95, (low + 0.4, nose - 0.6), (1.95, 2.4), heap, layer=2, taper=(0.6, 1.0, 1.0))
    else:  # a tank
        b.block(1.2, (low, nose - 0.2), (0.95, 1.9), CHROME, patches=[("sides", 0, 1, 0.4, 0.6, load)])
        b.block(1.2, (low, nose - 0.2), (1.9, 2.9), (205, 207, 210), layer=2, taper=(0.65, 0.15, 0.15))
    return b.done(_lamps(0.95, half, low, 0.8))


def _bus(style: int, paint: int) -> Shape:
    b, colour = _Builder(), FLEET[paint % len(FLEET)]
    half, top = (5.9, 4.6, 6.0)[style], (3.1, 2.9, 3.25)[style]
    band = FLEET[(paint + 1 + paint // 6 % 4) % len(FLEET)] if style == 1 else colour
    panes: list[Patch] = [("sides", 0.02, 0.98, 0.42, 0.82, GLASS)]
    panes += [("sides", k / 7, k / 7 + 0.012, 0.42, 0.82, colour) for k in range(1, 7)]
    ends: list[Patch] = [
        ("front", 0.05, 0.95, 0.32, 0.8, GLASS), ("front", 0.18, 0.82, 0.84, 0.95, (250, 168, 40)),
        ("front", 0.04, 0.18, 0.06, 0.15, LAMP), ("front", 0.82, 0.96, 0.06, 0.15, LAMP),
        ("front", 0.4, 0.6, 0.03, 0.09, PLATE), ("rear", 0.12, 0.88, 0.5, 0.82, GLASS),
        ("rear", 0.02, 0.12, 0.1, 0.32, TAIL), ("rear", 0.88, 0.98, 0.1, 0.32, TAIL),
        ("rear", 0.2, 0.8, 0.1, 0.36, DARK), ("sides", 0, 1, 0.0, 0.14, band),
        ("rear", 0.4, 0.6, 0.86, 0.95, (250, 168, 40)),
    ]  # fmt: skip
    roof = (226, 228, 228) if style != 2 else colour
    b.block(
        1.27, (-half, half), (0.32, top), colour, roof=roof, patches=[*panes, *ends], wheels=(-half * 0.55, half * 0.6)
    )
    b.block(0.75, (-half * 0.5, -half * 0.1), (top, top + 0.22), (196, 198, 200), layer=2)
    b.block(0.6, (half * 0.3, half * 0.5), (top, top + 0.14), (180, 182, 184), layer=2)
    return b.done(_lamps(1.05, half, -half, 0.75))


def _bike(style: int, paint: int) -> Shape:
    b, jacket, frame = _Builder(), JACKETS[paint % len(JACKETS)], PAINTS[(paint * 3 + 6) % len(PAINTS)]
    trousers = ((44, 50, 74), (60, 58, 56), (110, 102, 88))[paint % 3]
    skin = ((224, 182, 150), (150, 104, 76))[paint % 2]
    helmet = ((240, 240, 240), (40, 40, 44), (200, 40, 40), (60, 46, 36))[paint % 4]
    wide = (0.05, 0.17, 0.15)[style]  # bicycle, scooter, motor cycle
    for at in (-0.62, 0.62):
        b.block(0.05 if style == 0 else 0.08, (at - 0.31, at + 0.31), (0, 0.6), RUBBER, layer=0)
    b.block(wide, (-0.75, 0.6), (0.35, 0.78), frame, patches=[("rear", 0.2, 0.8, 0.5, 0.9, TAIL)], taper=(0, 0.1, 0.2))
    b.block(0.32, (0.38, 0.46), (0.95, 1.02), DARK, layer=2)
    if style:
        b.block(0.2, (0.4, 0.62), (0.55, 1.0), frame, patches=[("front", 0.25, 0.75, 0.5, 0.9, LAMP)], layer=1)
    b.block(0.2, (-0.25, 0.22), (0.4, 0.9), trousers, layer=2)
    if style == 1 and paint % 2:  # somebody's dinner
        b.block(0.26, (-0.85, -0.36), (0.85, 1.35), ((30, 150, 160), (246, 190, 30), (234, 96, 24))[paint % 3], layer=3)
    b.block(0.25, (-0.28, 0.1), (0.88, 1.42), jacket, layer=4, taper=(0.05, 0.05, 0.0))
    b.block(0.07, (0.02, 0.42), (1.02, 1.16), jacket, layer=4, middle=0.26)
    b.block(0.07, (0.02, 0.42), (1.02, 1.16), jacket, layer=4, middle=-0.26)
    b.block(
        0.12,
        (-0.14, 0.1),
        (1.42, 1.68),
        helmet,
        layer=5,
        patches=[("front", 0.1, 0.9, 0, 0.6, skin)],
        taper=(0.03, 0.03, 0.03),
    )
    return b.done([(0.0, 0.7, 0.8), (0.0, -0.8, 0.6)])
