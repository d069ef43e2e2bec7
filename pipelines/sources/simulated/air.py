"""Air: exhaust of the roads nearby gathers in a box that the wind empties; ozone is what nitrogen dioxide leaves."""

from functools import lru_cache

import numpy as np

from pipelines.core.params import City
from pipelines.sources.simulated.ground import Array, Sites, bump, local, red, rng, scatter
from pipelines.sources.simulated.traffic import Traffic
from pipelines.sources.simulated.weather import weather

WARM_UP = 3
"""Days over which the box forgets where it began."""


class Air:
    """Stations with weather masts, every hour."""

    step_s = 3600
    units = {  # noqa: RUF012 - a constant of the protocol
        "pm25": ("ug/m3", 1),
        "no2": ("ug/m3", 1),
        "o3": ("ug/m3", 1),
        "temperature": ("degC", 1),
        "humidity": ("%", 1),
        "wind_speed": ("m/s", 1),
        "rain": ("mm", 1),
    }

    def __init__(self, city: City, n: int | None = None) -> None:
        self.city, self.seed, self.n = city, city.seed, n or 12
        self.sites = Sites(*scatter(self.seed, "stations", self.n, "air", 6.5))
        self.traffic = Traffic(city)
        roads = self.traffic.sites
        near = np.exp(-0.5 * (np.hypot(self.sites.x[:, None] - roads.x, self.sites.y[:, None] - roads.y) / 1.5) ** 2)
        self.near = (near + 0.02) / (near + 0.02).sum(1, keepdims=True)
        r = rng(self.seed, "station traits", self.n)
        crowded = 0.5 + 0.9 * np.minimum(near.sum(1) / 4, 1)
        self.street = crowded * r.uniform(0.85, 1.15, self.n)
        self.warm = r.normal(0, 0.5, self.n) + 0.9 * np.exp(-np.hypot(self.sites.x, self.sites.y) / 3)
        self.open = r.uniform(0.7, 1.15, self.n)
        self.dust = r.uniform(0.85, 1.2, self.n)

    @lru_cache(maxsize=8)  # noqa: B019 - a department lives as long as its feed
    def _sources(self, day: int) -> tuple[Array, Array, Array]:
        """By the hour: exhaust and smoke at the stations [24, n] each, and the share the air keeps to the next [24]."""
        hour, _ = local(self.city, day, self.step_s)
        sky = weather(self.seed, day)
        flow = self.traffic.demand(day).reshape(24, 12, -1).mean(1)
        # a sum, not a matrix product: the same on every machine and for any number of threads
        exhaust = (flow[:, None, :] * self.near[None]).sum(2) / 1000 * self.street
        cold = np.maximum(14 - sky.temperature, 0) / 10
        smoke = cold * (0.35 + bump(hour, 20.5, 2.4) + 0.3 * bump(hour, 7.5, 1.5))
        keep = np.exp(-(0.10 + 0.085 * sky.wind + 0.35 * sky.sun))
        return exhaust, np.repeat(smoke[:, None], self.n, 1), keep

    def day(self, day: int) -> dict[str, Array]:
        sky = weather(self.seed, day)
        no2_box, dust_box = self._boxes(day)
        slow, fast = (
            red(self.seed, "far dust", day, 24, 1, 55),
            red(self.seed, "air texture", day, 24, 3 * self.n, 5).reshape(24, 3, self.n),
        )
        r = rng(self.seed, "air noise", day).standard_normal((24, 7, self.n))
        own = np.exp(0.05 * fast + 0.03 * r[:, :3])
        east = np.maximum(np.cos(np.radians(sky.direction - 90)), 0)[:, None]  # the continent lies to the east
        wash = np.exp(-0.18 * np.minimum(sky.rain, 3))[:, None]
        far = np.exp(1.6 + 0.42 * slow + 0.55 * east) * wash
        pm25 = (far + dust_box) * self.dust * own[:, 0]
        no2 = (5.0 + no2_box) * own[:, 1]
        bright = sky.sun[:, None] * (1 + 0.03 * np.maximum(sky.temperature[:, None] - 10, 0))
        o3 = np.maximum(38 + 75 * bright + 1.6 * sky.wind[:, None] + 6 * slow - 0.62 * no2, 4) * own[:, 2]
        temperature = sky.temperature[:, None] + self.warm + 0.25 * fast[:, 0] + 0.15 * r[:, 3]
        humidity = np.clip(sky.humidity[:, None] - 2 * self.warm + 1.2 * fast[:, 1] + 0.8 * r[:, 4], 20, 100)
        wind = np.maximum(sky.wind[:, None] * self.open * np.exp(0.10 * fast[:, 2] + 0.07 * r[:, 5]), 0)
        rain = sky.rain[:, None] * np.exp(0.3 * r[:, 6])
        return {
            "pm25": np.maximum(pm25, 0.5),
            "no2": no2,
            "o3": o3,
            "temperature": temperature,
            "humidity": humidity,
            "wind_speed": wind,
            "rain": rain,
        }

    def _boxes(self, day: int) -> tuple[Array, Array]:
        """Nitrogen dioxide and dust that the city itself has put into its air, ug/m3, [24, n] each."""
        no2, dust = np.zeros(self.n), np.zeros(self.n)
        out = np.zeros((2, 24, self.n))
        for d in range(day - WARM_UP, day + 1):
            exhaust, smoke, keep = self._sources(d)
            rain, mixed = weather(self.seed, d).rain, 2 / (1 + weather(self.seed, d).wind / 3)
            for h in range(24):
                # mixing height and wind thin out what is added; dust settles more slowly than gas reacts
                thin = mixed[h]
                no2 = no2 * keep[h] * 0.9 + thin * 9.0 * exhaust[h] * (0.35 + keep[h])
                dust = dust * keep[h] ** 0.8 * np.exp(-0.1 * min(rain[h], 3)) + thin * (
                    1.3 * exhaust[h] + 2.0 * smoke[h]
                )
                if d == day:
                    out[0, h], out[1, h] = no2, dust
        return out[0], out[1]
