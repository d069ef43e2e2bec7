"""Local time against zoneinfo, over every kind of change of the clock."""

import datetime as dt
import zoneinfo

import numpy as np
import pytest

from pipelines.core import calendar

ZONES = [
    "UTC",
    "Europe/Amsterdam",
    "America/New_York",
    "America/St_Johns",  # half past the hour
    "Australia/Lord_Howe",  # shifts by half an hour
    "Asia/Kathmandu",  # 5:45 east
    "Africa/Casablanca",  # changes around Ramadan
    "Asia/Shanghai",
]


@pytest.mark.parametrize("zone", ZONES)
def test_agrees_with_zoneinfo_over_a_year(zone: str) -> None:
    times = np.arange(np.datetime64("2025-01-01", "s"), np.datetime64("2026-01-02", "s"), np.timedelta64(300, "s"))
    local = calendar.local_seconds(times, zone)
    info = zoneinfo.ZoneInfo(zone)
    for i in range(0, len(times), 5):  # every 25 minutes, so that all quarters are met
        moment = times[i].item().replace(tzinfo=dt.UTC).astimezone(info).replace(tzinfo=dt.UTC)
        assert local[i] == moment.timestamp(), moment


@pytest.mark.parametrize("zone", ZONES)
def test_a_few_days_are_told_as_the_whole_year_is(zone: str) -> None:
    """Within a few days the clock is first asked whether it changes at all."""
    times = np.arange(np.datetime64("2025-01-01", "s"), np.datetime64("2026-01-02", "s"), np.timedelta64(900, "s"))
    assert (times[-1] - times[0]) // np.timedelta64(1, "D") > calendar.SPAN
    parts = [calendar.local_seconds(times[i : i + 200], zone) for i in range(0, len(times), 200)]
    assert np.array_equal(np.concatenate(parts), calendar.local_seconds(times, zone))


def test_an_hour_is_skipped_in_spring_and_lived_twice_in_autumn() -> None:
    zone = "Europe/Amsterdam"
    spring = np.datetime64("2025-03-30T00:30", "s") + np.arange(3) * np.timedelta64(3600, "s")
    autumn = np.datetime64("2025-10-25T23:30", "s") + np.arange(4) * np.timedelta64(3600, "s")
    hours = [calendar.local_seconds(t, zone) % 86400 / 3600 for t in (spring, autumn)]
    assert hours[0].tolist() == [1.5, 3.5, 4.5]
    assert hours[1].tolist() == [1.5, 2.5, 2.5, 3.5]


def test_features_know_the_time_of_day_the_weekend_and_holidays() -> None:
    times = np.array(["2025-06-06T22:00", "2025-06-07T10:00", "2025-06-08T10:00", "2025-06-09T10:00"], "datetime64[s]")
    found = calendar.features(times, "Europe/Amsterdam", ("2025-06-09",))
    assert found.dtype == np.float32
    assert found.shape == (4, calendar.FEATURES)
    np.testing.assert_allclose(found[:, 0], [0, 0, 0, 0], atol=1e-6)  # local midnight, then three noons
    np.testing.assert_allclose(found[:, 1], [1, -1, -1, -1], atol=1e-6)
    assert found[:, 6].tolist() == [1, 1, 1, 0]  # 7 June begins at 22:00 UTC
    assert found[:, 7].tolist() == [0, 0, 0, 1]
    assert calendar.features(times[:0], "UTC").shape == (0, calendar.FEATURES)


def test_any_of_many_holidays_is_known_and_no_other_day() -> None:
    days = np.datetime64("2025-01-01", "s") + np.arange(365) * np.timedelta64(1, "D")
    holidays = ("2025-12-26", "2025-01-01", "2025-04-21", "2026-01-01")
    off = calendar.features(days, "UTC", holidays)[:, 7] > 0
    assert days[off].astype("datetime64[D]").astype(str).tolist() == ["2025-01-01", "2025-04-21", "2025-12-26"]


def test_slots_of_the_week_and_holidays_as_sundays() -> None:
    times = np.array(["2025-06-01T23:00", "2025-06-09T10:30", "2025-06-10T10:30"], "datetime64[s]")
    slots = calendar.slot_of_week(times, "Europe/Amsterdam", ("2025-06-09",), 1800)
    assert slots.tolist() == [2, 6 * 48 + 25, 48 + 25]  # Monday 01:00; Whit Monday, a Sunday 12:30; Tuesday 12:30
