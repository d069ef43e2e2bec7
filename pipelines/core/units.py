"""Units and how they convert. The simulator spoils records with this table; validation finds them with it."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LINEAR: dict[str, tuple[str, float, float]] = {
    # unit: (dimension, scale, offset): base = scale * value + offset
    "km/h": ("speed", 1.0, 0.0),
    "mph": ("speed", 1.609344, 0.0),
    "m/s": ("speed", 3.6, 0.0),
    "degC": ("temperature", 1.0, 0.0),
    "degF": ("temperature", 5 / 9, -160 / 9),
    "K": ("temperature", 1.0, -273.15),
    "MW": ("power", 1.0, 0.0),
    "kW": ("power", 1e-3, 0.0),
    "GW": ("power", 1e3, 0.0),
    "kPa": ("pressure", 1.0, 0.0),
    "bar": ("pressure", 100.0, 0.0),
    "psi": ("pressure", 6.894757, 0.0),
    "ug/m3": ("concentration", 1.0, 0.0),
    "mg/m3": ("concentration", 1e3, 0.0),
    "mm": ("length", 1.0, 0.0),
    "in": ("length", 25.4, 0.0),
}
_PPB = {"no2": 1.88, "o3": 1.96, "so2": 2.62, "no": 1.23, "co": 1.145}
"""ug/m3 for one part per billion, at 25 degrees C and 1013 hPa (co: ug/m3, too)."""


def convert(value: Array, kind: str, source: str, target: str) -> Array:
    """`value` [any shape] of `kind` from unit `source` into unit `target`. `kind` matters for ppb: the gas decides.

    Raises ValueError for an unknown unit and for units of different dimensions.
    """
    if source == target:
        return np.asarray(value)
    (a, scale, offset), (b, scale_to, offset_to) = _linear(kind, source), _linear(kind, target)
    if a != b:
        raise ValueError(f"{source} ({a}) cannot be converted into {target} ({b})")
    return (np.asarray(value) * scale + offset - offset_to) / scale_to


def _linear(kind: str, unit: str) -> tuple[str, float, float]:
    if unit == "ppb":
        gas = next((part for part in kind.split("_") if part in _PPB), None)
        if gas is None:
            raise ValueError(f"ppb of {kind!r}: the kind's name must hold the gas, one of {', '.join(_PPB)}")
        return "concentration", _PPB[gas], 0.0
    if unit not in _LINEAR:
        raise ValueError(f"unknown unit {unit!r}; known: {', '.join([*_LINEAR, 'ppb'])}")
    return _LINEAR[unit]
