"""Numbers for what a channel is: its kind, unit and sensor, where it stands. Number 0 is unknown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.core import windows
from pipelines.models.data import Windows
from pipelines.models.tokens import Config

Array = np.ndarray[Any, Any]


def collect(domains: Sequence[Windows]) -> dict[str, Any]:
    """`kinds`, `units` and `sensors` (as sensor/kind) of all channels, sorted, and `centre`, the middle of all known
    places in degrees: as `Config` takes them."""
    units = sorted({u for d in domains for u in d.channel("unit")})
    kinds = sorted({k for d in domains for k in d.channel("kind")})
    sensors = sorted({name for d in domains for name in _names(d)})
    places = np.concatenate([_places(d) for d in domains])
    centre = places[np.isfinite(places).all(1)]
    middle = tuple(round(float(v), 4) for v in centre.mean(0)) if len(centre) else (0.0, 0.0)
    return {"kinds": tuple(kinds), "units": tuple(units), "sensors": tuple(sensors), "centre": (middle[0], middle[1])}


def numbers(windows_: Windows, known: Config) -> dict[str, Array]:
    """`kind`, `unit_id` and `sensor` int64 [N], `place` float32 [N, 12] of the channels of `windows_`."""
    places = _places(windows_)
    return {
        "kind": _number(windows_.channel("kind"), known.kinds),
        "unit_id": _number(windows_.channel("unit"), known.units),
        "sensor": _number(_names(windows_), known.sensors),
        "place": windows.locations(places[:, 0], places[:, 1], known.centre),
    }


def _number(words: Sequence[str], known: Sequence[str]) -> Array:
    number = {word: i + 1 for i, word in enumerate(known)}
    return np.array([number.get(word, 0) for word in words], np.int64)


def _places(windows_: Windows) -> Array:
    """Latitude and longitude [N, 2], NaN where unknown."""
    columns = [[np.nan if v is None else v for v in windows_.channel(c)] for c in ("latitude", "longitude")]
    return np.array(columns, float).T


def _names(windows_: Windows) -> list[str]:
    return [f"{s}/{k}" for s, k in zip(windows_.channel("sensor"), windows_.channel("kind"), strict=True)]
