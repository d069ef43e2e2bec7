"""Records on the grid: which step, which column, which chunk, and what never changes."""

import datetime as dt
import random
from pathlib import Path

import numpy as np
import pytest
from small_city import START, Row, cached, city, hourly, kind, put, source, tree, window

from pipelines import corpus, features
from pipelines.core import grid
from pipelines.core.errors import UserError


def opened(root: Path, name: str = "x") -> grid.Series:
    return grid.Series.open(root / "data/features/series" / name)


def names(series: grid.Series) -> list[str]:
    table = series.channels
    return [f"{s}/{k}" for s, k in zip(table["sensor"].to_pylist(), table["kind"].to_pylist(), strict=True)]


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_a_record_belongs_to_the_step_in_which_its_time_lies(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-01-21")
    put(
        tmp_path,
        "x",
        [
            (at("2025-01-20T00:00:00"), "s", "a", 1.0),
            (at("2025-01-20T01:59:59.999999"), "s", "a", 2.0),
            (at("2025-01-20T02:00:00"), "s", "a", 3.0),
            (at("2025-01-20T23:59:59.600000"), "s", "a", 4.0),
            (at("2025-01-21T00:00:00"), "s", "a", 99.0),  # at the window's end, which is not part of it
        ],
    )
    features.run("x", root=tmp_path)
    values = opened(tmp_path).read()[:, 0]
    assert len(values) == 24
    assert {int(i): float(values[i]) for i in np.flatnonzero(np.isfinite(values))} == {0: 1, 1: 2, 2: 3, 23: 4}


@pytest.mark.parametrize(("how", "expected"), [("mean", 4.0), ("sum", 12.0), ("max", 7.0), ("min", 1.0), ("last", 4.0)])
def test_several_records_of_a_step_become_one_by_the_kinds_aggregate(tmp_path: Path, how: str, expected: float) -> None:
    # A second kind with another aggregate: the two must not mix.
    kinds = {"a": kind(aggregate=how), "b": kind(aggregate="max" if how != "max" else "min")}
    city(tmp_path, {"x": source(kinds=kinds)}, until="2025-01-21")
    minutes = [(5, 7.0), (20, 1.0), (55, 4.0), (30, None), (31, float("nan")), (32, float("inf"))]
    rows: list[Row] = [(START + dt.timedelta(minutes=m), "s", "a", v) for m, v in minutes]
    rows += [(START + dt.timedelta(minutes=5), "s", "b", 50.0), (START + dt.timedelta(minutes=6), "s", "b", 50.0)]
    put(tmp_path, "x", rows)
    features.run("x", root=tmp_path)
    assert opened(tmp_path).read(0, 1).tolist() == [[expected, 50.0]]


@pytest.mark.parametrize("start", ["2025-01-20", "2025-01-20T06:00:00", "2025-01-29T23:47:00"])
@pytest.mark.parametrize("batch", [1, 50, 10**9])
def test_agrees_with_a_plain_loop_whatever_the_batch_and_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, start: str
) -> None:
    monkeypatch.setattr(features, "BATCH", batch)
    kinds = {"a": kind(), "b": kind(aggregate="max")}
    spec = source(step="15min", start=start, kinds=kinds)
    city(tmp_path, {"x": spec}, until="2025-02-15T12:10:00")
    begin, rng = at(start), random.Random(3)
    rows: list[Row] = []
    for sensor, first in [("s2", 0.0), ("s1", 0.3), ("s3", 9.5), ("s0", 9.9), ("s4", 12.2)]:
        moments = {round(rng.uniform(first, 16.5) * 86400) for _ in range(60)}
        moments |= {86400 * d + 900 for d in range(round(first + 0.5), 16)}  # where days and months of rows meet
        rows += [
            (begin + dt.timedelta(seconds=m), sensor, rng.choice("ab"), rng.uniform(0, 9)) for m in sorted(moments)
        ]
    put(tmp_path, "x", rows)
    features.run("x", root=tmp_path)
    series = opened(tmp_path)

    cells: dict[tuple[int, str], list[float]] = {}
    for time, sensor, what, value in rows:
        row = (time - begin) // dt.timedelta(minutes=15)
        if row < series.length:
            cells.setdefault((row, f"{sensor}/{what}"), []).append(float(value or 0))
    first = {}
    for row, name in sorted(cells):
        first.setdefault(name, ((begin + row * dt.timedelta(minutes=15)).date(), name))
    assert series.length == (at("2025-02-15T12:10:00") - begin) // dt.timedelta(minutes=15)
    assert names(series) == sorted(first, key=first.__getitem__)
    expected = np.full((series.length, len(first)), np.nan, np.float32)
    for (row, name), found in cells.items():
        expected[row, names(series).index(name)] = max(found) if name.endswith("b") else sum(found) / len(found)
    np.testing.assert_array_equal(series.read(), expected)


def test_a_later_window_leaves_closed_months_alone_even_when_a_sensor_is_added(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-02-25")
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-25", "s5"))
    features.run("x", root=tmp_path)
    folder = tmp_path / "data/features/series/x"
    january, before = folder / "values/2025-01.npy", tree(folder)
    inode = january.stat().st_ino

    put(tmp_path, "x", [*hourly("2025-02-25", "2025-03-03", "s5"), *hourly("2025-02-26", "2025-03-03", "s1")])
    window(tmp_path, x="2025-03-03")
    features.run("x", root=tmp_path)
    after = tree(folder)
    assert january.stat().st_ino == inode
    assert before["values/2025-01.npy"] == after["values/2025-01.npy"]
    assert before["values/2025-02.npy"] != after["values/2025-02.npy"]
    assert before["scalers.npy"] != after["scalers.npy"]  # one more channel
    series = opened(tmp_path)
    assert names(series) == ["s5/a", "s1/a"]  # a later sensor never goes before an earlier one
    assert [np.load(folder / file).shape[1] for file, _, _ in series.chunks] == [1, 2, 2]
    assert np.isnan(series.read(0, series.row(at("2025-02-26")))[:, 1]).all()
    np.testing.assert_array_equal(series.scalers[:, 1], series.scalers[:, 0])  # untrained: its kind's

    features.run("x", root=tmp_path)
    assert tree(folder) == after


def test_outputs_linked_to_a_cache_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()})
    put(tmp_path, "x", hourly("2025-01-20", "2025-03-05"))
    features.run("x", root=tmp_path)
    folder, cache = tmp_path / "data/features/series/x", tmp_path / "cache"
    kept = cached(folder, cache)
    put(tmp_path, "x", hourly("2025-01-20", "2025-03-05", add=1.0))
    features.run("x", root=tmp_path)
    assert tree(cache) == kept
    assert tree(folder)["values/2025-01.npy"] != kept["values/2025-01.npy"]


def test_splits_follow_the_dates_and_scalers_see_training_only(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()})
    rows = hourly("2025-01-20", "2025-03-05")
    put(tmp_path, "x", rows)
    features.run("x", root=tmp_path)
    series = opened(tmp_path)
    assert series.splits == {"train": (0, 21 * 24), "validation": (21 * 24, 31 * 24), "test": (31 * 24, 44 * 24)}
    train = np.array([r[3] for r in rows[: 21 * 24]], np.float64)
    np.testing.assert_allclose(series.scalers[:, 0], [train.mean(), train.std()], rtol=1e-6)

    put(tmp_path, "x", hourly("2025-02-10", "2025-03-05", add=1000.0))
    features.run("x", root=tmp_path)
    np.testing.assert_array_equal(opened(tmp_path).scalers, series.scalers)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("2025-01-30", {"train": (0, 240), "validation": (240, 240), "test": (240, 240)}),
        ("2025-02-15", {"train": (0, 504), "validation": (504, 624), "test": (624, 624)}),
    ],
)
def test_a_window_that_ends_early_gives_empty_ranges(
    tmp_path: Path, until: str, expected: dict[str, tuple[int, int]]
) -> None:
    city(tmp_path, {"x": source()}, until=until)
    put(tmp_path, "x", hourly("2025-01-20", until))
    features.run("x", root=tmp_path)
    assert opened(tmp_path).splits == expected


def test_months_without_a_record_are_rows_of_nothing(tmp_path: Path) -> None:
    spec = source(start="2024-11-15")
    city(tmp_path, {"x": spec}, until="2025-04-02")
    put(tmp_path, "x", [*hourly("2025-01-20", "2025-01-22"), (at("2025-03-01"), "s1", "a", float("nan"))])
    features.run("x", root=tmp_path)
    series = opened(tmp_path)
    folder = tmp_path / "data/features/series/x/values"
    assert [p.stem for p in sorted(folder.glob("*"))] == [f"2024-{m}" for m in (11, 12)] + [
        f"2025-0{m}" for m in range(1, 5)
    ]
    assert np.load(folder / "2024-11.npy", mmap_mode="r").shape == (16 * 24, 0)
    assert np.isfinite(series.read()).sum() == 48
    assert np.isnan(series.read(series.row(at("2025-01-22")))).all()


def test_five_thousand_sensors(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-01-21")
    hours = [START + dt.timedelta(hours=h) for h in range(4)]
    put(tmp_path, "x", [(t, f"s{i:04d}", "a", float(i % 90)) for t in hours for i in range(5000)])
    features.run("x", root=tmp_path)
    series = opened(tmp_path)
    assert len(series.channels) == 5000
    np.testing.assert_array_equal(series.read(0, 4), np.tile(np.arange(5000, dtype=np.float32) % 90, (4, 1)))


def test_edges_and_places_travel_with_the_grid(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-01-22")
    put(tmp_path, "x", hourly("2025-01-20", "2025-01-22"), edges=[("s1", "s2")])
    features.run("x", root=tmp_path)
    series = opened(tmp_path)
    assert series.edges is not None
    assert series.edges.to_pylist() == [{"source": "s1", "target": "s2", "weight": 1.0}]
    assert series.channels.to_pylist() == [
        {
            "sensor": "s1",
            "kind": "a",
            "unit": "u",
            "aggregate": "mean",
            "label": False,
            "latitude": 52.0,
            "longitude": 6.0,
            "district": "d",
        }
    ]


def test_the_grid_knows_whose_clock_it_lives_by(tmp_path: Path) -> None:
    city(tmp_path, {"x": source(), "y": source(timezone="Asia/Tokyo")}, until="2025-01-22")
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("name: small", "name: small\n  timezone: Europe/Paris"))
    for name in "xy":
        put(tmp_path, name, hourly("2025-01-20", "2025-01-22"))
        features.run(name, root=tmp_path)
    assert [opened(tmp_path, name).timezone for name in "xy"] == ["Europe/Paris", "Asia/Tokyo"]
    corpus.run("series", root=tmp_path)
    assert grid.Series.open(tmp_path / "data/corpus/series/y").timezone == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("rows", "until", "says"),
    [
        ([], "2025-02-01", r"data/validated/x: no validated data in the window; run `cityloop validate x`"),
        (hourly("2025-02-11", "2025-02-12"), "2025-03-01", r"sources\.x\.validation_from: no values between"),
        ([(START, "s", "a", None), (START, "t", "a", float("nan"))], "2025-02-01", "no values between start"),
        (hourly("2025-01-20", "2025-01-21", what="b"), "2025-02-01", r"2025-01-20\.parquet: kind 'b' is not in"),
        (hourly("2025-01-20", "2025-01-21"), "2025-01-20T00:59:00", r"window\.yaml: x: the window ends before its"),
    ],
)
def test_what_cannot_be_gridded_is_one_line_and_nothing_is_written(
    tmp_path: Path, rows: list[Row], until: str, says: str
) -> None:
    city(tmp_path, {"x": source()}, until=until)
    put(tmp_path, "x", rows)
    with pytest.raises(UserError, match=says) as caught:
        features.run("x", root=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data/features").exists()
