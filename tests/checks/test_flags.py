"""Each reason is found, and what only looks like a fault is left alone."""

import datetime as dt
import math
from pathlib import Path

import pytest
from raw_days import Record, at, reasons, smooth
from small_city import kind

from pipelines.core.errors import UserError

STEP = dt.timedelta(minutes=15)


def changed(records: list[Record], start: str, end: str, sensor: str, new: object) -> list[Record]:
    """The records of `sensor` in [start, end) with another value: a number, None, or a function of the old value."""
    lo, hi = at(start), at(end)
    out = []
    for t, s, k, v in records:
        if s == sensor and lo <= t < hi:
            out.append((t, s, k, new(v) if callable(new) else new))
        else:
            out.append((t, s, k, v))
    return out


def test_a_smooth_source_has_no_flags(tmp_path: Path) -> None:
    assert reasons(tmp_path, smooth(10)) == {}


def test_missing_is_null_and_nan(tmp_path: Path) -> None:
    records = changed(smooth(2), "1 10:00", "1 10:15", "s1", None)
    records = changed(records, "1 11:00", "1 11:15", "s2", math.nan)
    found = reasons(tmp_path, records)
    assert found == {(at("1 10:00"), "s1", "a"): ["missing"], (at("1 11:00"), "s2", "a"): ["missing"]}


def test_of_duplicates_the_first_stays_and_a_value_wins_over_none(tmp_path: Path) -> None:
    records = smooth(2)
    first = next(r for r in records if r[0] == at("1 09:00") and r[1] == "s1")
    gone = next(r for r in records if r[0] == at("1 10:00") and r[1] == "s1")
    records.remove(gone)
    records += [first, (*first[:3], 55.5), (*gone[:3], None), gone]
    found = reasons(tmp_path, records)
    assert found == {(at("1 09:00"), "s1", "a"): ["duplicate"], (at("1 10:00"), "s1", "a"): ["duplicate", "missing"]}


def test_out_of_range_counts_both_ends_and_spares_the_ends(tmp_path: Path) -> None:
    records = smooth(3)
    for clock, value in (("1 01:00", -0.1), ("1 05:00", 100.1), ("1 09:00", -999.0)):
        records = changed(records, clock, f"1 {clock[2:4]}:15", "s1", value)
    assert set(map(tuple, reasons(tmp_path, records).values())) == {("out_of_range",)}
    edge = changed(smooth(3), "1 01:00", "1 01:15", "s1", 100.0)
    assert "out_of_range" not in {w for words in reasons(tmp_path, edge).values() for w in words}


def test_unknown_kind_and_unknown_sensor(tmp_path: Path) -> None:
    records = [*smooth(2), (at("1 03:00"), "s1", "b", 1.0), (at("1 03:00"), "stranger", "a", 50.0)]
    found = reasons(tmp_path, records)
    assert found == {(at("1 03:00"), "s1", "b"): ["unknown_kind"], (at("1 03:00"), "stranger", "a"): ["unknown_sensor"]}


def test_a_sensor_outside_the_bounds(tmp_path: Path) -> None:
    found = reasons(tmp_path, smooth(1), contract={"bounds": {"north": 52.045}})
    assert {key[1] for key in found} == {"s6"}
    assert set(map(tuple, found.values())) == {("outside_bounds",)}


def test_a_skewed_clock_either_way_and_one_within_tolerance(tmp_path: Path) -> None:
    records = smooth(2)
    late = [(t + dt.timedelta(minutes=4), *r) if r[0] == "s1" and t >= at("1 06:00") else (t, *r) for t, *r in records]
    found = reasons(tmp_path, late)  # type: ignore[arg-type]
    assert len(found) == 72
    assert set(map(tuple, found.values())) == {("clock_skew",)}
    early = [(t - dt.timedelta(minutes=4), *r) if r[0] == "s1" and t >= at("1 06:00") else (t, *r) for t, *r in records]
    assert len(reasons(tmp_path, early)) == 72  # type: ignore[arg-type]
    close = [(t + dt.timedelta(seconds=80), *r) for t, *r in records]
    assert reasons(tmp_path, close) == {}  # type: ignore[arg-type]
    assert reasons(tmp_path, late, contract={"clock_tolerance": 1}) == {}  # type: ignore[arg-type]


def test_a_freeze_is_flagged_from_its_second_record_and_a_shorter_one_is_not(tmp_path: Path) -> None:
    found = reasons(tmp_path, changed(smooth(3), "1 08:00", "1 16:00", "s2", 47.0))
    assert min(found)[0] == at("1 08:15")
    assert max(found)[0] == at("1 15:45")
    assert set(map(tuple, found.values())) == {("stuck",)}
    assert reasons(tmp_path, changed(smooth(3), "1 08:00", "1 14:00", "s2", 53.0)) == {}


def test_a_freeze_goes_on_over_midnight_gaps_and_bad_records(tmp_path: Path) -> None:
    records = changed(smooth(4), "1 20:00", "3 06:00", "s2", 47.0)
    records = changed(records, "2 04:00", "2 04:15", "s2", 500.0)
    records = [r for r in records if not (r[1] == "s2" and at("2 10:00") <= r[0] < at("2 14:00"))]
    stuck = sorted(t for (t, s, _), words in reasons(tmp_path, records).items() if s == "s2" and "stuck" in words)
    assert stuck[0] == at("2 00:00"), "before midnight it had lasted four hours only"
    assert stuck[-1] == at("3 05:45")
    assert len(stuck) == 96 + 24 - 1 - 16


def test_what_may_be_constant(tmp_path: Path) -> None:
    shut = changed(smooth(3), "1 08:00", "2 12:00", "s2", 0.0)
    assert "stuck" in {w for words in reasons(tmp_path, shut).values() for w in words}
    for good in (kind(constant_ok=[0]), kind(stuck_after="never"), kind(stuck_after="2d")):
        found = reasons(tmp_path, shut, kinds={"a": good})
        assert "stuck" not in {w for words in found.values() for w in words}


def test_one_kind_may_hold_while_another_of_its_sensor_rests(tmp_path: Path) -> None:
    flow = changed(smooth(3, what="flow"), "1 06:00", "1 20:00", "s2", 0.0)
    speed = changed(smooth(3, what="speed", seed=1), "1 06:00", "1 20:00", "s2", 60.0)
    flows, speeds = kind(constant_ok=[0]), kind(constant_with=["flow"])
    assert reasons(tmp_path, [*flow, *speed], kinds={"flow": flows, "speed": speeds}) == {}
    found = reasons(tmp_path, [*flow, *speed], kinds={"flow": flows, "speed": kind()})
    assert {key[2] for key in found} == {"speed"}
    busy = smooth(3, what="flow")
    assert len(reasons(tmp_path, [*busy, *speed], kinds={"flow": flows, "speed": speeds})) == 55


@pytest.mark.parametrize("value", [30.0, 75.0])
def test_a_spike_is_flagged_and_its_neighbours_are_not(tmp_path: Path, value: float) -> None:
    records = changed(smooth(4), "2 12:00", "2 12:15", "s3", value)
    assert reasons(tmp_path, records) == {(at("2 12:00"), "s3", "a"): ["spike"]}
    assert reasons(tmp_path, records, kinds={"a": kind(spikes=False)}) == {}
    assert reasons(tmp_path, records, contract={"spike_sigma": 60}) == {}


def test_the_last_record_of_a_day_can_be_a_spike(tmp_path: Path) -> None:
    records = changed(smooth(4), "2 23:45", "3 00:00", "s3", 90.0)
    assert reasons(tmp_path, records) == {(at("2 23:45"), "s3", "a"): ["spike"]}


def test_what_ramps_what_stays_and_what_all_share_is_no_spike(tmp_path: Path) -> None:
    ramp = smooth(4)
    for i, add in enumerate((8, 16, 24, 16, 8)):
        lo = 12 * 60 + 15 * i
        span = f"2 {lo // 60}:{lo % 60:02d}", f"2 {(lo + 15) // 60}:{(lo + 15) % 60:02d}"
        ramp = changed(ramp, *span, "s3", lambda v, add=add: v + add)
    assert reasons(tmp_path, ramp) == {}
    stays = changed(smooth(4), "2 12:00", "2 15:00", "s3", lambda v: v - 20)
    assert reasons(tmp_path, stays) == {}
    shared = smooth(4)
    for sensor in ("s1", "s2", "s3", "s4", "s5", "s6"):
        shared = changed(shared, "2 12:00", "2 12:15", sensor, lambda v: v + 25)
    assert reasons(tmp_path, shared) == {}


UNITS = {"a": {"unit": "km/h", "range": [0, 150], "mixups": ["mph"]}}


def test_a_unit_mixup_is_found_whole_and_a_jam_is_not_one(tmp_path: Path) -> None:
    records = changed(smooth(9, level=80), "7 09:00", "7 23:00", "s4", lambda v: v / 1.609344)
    found = reasons(tmp_path, records, kinds=UNITS)
    assert {key[1] for key in found} == {"s4"}
    assert (min(found)[0], max(found)[0]) == (at("7 09:00"), at("7 22:45"))
    assert set(map(tuple, found.values())) == {("unit_mixup",)}
    jam = smooth(9, level=80)
    for i, share in enumerate((0.9, 0.8, 0.7, *[0.6] * 10, 0.7, 0.8, 0.9)):
        lo = 8 * 60 + 15 * i
        span = f"7 {lo // 60}:{lo % 60:02d}", f"7 {(lo + 15) // 60}:{(lo + 15) % 60:02d}"
        jam = changed(jam, *span, "s4", lambda v, share=share: v * share)
    assert reasons(tmp_path, jam, kinds=UNITS) == {}
    slow = smooth(9, level=80)
    for sensor in ("s1", "s2", "s3", "s4", "s5", "s6"):
        slow = changed(slow, "7 09:00", "7 23:00", sensor, lambda v: v / 1.609344)
    assert reasons(tmp_path, slow, kinds=UNITS) == {}, "all of them at once is weather, not a setting"


def test_a_mixup_with_an_offset(tmp_path: Path) -> None:
    degrees = {"a": {"unit": "degC", "range": [-30, 60], "mixups": ["degF"]}}
    records = changed(smooth(9, level=8), "7 09:00", "7 23:00", "s4", lambda v: v * 1.8 + 32)
    found = reasons(tmp_path, records, kinds=degrees)
    assert (len(found), set(map(tuple, found.values()))) == (56, {("unit_mixup",)})


def test_rules_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sources\.x: stuck_after of 5 days .* at most 4d, or never"):
        reasons(tmp_path, smooth(1), contract={"stuck_after": "5d"})
    with pytest.raises(UserError, match=r"sources\.x\.kinds\.a\.mixups: unknown unit .fathom"):
        reasons(tmp_path, smooth(1), kinds={"a": kind(unit="km/h", mixups=["fathom"])})
    with pytest.raises(UserError, match=r"kinds\.a\.constant_with: no kind 'b'"):
        reasons(tmp_path, smooth(1), kinds={"a": kind(constant_with=["b"])})
