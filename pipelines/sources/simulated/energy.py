"""Energy: what a zone draws follows its people's day, the cold, the heat and the dark."""

import numpy as np

from pipelines.core.params import City
from pipelines.sources.simulated.ground import Array, Sites, bump, interpolate, local, red, rng, scatter
from pipelines.sources.simulated.weather import weather

STEPS = 96


class Energy:
    """Substations, every 15 minutes: load (MW)."""

    step_s = 900
    units = {"load": ("MW", 2)}  # noqa: RUF012 - a constant of the protocol

    def __init__(self, city: City, n: int | None = None) -> None:
        self.city, self.seed, self.n = city, city.seed, n or 10
        self.sites = Sites(*scatter(self.seed, "zones", self.n, "zone", 6.0))
        r = rng(self.seed, "zone traits", self.n)
        self.base = r.uniform(25, 95, self.n)
        self.mix = r.dirichlet([2.2, 1.6, 1.0], self.n)  # homes, offices, works
        self.heat, self.cool = r.uniform(0.010, 0.026, self.n), r.uniform(0.008, 0.030, self.n)

    def day(self, day: int) -> dict[str, Array]:
        hour, weekday = local(self.city, day, self.step_s)
        sky = [weather(self.seed, d) for d in (day - 1, day, day + 1)]
        now = interpolate([sky[1].temperature, sky[2].temperature], STEPS)
        # walls remember: half of what matters is the mean of the day before
        hourly = np.concatenate([s.temperature for s in sky])
        means = np.array([hourly[h : h + 24].mean() for h in range(26)])
        felt = 0.5 * now + 0.5 * np.interp(np.arange(STEPS) / 4, np.arange(26), means)
        sun = interpolate([sky[1].sun, sky[2].sun], STEPS)
        awake = bump(hour, 14, 5.0)
        off = weekday >= 5
        homes = (
            0.55 + 0.42 * bump(hour, 19, 2.2) + np.where(off, 0.30 * bump(hour, 11.5, 3.0), 0.26 * bump(hour, 7.6, 1.2))
        )
        offices = 0.42 + np.where(off, 0.12, 0.85) * bump(hour, 13, 3.4)
        works = 0.75 + np.where(off, np.where(weekday == 6, -0.15, 0.0), 0.25) * bump(hour, 12.5, 4.5)
        people = (np.stack([homes, offices, works])[:, :, None] * self.mix.T[:, None, :]).sum(0)
        lamps = 0.07 * (1 - np.minimum(sun / 0.2, 1)) * (bump(hour, 20, 3.5) + bump(hour, 7, 1.5))
        weatherly = self.heat * np.maximum(15.5 - felt, 0)[:, None] * (0.75 + 0.4 * awake)[:, None]
        weatherly = weatherly + self.cool * np.maximum(felt - 20, 0)[:, None] * (0.5 + 0.8 * awake)[:, None]
        shared = 0.018 * red(self.seed, "load mood", day, STEPS, 1, 40)
        own = 0.016 * red(self.seed, "load texture", day, STEPS, self.n, 14)
        noise = 0.004 * rng(self.seed, "load noise", day).standard_normal((STEPS, self.n))
        return {"load": self.base * (people + weatherly + lamps[:, None]) * (1 + shared + own + noise)}
