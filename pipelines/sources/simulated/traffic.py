"""Roads: three radials and a ring, both ways. Jams form at bottlenecks and incidents and run upstream as waves."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipelines.core.params import City
from pipelines.sources.simulated.ground import Array, Sites, bump, envelope, interpolate, local, red, rng
from pipelines.sources.simulated.weather import weather

STEPS = 288
TRICKLE = 0.02
"""Of the demand, what still flows where a road is closed: to those who live there."""
THROUGH = 0.4
"""Of the demand one detector away along the same road, what would have come through; two away: the square of it."""


@dataclass(frozen=True)
class Jam:
    """What slows traffic at `site` from `start` for `minutes` (minutes of the UTC day) and backs up upstream."""

    site: int
    start: float
    minutes: float
    depth: float
    wave: float
    """km/h at which the queue's tail runs upstream"""


@lru_cache(maxsize=4)
def roads(n: int) -> Sites:
    """`n` detectors dealt evenly over the lines; an edge leads from a detector to the next one downstream. For the
    ring, in and out are the two ways around."""
    lines: list[list[int]] = [list(range(k, n, 8)) for k in range(8)]
    x, y = np.zeros(n), np.zeros(n)
    for k, members in enumerate(lines):
        for j, i in enumerate(members):
            side = 0.03 if k % 2 else -0.03
            if k < 6:
                angle, far = 0.5 + (k // 2) * 2 * np.pi / 3 + side / 3, 2.6 + 1.7 * j
            else:
                angle, far = 2 * np.pi * j / len(members) + 0.3 * (k % 2), 2.1 + side
            x[i], y[i] = far * np.sin(angle), far * np.cos(angle)
    links: list[tuple[int, int]] = []
    for k, members in enumerate(lines):
        inward = k < 6 and k % 2 == 0
        chain = members[::-1] if inward or k == 7 else members
        links += list(itertools.pairwise(chain))
        if k >= 6 and len(chain) > 2:
            links.append((chain[-1], chain[0]))
    for k in range(6):
        for ring in lines[6:]:
            if lines[k] and ring:
                near = min(ring, key=lambda i: float(np.hypot(x[i] - x[lines[k][0]], y[i] - y[lines[k][0]])))
                links.append((lines[k][0], near) if k % 2 == 0 else (near, lines[k][0]))
    edges = tuple((a, b, max(0.3, float(np.hypot(x[a] - x[b], y[a] - y[b])))) for a, b in links)
    return Sites(tuple(f"det{i + 1:0{max(3, len(str(n)))}d}" for i in range(n)), x, y, edges)


class Traffic:
    """Loop detectors, every 5 minutes: speed (km/h) and flow (veh/h). There is no way through at those in `closed`."""

    step_s = 300
    units = {"speed": ("km/h", 1), "flow": ("veh/h", 0)}  # noqa: RUF012 - a constant of the protocol

    def __init__(self, city: City, n: int | None = None, closed: frozenset[str] = frozenset()) -> None:
        self.city, self.seed, self.sites = city, city.seed, roads(n or 40)
        self.n = len(self.sites.names)
        r = rng(self.seed, "road", self.n)
        line = np.arange(self.n) % 8
        self.way = np.where(line >= 6, 2, line % 2)  # 0 towards the centre, 1 away from it, 2 around
        self.capacity = r.choice([1500.0, 3200.0, 4800.0], self.n, p=[0.35, 0.45, 0.2])
        self.use = r.uniform(0.68, 0.88, self.n)
        self.free = np.where(self.capacity < 2000, r.uniform(50, 66, self.n), r.uniform(78, 104, self.n))
        weak = r.permutation(self.n)[: max(1, round(0.22 * self.n))]
        self.bottlenecks = [(int(i), float(r.uniform(0.45, 0.8))) for i in weak]
        self.upstream: list[list[tuple[int, float]]] = [[] for _ in range(self.n)]
        for a, b, km in self.sites.edges:
            self.upstream[b].append((a, km))
        self.downstream: list[list[int]] = [[b for a, b, _ in self.sites.edges if a == i] for i in range(self.n)]
        self.closed = frozenset(i for i, name in enumerate(self.sites.names) if name in closed)
        self.ways = self._ways()

    def _ways(self) -> Array:
        """Whose demand at a detector (row) comes by where (column) once roads are closed, shares [n, n]. Those whose
        way is closed take other roads in their direction, near and wide ones first; nobody stays at home."""
        ways, line, place = np.eye(self.n), np.arange(self.n) % 8, np.arange(self.n) // 8
        for i in range(self.n):
            lost = 1 - TRICKLE if i in self.closed else 0.0
            for c in self.closed - {i}:
                if line[c] == line[i]:
                    lost = max(lost, THROUGH ** abs(int(place[c] - place[i])))
            direction = np.where(self.way == self.way[i], 1.0, np.where((self.way == 2) | (self.way[i] == 2), 0.4, 0.0))
            away = self.sites.distance(self.sites.x[i], self.sites.y[i])
            pull = direction * self.capacity * np.exp(-away / 2) * (line != line[i])
            pull[list(self.closed)] = 0
            if lost and pull.sum():
                ways[i] = lost * pull / pull.sum()
                ways[i, i] = 1 - lost
        return ways

    @lru_cache(maxsize=8)  # noqa: B019 - a department lives as long as its feed
    def demand(self, day: int) -> Array:
        """What would flow if no jam stood in the way, veh/h, [288, n]."""
        usual = self._usual(day)
        # a sum, not a matrix product: the same on every machine and for any number of threads
        return (usual[:, :, None] * self.ways[None]).sum(1) if self.closed else usual

    @lru_cache(maxsize=8)  # noqa: B019 - a department lives as long as its feed
    def _usual(self, day: int) -> Array:
        """The demand while all roads are open."""
        hour, weekday = local(self.city, day, self.step_s)
        lunch, night = 0.48 * bump(hour, 13, 3.2), 0.012 + 0.05 * bump(hour, 22, 2.0)
        evening = np.where(weekday == 4, 16.6, 17.3)
        am, pm = bump(hour, 8.0, 1.05), np.exp(-0.5 * ((hour - evening) / 1.45) ** 2)
        work = np.stack([am + 0.45 * pm, 0.42 * am + pm, 0.72 * am + 0.76 * pm], axis=1) + (lunch + night)[:, None]
        rest = 0.62 * bump(hour, 14.8, 3.4) + 0.16 * bump(hour, 21.5, 2.2) + 0.03 * bump(hour, 1.5, 2.0) + 0.012
        rest = rest * np.where(weekday == 6, 0.82, 1.0)
        shape = np.where((weekday >= 5)[:, None], rest[:, None], work)[:, self.way]
        whole = np.exp(0.06 * red(self.seed, "mood", day, STEPS, 1, 900))
        area = np.exp(0.10 * red(self.seed, "bustle", day, STEPS, 5, 30))[:, self.sites.district]
        rain = interpolate([weather(self.seed, day).rain, weather(self.seed, day + 1).rain], STEPS)
        wet = 1 - 0.06 * np.minimum(rain, 3)[:, None] / 3
        return shape * self.use * self.capacity * whole * area * wet * (1 + self._surges(day))

    def _surges(self, day: int) -> Array:
        """A match or a concert: demand near one place swells over most of an hour and ebbs, share [288, n]."""
        minutes, total = np.arange(STEPS) * 5.0, np.zeros((STEPS, self.n))
        for began in (day - 1, day):
            r = rng(self.seed, "surge", began)
            for _ in range(r.poisson(0.45)):
                x, y = r.uniform(-6, 6, 2)
                at, width, height = r.uniform(10, 22.5) * 60, r.uniform(25, 50), r.uniform(0.5, 1.3)
                near = np.exp(-0.5 * (self.sites.distance(x, y) / 1.8) ** 2)
                away = minutes - at - (began - day) * 1440
                total += height * np.exp(-0.5 * (away / width) ** 2)[:, None] * near
        return total

    def day(self, day: int) -> dict[str, Array]:
        demand = self.demand(day)
        slow, cut = self._jams(day)
        rain = interpolate([weather(self.seed, day).rain, weather(self.seed, day + 1).rain], STEPS)[:, None]
        r = rng(self.seed, "road noise", day)
        load = np.minimum(demand / self.capacity, 1.15)
        passed = np.minimum(demand * (1 - cut), self.capacity * (1 - 0.45 * slow))
        flow = 12.0 * r.poisson(np.maximum(passed, 0) / 12)
        drift = red(self.seed, "road pace", day, STEPS, self.n, 8)
        jitter = r.standard_normal((STEPS, self.n)) / np.sqrt(1 + flow / 120)
        free = self.free * (1 - 0.13 * load**3) * (1 - 0.05 * np.minimum(rain, 4) / 2)
        speed = free * (1 - 0.84 * slow) * np.exp((0.022 + 0.10 * slow) * drift + 0.05 * jitter)
        speed = np.where(flow == 0, self.free, np.clip(speed, 3, 145))
        return self._closures(day, speed, flow)

    def _jams(self, day: int) -> tuple[Array, Array]:
        """How much traffic is slowed and how much flow is lost, shares [288, n]."""
        minutes = np.arange(STEPS) * 5.0
        clear, kept = np.ones((STEPS, self.n)), np.ones((STEPS, self.n))
        for began in (day - 1, day):
            for jam in self._begun(began):
                t = minutes - (began - day) * 1440
                if jam.start + jam.minutes + 400 < t[0]:
                    continue
                for i, hops, late in self._reach(jam.site, jam.wave):
                    depth = jam.depth * 0.9**hops
                    # the tail dissolves from the front: farther upstream the queue comes later and goes a bit later
                    clear[:, i] *= 1 - depth * envelope(
                        t, jam.start + late, jam.start + jam.minutes + 0.55 * late, 12, 14
                    )
                for i in self.downstream[jam.site]:
                    kept[:, i] *= 1 - 0.4 * jam.depth * envelope(t, jam.start + 5, jam.start + jam.minutes, 10, 15)
        return 1 - clear, 1 - kept

    @lru_cache(maxsize=8)  # noqa: B019 - a department lives as long as its feed
    def _begun(self, day: int) -> list[Jam]:
        """Jams that begin on `day`: bottlenecks that give way at the peaks, and incidents, more of them in rain."""
        r = rng(self.seed, "jam", self.n, day)
        hour, weekday = local(self.city, day, 3600)
        rain, jams = weather(self.seed, day).rain, []
        for site, depth in self.bottlenecks:
            for way, peak in ((0, 7.4), (1, 16.5)):
                chance, shift, much, long = r.random(), r.normal(0, 0.42), r.normal(0, 0.12), r.lognormal(4.5, 0.3)
                at = int(np.argmin(np.abs(hour - peak)))
                wet = min(float(rain[at]), 2) / 2
                off = 0.12 if self.way[site] == 1 - way else 0.85
                if weekday[at] < 5 and chance < off + 0.12 * wet:
                    start = (at + peak - float(hour[at]) + shift - 0.2 * wet) * 60
                    jams.append(self._jam(r, site, start, long * (1 + 0.3 * wet), depth + much + 0.12 * wet))
        busy = self._usual(day).sum(1).reshape(24, -1).mean(1)
        rate = 3.2 * self.n / 40 * (busy / 24) / max(float(busy.mean()), 1e-9) * (1 + 1.5 * np.minimum(rain, 2))
        for h, count in enumerate(r.poisson(rate * 0.75)):
            for _ in range(int(count)):
                start = (h + r.random()) * 60
                jams.append(self._jam(r, int(r.integers(self.n)), start, r.lognormal(3.9, 0.45), r.uniform(0.4, 0.95)))
        return [jam for jam in jams if jam.site not in self.closed] + self._overflows(day)

    def _overflows(self, day: int) -> list[Jam]:
        """Where more come than fit because another road is closed: jams while that lasts, the more the deeper."""
        jams = []
        load, usual = self.demand(day) / self.capacity, self._usual(day) / self.capacity
        for site in np.flatnonzero(self.ways.sum(0) > 1.02) if self.closed else ():
            over = np.flatnonzero((load[:, site] > 1) & (load[:, site] > 1.02 * usual[:, site]))
            for run in np.split(over, np.flatnonzero(np.diff(over) > 2) + 1):
                if len(run) > 2:
                    depth = float(np.clip(0.25 + 1.2 * (load[run, site].max() - 1), 0.25, 0.9))
                    jams.append(Jam(int(site), float(run[0] * 5), float(len(run) * 6), depth, 11.0))
        return jams

    def _jam(self, r: np.random.Generator, site: int, start: float, minutes: float, depth: float) -> Jam:
        return Jam(site, start, float(min(minutes, 300)), float(np.clip(depth, 0.25, 0.95)), float(r.uniform(8, 14)))

    def _reach(self, site: int, wave: float) -> list[tuple[int, int, float]]:
        """Detectors the queue comes to: (detector, hops upstream, minutes until it is there)."""
        found: dict[int, tuple[int, float]] = {site: (0, 0.0)}
        edge = [site]
        for hops in range(1, 8):
            ahead = edge
            edge = []
            for b in ahead:
                for a, km in self.upstream[b]:
                    if a not in found and a not in self.closed:
                        found[a] = (hops, found[b][1] + km / wave * 60)
                        edge.append(a)
        return [(i, hops, late) for i, (hops, late) in found.items()]

    def _closures(self, day: int, speed: Array, flow: Array) -> dict[str, Array]:
        """Roads closed for works or a parade: no flow; the detector shows its nominal speed, or none at all."""
        minutes = np.arange(STEPS) * 5.0
        for began in (day - 2, day - 1, day):
            r = rng(self.seed, "closure", self.n, began)
            for _ in range(r.poisson(0.18 * self.n / 40)):
                site, start, long = int(r.integers(self.n)), r.uniform(0, 1440), r.uniform(3, 18) * 60
                silent = r.random() < 0.5
                t = minutes - (began - day) * 1440
                shut = (t >= start) & (t < start + long)
                flow[shut, site] = 0
                speed[shut, site] = np.nan if silent else self.free[site]
        return {"speed": speed, "flow": flow}
