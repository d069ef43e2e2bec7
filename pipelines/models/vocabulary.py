"""Numbers for what a channel is: its kind, its sensor, where it stands. Number 0 is unknown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.core import windows
from pipelines.models.data import Windows

Array = np.ndarray[Any, Any]


def collect(domains: Sequence[Windows]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, float]]:
    """Kinds and sensors (as sensor/kind) of all channels, sorted, and the middle of all known places in degrees."""
    kinds = sorted({k for d in domains for k in d.channel("kind")})
    sensors = sorted({name for d in domains for name in _names(d)})
    places = np.concatenate([_places(d) for d in domains])
    centre = places[np.isfinite(places).all(1)]
    middle = tuple(round(float(v), 4) for v in centre.mean(0)) if len(centre) else (0.0, 0.0)
    return tuple(kinds), tuple(sensors), (middle[0], middle[1])


def numbers(
    windows_: Windows, kinds: Sequence[str], sensors: Sequence[str], centre: tuple[float, float]
) -> dict[str, Array]:
    """`kind` and `sensor` int64 [N], `place` float32 [N, 12] of the channels of `windows_`."""
    kind_number = {k: i + 1 for i, k in enumerate(kinds)}
    sensor_number = {s: i + 1 for i, s in enumerate(sensors)}
    places = _places(windows_)
    return {
        "kind": np.array([kind_number.get(k, 0) for k in windows_.channel("kind")], np.int64),
        "sensor": np.array([sensor_number.get(s, 0) for s in _names(windows_)], np.int64),
        "place": windows.locations(places[:, 0], places[:, 1], centre),
    }


def _places(windows_: Windows) -> Array:
    """Latitude and longitude [N, 2], NaN where unknown."""
    columns = [[np.nan if v is None else v for v in windows_.channel(c)] for c in ("latitude", "longitude")]
    return np.array(columns, float).T


def _names(windows_: Windows) -> list[str]:
    return [f"{s}/{k}" for s, k in zip(windows_.channel("sensor"), windows_.channel("kind"), strict=True)]
