"""What came, a row a day and channel; and what that makes of the whole window: coverage, gaps, freshness."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.checks.rules import DAY, REASONS, micros
from pipelines.checks.split import Day
from pipelines.core.params import Source

Array = np.ndarray[Any, Any]
CHANNELS = pa.schema(
    [
        ("day", pa.string()),
        ("sensor", pa.string()),
        ("kind", pa.string()),
        ("raw", pa.int64()),
        ("validated", pa.int64()),
        ("arrived", pa.int64()),  # steps for which any record came
        ("covered", pa.int64()),  # steps for which a validated one did
        ("first", pa.int64()),  # step of the first and last validated record, steps since 1970; -1: none
        ("last", pa.int64()),
        ("newest", pa.int64()),  # time of the last validated record, microseconds since 1970; -1: none
        ("gap", pa.int64()),  # steps without a validated record between two of the day: the longest such gap
        ("long_gaps", pa.int64()),  # and how many are longer than max_gap
        ("repeats", pa.int64()),  # validated records that share time, sensor and kind with another
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def only(table: pa.Table, days: Iterable[str]) -> pa.Table:
    return table.filter(pc.is_in(table["day"], pa.array(list(days), pa.string())))


def channels(day: Day, spec: Source) -> pa.Table:
    """One day's rows (schema CHANNELS), sorted by sensor and kind."""
    step = micros(spec.step)
    t = day.records["time"].cast(pa.int64()).to_numpy()
    value = day.records["value"].to_numpy(zero_copy_only=False).astype(float)
    codes, names = [], []
    for column in ("sensor", "kind"):
        coded = pc.dictionary_encode(day.records[column]).combine_chunks()
        codes.append(coded.indices.to_numpy())
        names.append(coded.dictionary.to_pylist())
    channel = codes[0].astype(np.int64) * max(len(names[1]), 1) + codes[1]
    slot, good = (t + step // 2) // step, ~day.bad
    order = np.lexsort((t, channel))
    channel, slot, t, value, good = channel[order], slot[order], t[order], value[order], good[order]
    ids, starts = np.unique(channel, return_index=True)
    limit = micros(spec.contract.max_gap) // step
    rows = []
    for c, lo, hi in zip(ids.tolist(), starts.tolist(), [*starts[1:].tolist(), len(t)], strict=True):
        sensor, kind = names[0][c // len(names[1])], names[1][c % len(names[1])]
        ok = good[lo:hi]
        at, when, values = np.unique(slot[lo:hi][ok]), t[lo:hi][ok], value[lo:hi][ok]
        gaps = np.diff(at) - 1
        rows.append(
            {
                "day": str(day.date),
                "sensor": sensor,
                "kind": kind,
                "raw": hi - lo,
                "validated": int(ok.sum()),
                "arrived": len(np.unique(slot[lo:hi])),
                "covered": len(at),
                "first": int(at[0]) if len(at) else -1,
                "last": int(at[-1]) if len(at) else -1,
                "newest": int(when[-1]) if len(at) else -1,
                "gap": int(gaps.max()) if len(gaps) else 0,
                "long_gaps": int((gaps > limit).sum()),
                "repeats": len(when) - len(np.unique(when)),
                "low": float(values.min()) if len(at) else None,
                "high": float(values.max()) if len(at) else None,
            }
        )
    rows.sort(key=lambda row: (row["sensor"], row["kind"]))
    return pa.Table.from_pylist(rows, CHANNELS)


@dataclass(frozen=True)
class Profile:
    """The window as a whole. Frames are lists of rows, small enough for any engine to judge."""

    metrics: dict[str, Any]
    batch: dict[str, Any]
    days: list[dict[str, Any]]
    sensors: list[dict[str, Any]]
    kinds: list[dict[str, Any]]
    heat: Array
    """Share of expected steps without a validated record, [sensors, days]; NaN where none was expected."""


def profile(spec: Source, end: dt.datetime, days: dict[str, Any], table: pa.Table, sensors: pa.Table) -> Profile:
    """`days`: counts a day by date; `table`: schema CHANNELS; `sensors`: schema SENSORS."""
    step = micros(spec.step)
    lo, hi = (-(-_micros(t) // step) for t in (spec.start, end))
    dates = [str(np.datetime64(d, "D")) for d in range(_micros(spec.start) // DAY, -(-_micros(end) // DAY))]
    per_day = DAY // step
    measured = [kind for kind, k in spec.kinds.items() if not k.label]
    names = sensors["sensor"].to_pylist()
    rows = table.to_pylist()
    by_channel: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] in measured:
            by_channel.setdefault((row["sensor"], row["kind"]), []).append(row)
    number = {name: i for i, name in enumerate(names)}
    bounds = [max(lo, (int(np.datetime64(d, "D").astype(int))) * per_day) for d in dates] + [hi]
    expected, covered = np.zeros((len(names), len(dates)), np.int64), np.zeros((len(names), len(dates)), np.int64)
    arrived = longest = long_gaps = 0
    column = {d: i for i, d in enumerate(dates)}
    for (sensor, _), found in by_channel.items():
        first = min((column[r["day"]] for r in found if r["day"] in column), default=None)
        if sensor not in number or first is None:
            continue
        expected[number[sensor], first:] += np.diff(bounds)[first:]
        for r in found:
            if r["day"] in column:
                covered[number[sensor], column[r["day"]]] += r["covered"]
                arrived += r["arrived"]
        gap, long = _gaps(found, bounds[first], hi, micros(spec.contract.max_gap) // step)
        longest, long_gaps = max(longest, gap), long_gaps + long
    silent = expected.sum(1) == 0
    expected[silent] = np.diff(bounds) * len(measured)
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage = np.minimum(covered.sum(1) / expected.sum(1), 1.0)
        by_day = np.minimum(covered.sum(0) / expected.sum(0), 1.0)
        heat = 1 - np.minimum(covered / np.where(expected > 0, expected, np.nan), 1.0)
    total = {k: sum(d[k] for d in days.values()) for k in ("raw", "validated", "quarantined")}
    newest = max((r["newest"] for r in rows), default=-1)
    age = (_micros(end) - newest) / 3.6e9 if newest >= 0 else float("nan")
    missing = max(int(expected.sum()) - arrived, 0)
    worst = int(np.argmin(coverage)) if len(coverage) else -1
    fraction = total["quarantined"] / total["raw"] if total["raw"] else 1.0
    reasons = {r: sum(d["reasons"][r] for d in days.values()) for r in REASONS}
    metrics = {
        "records": total["raw"],
        "validated": total["validated"],
        "quarantined": total["quarantined"],
        "fraction_quarantined": round(fraction, 6),
        "reasons": reasons,
        "gaps": {
            "missing": missing,
            "longest_h": round(longest * step / 3.6e9, 3),
            "longer_than_max_gap": long_gaps,
        },
        "coverage": {
            "min": round(float(coverage.min()), 4) if len(coverage) else None,
            "mean": round(float(coverage.mean()), 4) if len(coverage) else None,
            "worst_day": round(float(np.nanmin(by_day)), 4) if len(by_day) else None,
        },
        "age_h": round(age, 3),
        "sensors": len(names),
        "channels": len(by_channel),
        "days": len(days),
        "worst_sensor": names[worst] if worst >= 0 else None,
    }
    none = {"raw": 0, "validated": 0, "quarantined": 0, "reasons": {}}
    batch = {
        "fraction_quarantined": fraction,
        "hours_since_newest": age,
        "longest_gap_hours": longest * step / 3.6e9,
        "repeats": sum(r["repeats"] for r in rows),
    }
    return Profile(
        metrics=metrics,
        batch=batch,
        days=[
            {"day": d, "coverage": float(c), **{k: v for k, v in days.get(d, none).items() if k != "key"}}
            for d, c in zip(dates, by_day, strict=True)
        ],
        sensors=[
            {"sensor": s, "latitude": lat, "longitude": lon, "coverage": float(c)}
            for s, lat, lon, c in zip(
                names, sensors["latitude"].to_pylist(), sensors["longitude"].to_pylist(), coverage, strict=True
            )
        ],
        kinds=_kinds(spec, rows),
        heat=heat,
    )


def _micros(when: dt.datetime) -> int:
    return (when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _gaps(found: list[dict[str, Any]], lo: int, hi: int, limit: int) -> tuple[int, int]:
    """Longest run of steps in [lo, hi) without a validated record in one channel, and how many exceed `limit`."""
    longest = long = 0
    at = lo - 1
    for row in sorted(found, key=lambda r: r["day"]):
        longest, long = max(longest, row["gap"]), long + row["long_gaps"]
        if row["first"] >= 0:
            between = row["first"] - at - 1
            longest, long = max(longest, between), long + (between > limit)
            at = max(at, row["last"])
    between = hi - at - 1
    return max(longest, between), long + (between > limit)


def _kinds(spec: Source, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a kind, declared or not: raw and validated records, lowest and highest validated value."""
    out = []
    for kind in sorted({*spec.kinds, *(r["kind"] for r in rows)}):
        mine = [r for r in rows if r["kind"] == kind]
        low = [r["low"] for r in mine if r["low"] is not None]
        high = [r["high"] for r in mine if r["high"] is not None]
        counts = {k: sum(r[k] for r in mine) for k in ("raw", "validated")}
        out.append({"kind": kind, **counts, "low": min(low, default=None), "high": max(high, default=None)})
    return out
