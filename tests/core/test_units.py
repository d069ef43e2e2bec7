"""Units convert both ways, the gas decides what a ppb is, and nonsense is refused."""

import numpy as np
import pytest

from pipelines.core.units import convert


@pytest.mark.parametrize(
    ("kind", "source", "target", "value", "expected"),
    [
        ("speed", "km/h", "mph", 100.0, 62.137),
        ("temperature", "degC", "degF", -40.0, -40.0),
        ("temperature", "degC", "K", 0.0, 273.15),
        ("no2", "ug/m3", "ppb", 18.8, 10.0),
        ("o3", "ug/m3", "ppb", 19.6, 10.0),
        ("load", "MW", "kW", 1.5, 1500.0),
        ("pressure", "kPa", "bar", 350.0, 3.5),
        ("anything", "veh/h", "veh/h", 7.0, 7.0),
    ],
)
def test_there_and_back(kind: str, source: str, target: str, value: float, expected: float) -> None:
    there = convert(np.array([value]), kind, source, target)
    assert there[0] == pytest.approx(expected, rel=1e-4)
    assert convert(there, kind, target, source)[0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("kind", "source", "target", "says"),
    [
        ("speed", "km/h", "bar", "cannot be converted"),
        ("speed", "km/h", "knots", "unknown unit 'knots'"),
        ("pm25", "ug/m3", "ppb", "the gas"),
    ],
)
def test_nonsense_is_refused(kind: str, source: str, target: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convert(np.ones(1), kind, source, target)
