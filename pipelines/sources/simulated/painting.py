"""How the simulated cameras see: a road in perspective, vehicles painted from far to near, and the light of the hour.

Vehicles are blocks in metres, projected. A box is what can be seen of a vehicle, read off a second picture that holds
nothing but outlines, so that occlusion is in it.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from pipelines.sources.simulated.ground import Array
from pipelines.sources.simulated.vehicles import LENGTH, Shape, shape

WIDTH, HEIGHT = 160, 120
FINE = 2
"""Painted so many times finer, then reduced."""
MARGIN = 6
"""Pixels of background beyond the frame: cameras sway."""
LANE = 3.4
JAMMED = 0.125
"""Vehicles a metre of lane at most."""
SEEN = 0.3
"""A vehicle of which less can be seen is not annotated, …"""
LEAST = 4.0
"""… nor one that is fewer pixels wide or high."""


@dataclass(frozen=True)
class Vehicle:
    """One on the road: its middle in metres (east of the road's axis, ahead of the camera's foot), and which way."""

    label: str
    style: int
    paint: int
    x: float
    y: float
    ahead: bool
    """It drives the way the camera looks, and shows its rear."""
    turn: float


@dataclass(frozen=True)
class Sky:
    """The light at a moment: sun 0..1, rain mm/h, fog 0..1, local hour, and whether lamps are lit 0..1."""

    sun: float
    rain: float
    fog: float
    hour: float
    lamps: float


@dataclass(frozen=True)
class Box:
    """What can be seen of `vehicle`, pixels of the frame; `seen`: share of its outline within the frame or not."""

    vehicle: Vehicle
    x: float
    y: float
    width: float
    height: float
    seen: float


@dataclass(frozen=True)
class View:
    """The part of the frame that is painted, and how large."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    width: int = WIDTH
    height: int = HEIGHT


class Lens(NamedTuple):
    """What a camera adds of its own: a colour cast [3], and how soft it draws, in pixels."""

    cast: Array
    soft: float


class Pose:
    """A camera in one of its poses, and what it sees when the road is empty."""

    def __init__(self, r: np.random.Generator, world: np.random.Generator, lanes: tuple[int, int], green: bool) -> None:
        """`r` draws how the camera is turned; `world`, the same for all its poses, where it hangs and what is there."""
        self.lanes, self.world = lanes, world
        self.median = 0.2 if max(lanes) < 2 else 1.4
        self.high = float(world.uniform(7.4, 10))
        self.focal = float(r.uniform(136, 176))
        own = 1 if lanes[1] else -1
        middle = own * (self.median + lanes[own > 0] * LANE / 2)
        edge = own * (self.median + lanes[own > 0] * LANE)
        self.foot = float(
            (middle, edge + own * 2.5, -own * world.uniform(0, 2), middle / 2)[world.integers(4)] + world.normal(0, 0.5)
        )
        tilt = np.radians(r.uniform(24, 29))
        self.yaw = float(np.arctan2(middle + r.normal(0, 1.6) - self.foot, r.uniform(19, 26)))
        s, c, sp, cp = np.sin(self.yaw), np.cos(self.yaw), np.sin(tilt), np.cos(tilt)
        self.axes = np.array([[c, -s, 0], [-s * sp, -c * sp, -cp], [s * cp, c * cp, -sp]])  # right, down, ahead
        self.green = green
        self.pole = float(r.uniform(0.15, 0.85)) * WIDTH if world.random() < 0.35 else None
        self.leaves = r.uniform(0, 1, (14, 3)) if world.random() < 0.4 else None
        self.at_left = bool(r.random() < 0.5)

    def project(self, points: Array) -> tuple[Array, Array, Array]:
        """World metres [..., 3] to pixels across and down, and metres ahead."""
        away = points - np.array([self.foot, 0.0, self.high])
        right, down, ahead = np.moveaxis(away @ self.axes.T, -1, 0)
        ahead = np.maximum(ahead, 0.3)
        return WIDTH / 2 + self.focal * right / ahead, HEIGHT / 2 + self.focal * down / ahead, ahead

    def lane(self, ahead: bool, k: int) -> float:
        """Where lane `k`, from the middle, runs: metres east."""
        return (1 if ahead else -1) * (self.median + (k + 0.5) * LANE)

    @lru_cache(maxsize=256)  # noqa: B019 - a pose lives as long as its feed
    def stretch(self, ahead: bool, k: int) -> tuple[float, float]:
        """From where to where a lane is in view, metres; (0, 0) where it is not."""
        y = np.arange(2.0, 90, 0.25)
        u, v, _ = self.project(np.stack([np.full_like(y, self.lane(ahead, k)), y, np.full_like(y, 0.7)], axis=1))
        inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
        return (float(y[inside][0]), float(y[inside][-1])) if inside.any() else (0.0, 0.0)

    @cached_property
    def ground(self) -> tuple[Array, Array, Array]:
        """Of each pixel, margin included: metres east, ahead along the road, and away from the camera."""
        v, u = np.mgrid[-MARGIN : HEIGHT + MARGIN, -MARGIN : WIDTH + MARGIN] + 0.5
        rays = np.stack([(u - WIDTH / 2) / self.focal, (v - HEIGHT / 2) / self.focal, np.ones_like(u)], -1) @ self.axes
        far = self.high / np.maximum(-rays[..., 2], 0.03)
        return self.foot + far * rays[..., 0], far * rays[..., 1], far

    @cached_property
    def lamplight(self) -> Array:
        """Light of the street lamps on the ground, 0..1, as pixels with margin."""
        x, y, _ = self.ground
        edge = self.median + max(self.lanes) * LANE + 1
        light = np.zeros_like(x)
        for at in range(4, 130, 26):
            for side in (-1, 1):
                light += np.exp(-0.5 * (((x - side * (edge - 2)) / 6) ** 2 + ((y - at - 6 * (side > 0)) / 8) ** 2))
        return np.minimum(light, 1.2).astype(np.float32)

    @cached_property
    def background(self) -> Any:
        """The empty road by even daylight, a picture FINE times finer than the frame, with margin."""
        from PIL import Image, ImageDraw

        r, size = self.world, ((WIDTH + 2 * MARGIN) * FINE, (HEIGHT + 2 * MARGIN) * FINE)
        verge = (92, 112, 66) if self.green else (150, 146, 138)
        image = Image.new("RGB", size, verge)
        draw = ImageDraw.Draw(image)

        def flat(x0: float, x1: float, y0: float, y1: float, colour: Any, z: float = 0.0) -> None:
            at = np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])
            draw.polygon(self._fine(at), fill=tuple(int(v) for v in colour))

        left = self.median + self.lanes[0] * LANE
        right = self.median + self.lanes[1] * LANE
        tar = np.array((96, 96, 98)) + r.integers(-14, 14)
        if r.random() < 0.6:  # a pavement
            flat(-left - 4, -left, 0, 160, (164, 158, 150))
            flat(right, right + 4, 0, 160, (164, 158, 150))
        flat(-left - 0.5, right + 0.5, 0, 160, tar)
        if self.median > 1:
            flat(-self.median + 0.3, self.median - 0.3, 0, 160, (100, 118, 74) if self.green else (150, 150, 146))
        white = (222, 222, 216)
        for side, count in ((-1, self.lanes[0]), (1, self.lanes[1])):
            if not count:
                continue
            for edge in (self.median, self.median + count * LANE):
                flat(side * edge - 0.08, side * edge + 0.08, 0, 160, white)
            for k in range(1, count):
                x = side * (self.median + k * LANE)
                for y in range(0, 150, 9):
                    flat(x - 0.07, x + 0.07, y + 1, y + 4, white)
        for _ in range(int(r.integers(0, 4))):  # where the tar was mended
            east, ahead = r.uniform(-left, right - 2), r.uniform(6, 40)
            flat(east, min(east + r.uniform(1, 3), right), ahead, ahead + r.uniform(2, 12), tar - r.integers(6, 22))
        if r.random() < 0.4:
            ahead = r.uniform(14, 30)
            for east in np.arange(-left + 0.3, right - 0.4, 0.95):
                flat(east, east + 0.5, ahead, ahead + 3, white)
        self._sides(draw, r, left, right)
        grain = 1 + 0.05 * r.standard_normal((size[1], size[0], 1)) + 0.04 * np.repeat(
            np.repeat(r.standard_normal((size[1] // 8 + 1, size[0] // 8 + 1, 1)), 8, 0), 8, 1
        )[: size[1], : size[0]]  # fmt: skip
        return Image.fromarray(np.clip(np.asarray(image) * grain, 0, 255).astype(np.uint8))

    def _fine(self, points: Array) -> list[tuple[float, float]]:
        u, v, _ = self.project(points)
        return list(zip(((u + MARGIN) * FINE).tolist(), ((v + MARGIN) * FINE).tolist(), strict=True))

    def _sides(self, draw: Any, r: np.random.Generator, left: float, right: float) -> None:
        """Houses and trees beside the road, from far to near."""
        things = sorted(
            ((float(y), int(side)) for side in (-1, 1) for y in np.arange(8, 110, r.uniform(6, 11))), reverse=True
        )
        for y, side in things:
            edge = side * ((right if side > 0 else left) + r.uniform(5, 8))
            if r.random() < (0.25 if self.green else 0.65):
                colour = np.array(((168, 112, 92), (196, 186, 168), (142, 138, 134), (120, 128, 140))[r.integers(4)])
                deep, high = r.uniform(5, 9), r.uniform(4, 12)
                wall = np.array([(edge, y, 0), (edge, y + deep, 0), (edge, y + deep, high), (edge, y, high)])
                face = np.array([(edge, y, 0), (edge + side * 9, y, 0), (edge + side * 9, y, high), (edge, y, high)])
                draw.polygon(self._fine(wall), fill=tuple(colour))
                draw.polygon(self._fine(face), fill=tuple((colour * 0.8).astype(int)))
                for floor in np.arange(1.2, high - 1.5, 3):
                    for k in np.arange(0.8, deep - 1.2, 2.4):
                        pane = [(edge, y + k, floor), (edge, y + k + 1.2, floor), (edge, y + k + 1.2, floor + 1.4)]
                        draw.polygon(self._fine(np.array([*pane, (edge, y + k, floor + 1.4)])), fill=(58, 66, 76))
            else:
                green = np.array(((54, 84, 44), (72, 100, 50), (88, 92, 48))[r.integers(3)])
                trunk = np.array([(edge - 0.2, y, 0), (edge + 0.2, y, 0), (edge + 0.2, y, 3), (edge - 0.2, y, 3)])
                draw.polygon(self._fine(trunk), fill=(82, 66, 50))
                for _ in range(9):
                    at = np.array([(edge, y, 4.0)]) + r.normal(0, (1.0, 0.8, 1.0), 3)
                    (px, py), size = self._fine(at)[0], self.focal * FINE * r.uniform(0.6, 1.2) / self.project(at)[2][0]
                    tint = tuple(int(v) for v in green * r.uniform(0.7, 1.25))
                    draw.ellipse([px - size, py - size, px + size, py + size], fill=tint)


class Painter:
    """Paints one moment of one camera, whole or in part."""

    def __init__(self, lens: Lens, pose: Pose, sky: Sky, found: list[Vehicle], r: np.random.Generator) -> None:
        self.pose, self.sky, self.found, self.r = pose, sky, found, r
        self.cast = lens.cast
        self.sway = self.r.integers(-MARGIN + 1, MARGIN, 2)
        self.gain = float(self.r.normal(1, 0.06))
        self.blur = float(self.r.choice([0.0, 0.8, 1.3], p=[0.86, 0.1, 0.04])) + lens.soft
        self.shake = int(self.r.choice([0, 2, 3], p=[0.94, 0.04, 0.02]))
        self.noise = float(self.r.uniform(1.5, 3.5)) + 5.0 * self.sky.lamps
        light = np.array([np.sin((sky.hour - 13) / 6 * 1.3), -0.45, 0.85])
        self.sun = light / np.linalg.norm(light)
        self.things = [self._thing(v) for v in self.found]

    def _thing(self, v: Vehicle) -> dict[str, Any]:
        """The quads of a vehicle that face the camera, in the order of painting, and its outline."""
        form: Shape = shape(v.label, v.style, v.paint)
        c, s = np.cos(v.turn), np.sin(v.turn)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * (
            np.array([1, 1, 1]) if v.ahead else np.array([-1, -1, 1])
        )
        at, eye = np.array([v.x, v.y, 0.0]), np.array([self.pose.foot, 0.0, self.pose.high])
        quads, normals = form.quads @ turn + at, form.normals @ turn
        facing = ((quads[:, 0] - eye) * normals).sum(1) < 0
        distance = np.linalg.norm(form.centres @ turn + at - eye, axis=1)
        order = np.lexsort((np.arange(len(quads)), -distance[form.part], form.layer))
        order = order[facing[order]]
        towards = normals[order]
        lit = np.clip(towards @ self.sun, 0, 1)[:, None]
        sharp = min(self.sky.sun * 1.6, 1.0)
        colours = form.colours[order] * (0.62 + 0.2 * np.maximum(towards[:, 2:], 0) + 0.34 * sharp * lit)
        hull = form.hull @ turn + at
        base = hull * (1, 1, 0)
        if self.sky.sun > 0.25:  # a shadow of the sun; else it is dark just below the vehicle
            base = np.concatenate([base, base - hull[:, 2:] * (self.sun * (1, 1, 0) / self.sun[2])])
        points = (quads[order].reshape(-1, 3), hull, form.lamps @ turn + at, base)
        seen = np.stack(self.pose.project(np.concatenate(points)), 1)
        faces, outline, lamps, shadow = np.split(seen, np.cumsum([len(part) for part in points[:3]]))
        return {
            "quads": faces[:, :2].reshape(-1, 4, 2), "colours": np.minimum(colours, 255).astype(int).tolist(),
            "outline": _hull(outline[:, :2]), "lamps": lamps, "shadow": _hull(shadow[:, :2]),
        }  # fmt: skip

    def boxes(self) -> list[Box]:
        """One for every vehicle of which enough can be seen."""
        from PIL import Image, ImageDraw

        size = (WIDTH * FINE, HEIGHT * FINE)
        seen = Image.new("L", size, 0)
        draw, whole = ImageDraw.Draw(seen), []
        for k, thing in enumerate(self.things[:250], 1):
            outline = (thing["outline"] + self.sway) * FINE
            draw.polygon(outline.ravel().tolist(), fill=k)
            whole.append(_area(outline))
        self._occluders(draw, View(), None)
        ids, out = np.asarray(seen), []
        for k, (vehicle, area) in enumerate(zip(self.found, whole, strict=False), 1):
            low = np.maximum(((self.things[k - 1]["outline"].min(0) + self.sway) * FINE).astype(int) - 1, 0)
            high = ((self.things[k - 1]["outline"].max(0) + self.sway) * FINE).astype(int) + 2
            if (high <= low).any():
                continue
            mine = ids[low[1] : high[1], low[0] : high[0]] == k
            count = int(np.count_nonzero(mine))
            if count < SEEN * area:
                continue
            rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
            x, y = (low[0] + columns[0]) / FINE, (low[1] + rows[0]) / FINE
            width, height = (columns[-1] + 1 - columns[0]) / FINE, (rows[-1] + 1 - rows[0]) / FINE
            if min(width, height) >= LEAST:
                out.append(Box(vehicle, float(x), float(y), float(width), float(height), count / max(area, 1)))
        return out

    def paint(self, view: View) -> Any:
        """The part `view` of the frame, a Pillow picture in RGB."""
        from PIL import Image, ImageDraw

        fine, size = view.scale * FINE, (view.width * FINE, view.height * FINE)
        x0, y0 = MARGIN - self.sway[0] + view.x, MARGIN - self.sway[1] + view.y
        part = (x0, y0, x0 + view.width / view.scale, y0 + view.height / view.scale)
        image = self.pose.background.resize(size, Image.Resampling.BILINEAR, box=tuple(v * FINE for v in part))
        draw = ImageDraw.Draw(image)
        shift = self.sway - np.array([view.x, view.y])
        dark = (52, 52, 56) if self.sky.sun > 0.25 else (66, 66, 69)
        for thing in self.things:
            draw.polygon(((thing["shadow"] + shift) * fine).ravel().tolist(), fill=dark)
        for thing in self.things:
            for quad, colour in zip(
                ((thing["quads"] + shift) * fine).reshape(-1, 8).tolist(), thing["colours"], strict=True
            ):
                draw.polygon(quad, fill=tuple(colour))
        self._occluders(draw, view, (66, 70, 72))
        return self._light(image.reduce(FINE), view, part, shift)

    def _occluders(self, draw: Any, view: View, colour: tuple[int, int, int] | None) -> None:
        """A pole and leaves close to the camera; no `colour`: as part of the outlines, which are no vehicle's."""
        fine = view.scale * FINE

        def at(x: float, y: float) -> tuple[float, float]:
            return (x - view.x) * fine, (y - view.y) * fine

        if self.pose.pole is not None:
            x = self.pose.pole + self.sway[0]
            draw.rectangle([at(x, -9), at(x + 3.5, HEIGHT + 9)], fill=colour or 0)
        if self.pose.leaves is not None:
            for a, b, c in self.pose.leaves.tolist():
                x, y, size = (a * 34 if self.pose.at_left else WIDTH - a * 34), b * 40 * (1 - a), 2 + 4 * c
                x, y = x + float(self.sway[0]), y + float(self.sway[1])
                green = (int(40 + 30 * c), int(64 + 36 * b), 34) if colour else 0
                draw.ellipse([at(x - size, y - size), at(x + size, y + size * 0.8)], fill=green)

    def _light(self, image: Any, view: View, part: tuple[float, float, float, float], shift: Array) -> Any:
        from PIL import Image, ImageFilter

        sky = self.sky
        img: Array = np.asarray(image, np.float32)
        size = (view.width, view.height)
        bright = 0.10 + 0.98 * min(sky.sun / 0.35, 1.0) ** 0.55
        dusk = np.exp(-((sky.sun - 0.08) ** 2) / 0.004) if sky.sun > 0 else 0.0
        tint = np.array([1 + 0.10 * dusk, 1.0, 1 - 0.10 * dusk + 0.14 * sky.lamps]) * self.cast
        light: Any = (bright * self.gain * tint).astype(np.float32)
        if sky.rain > 0:
            img = img * (1 - 0.16 * min(sky.rain, 2) / 2)
        if sky.lamps > 0:
            ground = Image.fromarray(self.pose.lamplight).resize(size, Image.Resampling.BILINEAR, box=part)
            glow, pools = self._lit(view, shift)
            light = light + (0.5 * sky.lamps * np.asarray(ground))[..., None] * np.array([1, 0.86, 0.6], np.float32)
            light = light + (0.75 * sky.lamps * pools)[..., None]
            img = img * light + glow * sky.lamps
        else:
            img = img * light
        if sky.fog > 0.05:
            far = Image.fromarray(self.pose.ground[2].astype(np.float32)).resize(
                size, Image.Resampling.BILINEAR, box=part
            )
            veil = (1 - np.exp(-np.asarray(far) * sky.fog / 45))[..., None] * 0.9
            img = img * (1 - veil) + veil * (40 + 165 * bright)
        if sky.rain > 0.15:
            img = self._rain(img, view)
        if self.shake:
            img = (img + np.roll(img, self.shake, 1) + np.roll(img, 2 * self.shake, 1)) / 3
        tile = _grain()
        a, b = self.r.integers(0, 256 - 130, 2)
        big = tile[a : a + view.height, b : b + view.width] if view.height <= 130 else np.resize(tile, img.shape)
        img = img + self.noise * big
        out = Image.fromarray(np.clip(img, 0, 255).astype(np.uint8))
        blur = (self.blur + (0.5 if sky.rain > 1.2 else 0.0)) * view.scale**0.5
        return out.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.2 else out

    def _lit(self, view: View, shift: Array) -> tuple[Array, Array]:
        """Lamps of vehicles [h, w, 3], and the road before them that they light [h, w]."""
        from PIL import Image, ImageDraw, ImageFilter

        size, scale = (view.width // 2, view.height // 2), view.scale / 2  # it is soft, so half as fine will do
        glow, pools = Image.new("RGB", size), Image.new("L", size)
        draw, pool = ImageDraw.Draw(glow), ImageDraw.Draw(pools)
        for vehicle, thing in zip(self.found, self.things, strict=True):
            lamps, half = thing["lamps"], len(thing["lamps"]) // 2
            faced = lamps[half:] if vehicle.ahead else lamps[:half]
            for x, y, far in faced.tolist():
                x, y = (x + shift[0]) * scale, (y + shift[1]) * scale
                size = (0.2 if vehicle.ahead else 0.34) * self.pose.focal / far * scale
                colour = (235, 30, 22) if vehicle.ahead else (255, 250, 225)
                draw.ellipse([x - size, y - size, x + size, y + size], fill=colour)
                if self.sky.rain > 0.15:
                    draw.rectangle(
                        [x - size * 0.5, y, x + size * 0.5, y + size * 7], fill=tuple(v // 3 for v in colour)
                    )
            reach = 9.0 if vehicle.ahead else -9.0
            nose = LENGTH[vehicle.label] / 2 * np.sign(reach)
            y0, y1 = vehicle.y + nose, vehicle.y + nose + reach
            ground = [
                (vehicle.x - 0.8, y0, 0),
                (vehicle.x + 0.8, y0, 0),
                (vehicle.x + 2, y1, 0),
                (vehicle.x - 2, y1, 0),
            ]
            u, w, _ = self.pose.project(np.array(ground, float))
            pool.polygon(((np.stack([u, w], 1) + shift) * scale).ravel().tolist(), fill=170)
        whole = (view.width, view.height)
        spread = glow.filter(ImageFilter.BoxBlur(0.7 * scale * 2)).resize(whole, Image.Resampling.BILINEAR)
        wide = pools.filter(ImageFilter.BoxBlur(1.5 * scale * 2)).resize(whole, Image.Resampling.BILINEAR)
        return 1.25 * np.asarray(spread, np.float32), np.asarray(wide, np.float32) / 255

    def _rain(self, img: Array, view: View) -> Array:
        from PIL import Image, ImageDraw

        streaks = Image.new("L", (view.width, view.height))
        draw, count = ImageDraw.Draw(streaks), int(30 + 50 * min(self.sky.rain, 3))
        at = self.r.uniform(-0.1, 1, (count, 3)) * (view.width, view.height, 1)
        slant = float(self.r.normal(0, 2)) * view.scale
        for x, y, c in at.tolist():
            draw.line(
                [x, y, x + slant, y + (4 + 7 * c) * view.scale],
                fill=int(60 + 60 * abs(c)),
                width=max(1, round(view.scale / 2)),
            )
        bright = 0.25 + 0.75 * (1 - self.sky.lamps)
        return img * 0.93 + np.asarray(streaks, np.float32)[..., None] * (0.55 * bright) + 10 * bright


_ROUND = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)])


@lru_cache(maxsize=1)
def _grain() -> Array:
    """Noise of a sensor, its colours partly alike, [256, 320, 3]."""
    r = np.random.default_rng(0)
    each, shared = r.standard_normal((256, 320, 3)), r.standard_normal((256, 320, 1))
    return (0.6 * each + 0.8 * shared).astype(np.float32)


def _hull(points: Array) -> Array:
    """The convex hull of [n, 2], in order around it, as its furthest points in 32 directions."""
    most = np.argmax(points @ _ROUND, axis=0)
    return points[most[np.diff(most, prepend=most[-1]) != 0]] if (most != most[0]).any() else points[most[:1]]


def _area(outline: Array) -> float:
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
