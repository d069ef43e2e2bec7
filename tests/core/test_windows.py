"""From raw readings to what a model is given: gaps, profiles and the clock."""

import datetime as dt
import zoneinfo
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core import calendar, grid, windows
from pipelines.core.windows import Spec

NAN = float("nan")
AMSTERDAM = "Europe/Amsterdam"


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[None, :, None]


def test_a_gap_follows_the_profile_at_the_last_known_deviation() -> None:
    usual = column(10, 20, 30, 40, 50)
    filled, observed = windows.fill(column(12, NAN, NAN, 41, NAN), usual)
    assert filled[0, :, 0].tolist() == [12, 22, 32, 41, 51]
    assert observed[0, :, 0].tolist() == [1, 0, 0, 1, 0]
    assert filled.dtype == observed.dtype == np.float32


def test_before_the_first_value_its_own_deviation_holds() -> None:
    filled, _ = windows.fill(column(NAN, NAN, 33, NAN), column(10, 20, 30, 40))
    assert filled[0, :, 0].tolist() == [13, 23, 33, 43]


def test_a_silent_channel_follows_its_profile_and_infinity_is_no_value() -> None:
    filled, observed = windows.fill(column(NAN, float("inf"), -float("inf")), column(1, 2, 3))
    assert filled[0, :, 0].tolist() == [1, 2, 3]
    assert not observed.any()


def test_a_gap_at_the_start_is_not_filled_from_the_asked_steps() -> None:
    """Else a hidden reading would tell itself through the window's level."""
    usual = column(10, 10, 10, 10)
    filled, _ = windows.fill(column(NAN, NAN, 99, NAN), usual, known=2)
    assert filled[0, :, 0].tolist() == [10, 10, 99, 99]
    filled, _ = windows.fill(column(NAN, 12, 99, NAN), usual, known=2)
    assert filled[0, :, 0].tolist() == [12, 12, 99, 99]


def test_fill_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 12, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.5] = NAN
    usual = rng.normal(size=values.shape).astype(np.float32)
    filled, _ = windows.fill(values, usual)
    for b in range(4):
        for n in range(3):
            known = [i for i in range(12) if np.isfinite(values[b, i, n])]
            for i in range(12):
                source = max((k for k in known if k <= i), default=known[0] if known else None)
                shift = 0.0 if source is None else values[b, source, n] - usual[b, source, n]
                assert filled[b, i, n] == pytest.approx(usual[b, i, n] + shift, abs=1e-5)


def test_a_window_without_gaps_passes_as_it_is() -> None:
    values = np.random.default_rng(0).normal(size=(2, 12, 3))
    filled, observed = windows.fill(values, np.zeros_like(values), known=4)
    assert filled.dtype == observed.dtype == np.float32
    assert np.array_equal(filled, values.astype(np.float32))
    assert observed.all()


def test_peers_say_how_far_they_are_from_their_usual() -> None:
    values = np.array([[[12.0, 5.0, NAN]]], np.float32)
    usual, std = np.array([[[10.0, 1.0, 7.0]]], np.float32), np.array([2, 4, 1], np.float32)
    peers, weights = np.array([[1, 2], [0, 2], [0, 0]]), np.array([[0.75, 0.25], [1, 0], [0, 0]], np.float32)
    # One spread above usual is one spread above usual, whatever the unit; a missing peer says nothing.
    assert windows.beside(values, usual, std, peers, weights).tolist() == [[[1.5, 4.0, 0.0]]]
    nothing = windows.beside(values, usual, std, peers, np.zeros_like(weights))
    assert nothing.dtype == np.float32
    assert nothing.tolist() == [[[0.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("step", "cadence", "patch"),
    [(60, "5min", 12), (300, "5min", 12), (600, "15min", 8), (900, "15min", 8), (3600, "1h", 6), (86400, "1d", 7)],
)
def test_context_and_future_are_whole_patches(step: int, cadence: str, patch: int) -> None:
    spec = Spec.of(step, 2 * patch + 1, patch + 1, "UTC")
    assert (spec.cadence, spec.patch, spec.context, spec.horizon, spec.future) == (
        cadence, patch, 3 * patch, patch + 1, 2 * patch,
    )  # fmt: skip
    assert Spec.of(step, 2 * patch, patch, "UTC").context == 2 * patch


def test_known_steps() -> None:
    spec = Spec.of(3600, 24, 5, "UTC")
    assert windows.known_steps(spec, reconstruct=False) == 24
    assert windows.known_steps(spec, reconstruct=True) == 18


def test_spec_survives_json() -> None:
    spec = Spec.of(900, 96, 8, AMSTERDAM, ("2025-01-01",))
    assert Spec.from_json(spec.to_json()) == spec


def test_profile_follows_the_wall_clock_over_a_change_of_the_clock() -> None:
    spec = Spec.of(3600, 24, 6, AMSTERDAM)
    profile = np.arange(168, dtype=np.float32)[:, None]
    times = np.arange(np.datetime64("2025-03-29T12", "s"), np.datetime64("2025-03-31T12", "s"), np.timedelta64(1, "h"))
    found = windows.profile_at(profile, times, spec)[:, 0]
    zone = zoneinfo.ZoneInfo(AMSTERDAM)
    for at, slot in zip(times, found, strict=True):
        local = at.item().replace(tzinfo=dt.UTC).astimezone(zone)
        assert slot == local.weekday() * 24 + local.hour
    assert len(set(np.diff(found)) - {1.0, -167.0}) == 1  # one jump: the hour that the night of 30 March lacks


def test_a_holiday_looks_like_a_sunday() -> None:
    spec = Spec.of(3600, 24, 6, "UTC", ("2025-04-30",))  # a Wednesday
    profile = np.arange(168, dtype=np.float32)[:, None]
    found = windows.profile_at(profile, np.array(["2025-04-30T05", "2025-05-01T05"], "datetime64[s]"), spec)
    assert found[:, 0].tolist() == [6 * 24 + 5, 3 * 24 + 5]


def series(folder: Path, values: np.ndarray, train: int) -> grid.Series:
    start = dt.datetime(2025, 3, 28, tzinfo=dt.UTC)
    step = dt.timedelta(hours=1)
    n = values.shape[1]
    rows = [
        {"sensor": f"s{i}", "kind": "a", "unit": "u", "aggregate": "mean", "label": False, "latitude": None,
         "longitude": None, "district": None}
        for i in range(n)
    ]  # fmt: skip
    grid.write(
        folder,
        start=start,
        step=step,
        months=[(name, values[lo:hi]) for name, lo, hi in grid.months(start, step, len(values))],
        channels=pa.Table.from_pylist(rows, schema=grid.CHANNELS),
        splits={"train": (0, train), "validation": (train, train), "test": (train, len(values))},
    )
    return grid.Series.open(folder)


def test_week_profile_against_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid.Series, "block", 77)
    rng = np.random.default_rng(0)
    values = rng.normal(10, 3, (600, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = NAN
    values[:, 2] = NAN
    values[5, 2] = 4.0  # a channel read once
    opened = series(tmp_path, values, train=500)
    spec = Spec.of(3600, 24, 6, AMSTERDAM)
    found = windows.Week.of(opened, spec).profile
    slots = calendar.slot_of_week(opened.times(), AMSTERDAM, (), 3600)
    for n in range(3):
        for slot in range(168):
            mine = [v for v, s in zip(values[:500, n], slots[:500], strict=True) if s == slot and np.isfinite(v)]
            day = [v for v, s in zip(values[:500, n], slots[:500], strict=True) if s % 24 == slot % 24 and v == v]
            lean = np.mean(day) if day else np.nanmean(values[:500, n])
            assert found[slot, n] == pytest.approx((np.sum(mine) + lean) / (len(mine) + 1), rel=1e-5)


def test_week_profile_sees_the_training_period_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 3, (600, 2)).astype(np.float32)
    later = values.copy()
    later[500:] = 1e6
    spec = Spec.of(3600, 24, 6, AMSTERDAM)
    one = windows.Week.of(series(tmp_path / "a", values, 500), spec).profile
    assert np.array_equal(one, windows.Week.of(series(tmp_path / "b", later, 500), spec).profile)


def test_a_training_reading_is_judged_by_the_other_weeks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 3, (600, 2)).astype(np.float32)
    spec = Spec.of(3600, 24, 6, AMSTERDAM)
    opened = series(tmp_path / "all", values, 500)
    week = windows.Week.of(opened, spec)
    left_out = values.copy()
    left_out[77, 0] = NAN
    other = windows.Week.of(series(tmp_path / "less", left_out, 500), spec)
    times = opened.times(77, 78)[None]
    found = week.without(times, values[None, 77:78], spec)[0, 0]
    expected = windows.profile_at(other.profile, times, spec)[0, 0]
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert not np.isclose(found[0], windows.profile_at(week.profile, times, spec)[0, 0, 0])
    nothing = week.without(times, np.full((1, 1, 2), NAN), spec)
    np.testing.assert_array_equal(nothing, windows.profile_at(week.profile, times, spec))


def test_prepare_shapes_and_alignment() -> None:
    spec = Spec.of(3600, 24, 5, AMSTERDAM)
    profile = np.arange(168, dtype=np.float32)[:, None].repeat(2, 1)
    values = np.full((3, 24, 2), NAN, np.float32)
    values[1, 3, 1] = 7.0
    starts = np.array(["2025-03-24T00", "2025-03-25T10", "2025-03-29T20"], "datetime64[s]")
    found = windows.prepare(values, starts, profile, spec)
    assert {k: (v.shape, v.dtype.name) for k, v in found.items()} == {
        "values": ((3, 24, 2), "float32"),
        "observed": ((3, 24, 2), "float32"),
        "profile": ((3, 30, 2), "float32"),
        "calendar": ((3, 5, calendar.FEATURES + windows.LEAD), "float32"),
    }
    assert found["observed"].sum() == 1
    assert found["observed"][1, 3, 1] == 1
    assert found["profile"][0, :3, 0].tolist() == [1, 2, 3]  # midnight UTC is one o'clock in Amsterdam
    alone = windows.prepare(values[2:], starts[2:], profile, spec)
    assert all(np.array_equal(alone[k], v[2:]) for k, v in found.items())


def test_a_window_is_prepared_alike_wherever_it_starts_in_a_batch() -> None:
    spec = Spec.of(900, 16, 8, "UTC")
    rng = np.random.default_rng(0)
    profile = rng.normal(size=(672, 2)).astype(np.float32)
    values = rng.normal(size=(1, 16, 2)).astype(np.float32)
    start = np.array(["2025-03-24T00"], "datetime64[s]")
    one = windows.prepare(values, start, profile, spec)
    week = windows.prepare(values, start + np.timedelta64(7, "D"), profile, spec)
    assert np.array_equal(one["profile"], week["profile"])


def test_places_are_finite_and_distinct() -> None:
    found = windows.locations(np.array([52.0, 52.1, NAN]), np.array([4.0, 4.0, 4.0]), (52.0, 4.0))
    assert found.shape == (3, 12)
    assert not np.array_equal(found[0], found[1])
    assert not found[2].any()


def test_what_is_known_ahead_is_prepared_with_the_context_and_says_nothing_before() -> None:
    spec = Spec.of(3600, 24, 6, "UTC")
    profile = np.full((168, 2), 10, np.float32)
    values = np.full((1, 30, 2), NAN, np.float32)
    values[0, 3, 0] = 12
    values[0, 26:, 1] = 17
    found = windows.prepare(values, np.array(["2025-03-24T00"], "datetime64[s]"), profile, spec, 24)
    assert found["values"].shape == found["observed"].shape == (1, 30, 2)
    assert found["values"][0, :, 0].tolist() == [12] * 30
    assert found["values"][0, :, 1].tolist() == [10] * 26 + [17] * 4
    assert found["observed"][0, :, 1].tolist() == [0] * 26 + [1] * 4


def test_a_straightened_week_keeps_its_shape_and_takes_level_and_range_from_a_few_days() -> None:
    hour = np.arange(168)
    work = np.where(hour < 120, 1.0, 0.4)
    week = (50 + 30 * work * np.sin(2 * np.pi * hour / 24)).astype(np.float32)
    rng, days = np.random.default_rng(1), np.arange(24, 72)  # Tuesday and Wednesday
    seen = np.zeros((168, 4))
    seen[days] = 1
    seen[:, 3] = 0
    truth = np.stack([week * 1.5, week + 20, week * 0.02, week], axis=1)
    new = windows.Week((truth + rng.normal(0, 1, truth.shape)) * seen, seen, np.zeros(4))
    found = windows.straightened(np.repeat(week[:, None], 4, axis=1), new)
    assert found.dtype == np.float32
    off = np.abs(found - truth).mean(0)
    was = np.abs(week[:, None] - truth).mean(0)
    assert (off[:3] < 0.15 * was[:3]).all(), "the weekend, which nobody saw, is told too"
    np.testing.assert_array_equal(found[:, 3], week)


def test_a_straightened_week_does_not_trust_a_channel_whose_week_is_flat() -> None:
    seen = np.ones((168, 1))
    new = windows.Week(np.full((168, 1), 7.0), seen, np.zeros(1))
    np.testing.assert_allclose(windows.straightened(np.full((168, 1), 3.0, np.float32), new), 7.0)
