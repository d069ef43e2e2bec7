"""Cameras over the simulated roads: what stands in view follows the traffic, the hour and the weather.

A frame is a function of (seed, camera, second), so no window changes what another one shows.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from pipelines.core.params import City
from pipelines.sources.simulated.ground import Array, Sites, local, rng
from pipelines.sources.simulated.painting import JAMMED, Box, Lens, Painter, Pose, Sky, Vehicle, View
from pipelines.sources.simulated.traffic import Traffic
from pipelines.sources.simulated.vehicles import CLASSES, LENGTH, PAINTED, STYLES
from pipelines.sources.simulated.weather import weather


class Camera:
    """A camera by detector `site` and what stands across the road, which may be none (-1)."""

    def __init__(self, seed: int, site: int, opposite: int, traffic: Traffic) -> None:
        self.seed, self.site, self.opposite = seed, site, opposite
        self.name = traffic.sites.names[site].replace("det", "cam")
        r = rng(seed, "camera", site)
        self.ahead = bool(r.random() < 0.5)
        many = [max(1, round(float(traffic.capacity[s]) / 1600)) if s >= 0 else 0 for s in (site, opposite)]
        lanes = (many[1], many[0]) if self.ahead else (many[0], many[1])
        self.lanes = lanes
        self.green = bool(np.hypot(traffic.sites.x[site], traffic.sites.y[site]) > 3)
        self._turned = lru_cache(maxsize=2)(self._turn)  # a pose holds its background
        self.lens = Lens(r.normal(1, 0.03, 3), float(r.choice([0.0, 0.0, 0.45])))
        self.quality = int(r.integers(68, 90))
        self.located = bool(r.random() < 0.3)
        """It writes its place into the picture's EXIF."""

    def pose(self, second: int) -> Pose:
        """How it is turned: operators do so every night."""
        return self._turned(second // 86400)

    def _turn(self, day: int) -> Pose:
        turned, world = rng(self.seed, "pose", self.site, day), rng(self.seed, "roadside", self.site)
        return Pose(turned, world, self.lanes, self.green)


class Scenes:
    """`n` cameras over the roads of the city. A camera is named after the detector it stands by: cam012, det012."""

    def __init__(self, city: City, n: int | None = None) -> None:
        self.city, self.seed = city, city.seed
        self.traffic = Traffic(city)
        # where traffic is heavy and gives way: that is where a city hangs cameras
        weak = np.isin(np.arange(self.traffic.n), [site for site, _ in self.traffic.bottlenecks])
        worth = rng(self.seed, "cameras").gumbel(0, 0.5, self.traffic.n) + 1.2 * weak + self.traffic.capacity / 1600
        order = np.argsort(-worth)
        self.cameras = [
            Camera(self.seed, int(site), int(site ^ 1) if site ^ 1 < self.traffic.n else -1, self.traffic)
            for site in sorted(order[: n or 4].tolist())
        ]

    @property
    def sites(self) -> Sites:
        """Where the cameras stand."""
        at, roads = [c.site for c in self.cameras], self.traffic.sites
        return Sites(tuple(c.name for c in self.cameras), roads.x[at], roads.y[at])

    @lru_cache(maxsize=4)  # noqa: B019 - as above
    def _roads(self, day: int) -> dict[str, Array]:
        return self.traffic.day(day)

    @lru_cache(maxsize=4)  # noqa: B019 - as above
    def _clock(self, day: int) -> Array:
        return local(self.city, day, 300)[0]

    def density(self, site: int, second: int) -> float:
        """Vehicles a metre of road of detector `site`: its flow over its speed, and no more than fit."""
        if site < 0:
            return 0.0
        roads, step = self._roads(second // 86400), second % 86400 // 300
        speed, flow = float(roads["speed"][step, site]), float(roads["flow"][step, site])
        if not flow or not np.isfinite(speed):
            return 0.0
        lanes = max(1, round(float(self.traffic.capacity[site]) / 1600))
        return min(flow / speed / 1000, JAMMED * lanes)

    def expected(self, camera: Camera, second: int) -> float:
        """Vehicles to be expected in view: density × the metres of each lane in view, over both directions."""
        pose, total = camera.pose(second), 0.0
        for ahead, site in ((camera.ahead, camera.site), (not camera.ahead, camera.opposite)):
            lanes = pose.lanes[ahead]
            for k in range(lanes):
                near, far = pose.stretch(ahead, k)
                total += self.density(site, second) / lanes * (far - near)
        return total

    def sky(self, second: int) -> Sky:
        day, at = second // 86400, second % 86400 / 3600
        now, then = weather(self.seed, day), weather(self.seed, day + 1)
        hour, part = int(at), at - int(at)

        def between(a: Array, b: Array) -> float:
            following = float(b[0]) if hour == 23 else float(a[hour + 1])
            return float(a[hour]) * (1 - part) + following * part

        sun, humidity = between(now.sun, then.sun), between(now.humidity, then.humidity)
        fog = max(0.0, (humidity - 92) / 8) * max(0.0, 1 - between(now.wind, then.wind) / 4)
        lamps = float(np.clip(1 - sun / 0.12, 0, 1))
        return Sky(sun, float(now.rain[hour]), fog, float(self._clock(day)[int(at * 12)]), lamps)

    def vehicles(self, camera: Camera, second: int) -> list[Vehicle]:
        """What is on the road in view and just beyond, nearest last."""
        pose, r, sky = camera.pose(second), rng(self.seed, "scene", camera.site, second), self.sky(second)
        found: list[Vehicle] = []
        for ahead, site in ((camera.ahead, camera.site), (not camera.ahead, camera.opposite)):
            lanes = pose.lanes[ahead]
            dense = self.density(site, second) / max(lanes, 1)
            for k in range(lanes):
                near, far = pose.stretch(ahead, k)
                if far:
                    outer = k == lanes - 1
                    found += _lane(r, pose.lane(ahead, k), ahead, (near - 3, far + 4), dense, outer, sky.rain)
        return sorted(found, key=lambda v: -np.hypot(v.x - pose.foot, v.y))

    def frame(self, camera: Camera, second: int) -> tuple[Any, list[Box]]:
        """The picture [HEIGHT, WIDTH] (Pillow, RGB) and a box for every vehicle that one would annotate."""
        painter = self.painter(camera, second)
        return painter.paint(View()), painter.boxes()

    def painter(self, camera: Camera, second: int) -> Painter:
        r = rng(self.seed, "light", camera.site, second)
        return Painter(camera.lens, camera.pose(second), self.sky(second), self.vehicles(camera, second), r)


def _lane(
    r: np.random.Generator, x: float, ahead: bool, span: tuple[float, float], dense: float, outer: bool, rain: float
) -> list[Vehicle]:
    """Vehicles of one lane, strewn over `span` with room between them."""
    count = int(r.poisson(dense * (span[1] - span[0])))
    if not count:
        return []
    chance = np.array([0.62, 0.16 if outer else 0.08, 0.09 if outer else 0.03, 0.16 * (0.4 if rain > 0.3 else 1)])
    room = span[1] - span[0]
    labels = [CLASSES[i] for i in r.choice(4, count, p=chance / chance.sum())]
    lengths = [LENGTH[label] + 1.8 for label in labels]
    while sum(lengths) > room + 4:
        lengths.pop()
        labels.pop()
    gaps = np.sort(r.uniform(0, max(room - sum(lengths), 0.0), len(labels)))
    out, at = [], span[0]
    for label, length, gap in zip(labels, lengths, gaps.tolist(), strict=True):
        y = at + gap + length / 2
        at += length
        aside = r.normal(0, 0.25)
        if label == "bike":
            aside = (1 if ahead else -1) * r.uniform(0.3, 1.3)
        style, paint = int(r.integers(STYLES[label])), int(r.integers(PAINTED))
        out.append(Vehicle(label, style, paint, x + float(aside), y, ahead, float(r.normal(0, 0.03))))
    return out
