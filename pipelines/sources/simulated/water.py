"""Water: pressure falls as people draw water and where a pipe leaks; pumps lift it on their schedule."""

from dataclasses import dataclass

import numpy as np

from pipelines.core.params import City
from pipelines.sources.simulated.ground import Array, Sites, bump, envelope, evenly, local, red, rng, scatter
from pipelines.sources.simulated.weather import weather

STEPS = 96


@dataclass(frozen=True)
class Leak:
    """A leak by gauge `site`: minutes of the UTC day it began on, kPa lost there once it is fully open."""

    site: int
    start: float
    minutes: float
    drop: float
    opening: float
    """Minutes until it is fully open: minutes for a burst, hours for a growing crack."""


def mains(seed: int, n: int) -> Sites:
    """`n` gauges; pipes join each one to those nearest to it, both ways."""
    names, x, y = scatter(seed, "gauges", n, "gauge", 6.0)
    away = np.hypot(x[:, None] - x, y[:, None] - y)
    pairs = {(min(i, int(j)), max(i, int(j))) for i in range(n) for j in np.argsort(away[i])[1:3]}
    both = sorted(pairs | {(b, a) for a, b in pairs})
    return Sites(names, x, y, tuple((a, b, max(0.2, float(away[a, b]))) for a, b in both))


class Water:
    """Pressure gauges, every 15 minutes: pressure (kPa), and leak (0 or 1) as the repair crews later confirm it."""

    step_s = 900
    units = {"pressure": ("kPa", 1), "leak": ("1", 0)}  # noqa: RUF012 - a constant of the protocol

    def __init__(self, city: City, n: int | None = None) -> None:
        self.city, self.seed, self.n = city, city.seed, n or 12
        self.sites = mains(self.seed, self.n)
        r = rng(self.seed, "gauge traits", self.n)
        self.head = r.uniform(360, 560, self.n)
        self.draw = r.uniform(38, 80, self.n) * (0.8 + 0.06 * np.hypot(self.sites.x, self.sites.y))
        self.pumped = r.uniform(10, 26, self.n)
        self.neighbours = [[b for a, b, _ in self.sites.edges if a == i] for i in range(self.n)]
        reach = np.exp(-np.hypot(self.sites.x[:, None] - self.sites.x, self.sites.y[:, None] - self.sites.y) / 2.5)
        self.blend = reach / reach.sum(1, keepdims=True)

    def day(self, day: int) -> dict[str, Array]:
        hour, weekday = local(self.city, day, self.step_s)
        off = weekday >= 5
        homes = np.where(off, 0.95 * bump(hour, 9.6, 1.9), 1.0 * bump(hour, 7.5, 1.2))
        use = 0.22 + homes + 0.45 * bump(hour, 13, 3.0) + 0.8 * bump(hour, 19.3, 2.0)
        hot = np.maximum(np.repeat(weather(self.seed, day).temperature, 4) - 20, 0)
        use = use * (1 + 0.03 * hot) * np.exp(0.05 * red(self.seed, "water mood", day, STEPS, 1, 20)[:, 0])
        use = use[:, None] + self._rushes(day)
        texture = red(self.seed, "water texture", day, STEPS, self.n, 6)
        shared = (texture[:, None, :] * self.blend[None]).sum(2)
        noise = rng(self.seed, "gauge noise", day).standard_normal((STEPS, self.n))
        pumps = ((hour >= 5) & (hour < 10)) | ((hour >= 16.5) & (hour < 22))
        lift = np.where(pumps, 1.0, 0.0) + np.where(
            (hour >= 1) & (hour < 4), 0.6, 0.0
        )  # and at night to fill the tanks
        lost, leaking = self._leaks(day)
        pressure = self.head - self.draw * use**1.7 + self.pumped * lift[:, None] + 4.0 * shared + 1.6 * noise - lost
        return {"pressure": np.maximum(pressure, 60), "leak": leaking.astype(float)}

    def _rushes(self, day: int) -> Array:
        """Water drawn beyond habit, and no leak: a fire brigade at one gauge, a festival over half the network."""
        minutes, extra = np.arange(STEPS) * 15.0, np.zeros((STEPS, self.n))
        for began in (day - 1, day):
            r = rng(self.seed, "water rush", self.n, began)
            t = minutes - (began - day) * 1440
            for wide, rate in ((3.5, 0.25), (0.8, 0.35)):
                for _ in range(r.poisson(rate)):
                    site, start, long = int(r.integers(self.n)), r.uniform(8, 23) * 60, r.uniform(40, 150)
                    near = np.exp(-0.5 * (self.sites.distance(self.sites.x[site], self.sites.y[site]) / wide) ** 2)
                    size = r.uniform(0.25, 0.55)
                    extra += size * envelope(t, start, start + long, 20, 20)[:, None] * near
        return extra

    def _leaks(self, day: int) -> tuple[Array, Array]:
        """kPa lost and whether a leak is by, [96, n] each. A gauge one pipe away feels half and is labelled too."""
        minutes = np.arange(STEPS) * 15.0
        lost, leaking = np.zeros((STEPS, self.n)), np.zeros((STEPS, self.n), bool)
        for began in range(day - 3, day + 1):
            for leak in self._begun(began):
                t = minutes - (began - day) * 1440
                lasts = (t >= leak.start) & (t < leak.start + leak.minutes)
                size = leak.drop * np.clip((t - leak.start + 15) / leak.opening, 0, 1) * lasts
                lost[:, leak.site] += size
                leaking[lasts, leak.site] = True
                for i in self.neighbours[leak.site]:
                    lost[:, i] += 0.5 * size
                    leaking[lasts, i] = True
                    for j in self.neighbours[i]:
                        if j != leak.site and j not in self.neighbours[leak.site]:
                            lost[:, j] += 0.12 * size
        return lost, leaking

    def _begun(self, day: int) -> list[Leak]:
        """About two leaks in three days for 12 gauges: half of them bursts, half cracks that open over hours."""
        r = rng(self.seed, "leak", self.n, day)
        leaks = []
        for _ in range(evenly(self.seed, "leaks", day, 0.68 * self.n / 12)):
            site, start, minutes = (
                int(r.integers(self.n)),
                r.uniform(0, 1440),
                np.clip(r.lognormal(6.5, 0.7), 180, 2880),
            )
            opening = r.uniform(15, 30) if r.random() < 0.5 else r.uniform(0.25, 0.6) * minutes
            leaks.append(Leak(site, float(start), float(minutes), float(r.uniform(22, 65)), float(opening)))
        return leaks
