"""What a contract asks of single records, as tables that an Ibis expression can join."""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import units
from pipelines.core.errors import UserError
from pipelines.core.params import Kind, Source

REASONS = (
    "clock_skew",
    "duplicate",
    "missing",
    "out_of_range",
    "outside_bounds",
    "spike",
    "stuck",
    "unit_mixup",
    "unknown_kind",
    "unknown_sensor",
)
DAY = 86_400_000_000
LOOKBACK = 8
REFERENCE = LOOKBACK - 1
"""Days that make up what is usual; the day before them is there for the neighbours of their first records."""


@dataclass(frozen=True)
class Rules:
    """What a contract asks of single records, with times in microseconds."""

    step: int
    tolerance: float
    sigma: float
    kinds: pa.Table
    mixups: pa.Table
    constant_ok: tuple[tuple[str, tuple[float, ...]], ...]
    constant_with: tuple[tuple[str, str], ...]


KINDS = pa.schema(
    [
        ("kind", pa.string()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("stuck_us", pa.int64()),
        ("spikes", pa.bool_()),
    ]
)
MIXUPS = pa.schema(
    [
        ("kind", pa.string()),
        ("unit", pa.string()),
        ("scale", pa.float64()),
        ("shift", pa.float64()),
        ("logarithmic", pa.bool_()),
    ]
)


def _rows(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _linear(kind: str, unit: str, wrong: str) -> tuple[float, float]:
    """A reading in `wrong` is scale * (the reading in `unit`) + shift."""
    shift, one = units.convert(np.array([0.0, 1.0]), kind, unit, wrong).tolist()
    return one - shift, shift


def micros(span: dt.timedelta) -> int:
    return span // dt.timedelta(microseconds=1)


def stuck_after(kind: Kind, source: Source) -> int | None:
    """Microseconds; None where constant values are normal."""
    span = kind.stuck_after if kind.stuck_after is not None else source.contract.stuck_after
    return None if span == "never" else micros(span)


def rules(name: str, source: Source) -> Rules:
    """Raises UserError when a kind names an unknown unit or a freeze longer than the look-back can see."""
    kinds, mixups = [], []
    longest = 0
    for kind, spec in source.kinds.items():
        stuck = stuck_after(spec, source)
        longest = max(longest, stuck or 0)
        kinds.append((kind, *spec.range, stuck, spec.spikes and not spec.label))
        try:
            wrong = [(unit, *_linear(kind, spec.unit, unit)) for unit in spec.mixups]
        except ValueError as error:
            raise UserError(f"params.yaml: sources.{name}.kinds.{kind}.mixups: {error}") from None
        logarithmic = spec.range[0] >= 0 and not any(shift for _, _, shift in wrong)
        mixups += [(kind, unit, scale, shift, logarithmic) for unit, scale, shift in wrong]
    if 2 * longest > LOOKBACK * DAY:  # see `_stuck`
        raise UserError(
            f"params.yaml: sources.{name}: stuck_after of {longest / DAY:g} days is longer than validation looks back; "
            f"give at most {LOOKBACK // 2}d, or never"
        )
    return Rules(
        step=micros(source.step),
        tolerance=source.contract.clock_tolerance,
        sigma=source.contract.spike_sigma,
        kinds=_rows(kinds, KINDS),
        mixups=_rows(mixups, MIXUPS),
        constant_ok=tuple((k, spec.constant_ok) for k, spec in source.kinds.items() if spec.constant_ok),
        constant_with=tuple((k, other) for k, spec in source.kinds.items() for other in spec.constant_with),
    )
