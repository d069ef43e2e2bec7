"""The city's weather by the hour: what every department feels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipelines.sources.simulated.ground import CENTRE, Array, red


@dataclass(frozen=True)
class Weather:
    """A UTC day, each [24]: degC, %, m/s, degrees the wind comes from, mm in the hour, sunlight 0..1."""

    temperature: Array
    humidity: Array
    wind: Array
    direction: Array
    rain: Array
    sun: Array


@lru_cache(maxsize=64)
def weather(seed: int, day: int) -> Weather:
    """The weather of UTC day `day`: seasons and sun, air masses of some days, fronts, showers of hours."""
    hour = np.arange(24) + CENTRE[1] / 15
    season = np.sin(2 * np.pi * ((day + hour / 24) % 365.2425 - 110) / 365.2425)
    latitude, tilt = np.radians(CENTRE[0]), np.radians(23.4 * np.sin(2 * np.pi * ((day % 365.2425) - 80) / 365.2425))
    turn = np.cos(2 * np.pi * (hour - 12) / 24)
    height = np.maximum(np.sin(latitude) * np.sin(tilt) + np.cos(latitude) * np.cos(tilt) * turn, 0)
    mass, front, shower, gusts, veer = (
        red(seed, name, day, 24, 1, tau)[:, 0]
        for name, tau in (("air mass", 60), ("front", 30), ("shower", 4), ("wind", 16), ("wind direction", 30))
    )
    wet = 0.8 * front + 0.6 * shower
    cloud = 1 / (1 + np.exp(-1.6 * wet))
    swing = (1.2 + 2.6 * (1 + season)) * (1 - 0.6 * cloud)
    temperature = (
        10.5 + 7.5 * season + 3.0 * mass + swing * np.cos(2 * np.pi * (hour - 15) / 24) - 0.8 * np.maximum(wet - 1, 0)
    )
    humidity = 78 - 5 * season + 8 * wet - 2.2 * swing * np.cos(2 * np.pi * (hour - 15) / 24) - 1.0 * mass
    wind = np.exp(1.12 + 0.42 * gusts + 0.15 * front + 0.12 * np.cos(2 * np.pi * (hour - 14) / 24))
    rain = np.where(wet > 1.2, 0.2 + 1.7 * np.maximum(wet - 1.2, 0) ** 1.4, 0.0)
    sun = height * (1 - 0.7 * cloud)
    return Weather(temperature, np.clip(humidity, 25, 100), wind, (225 + 75 * veer) % 360, rain, sun)
