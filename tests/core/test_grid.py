"""A grid folder written and read back."""

import datetime as dt
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core import grid

START = dt.datetime(2025, 1, 30, 12, tzinfo=dt.UTC)
STEP = dt.timedelta(hours=1)


def channels(*names: str) -> pa.Table:
    rows = [{"sensor": n.split("/")[0], "kind": n.split("/")[1], "unit": "u", "label": False} for n in names]
    return pa.Table.from_pylist(rows, schema=grid.CHANNELS)


def write(folder: Path, values: np.ndarray, known: int, train: int = 40) -> grid.Series:  # type: ignore[type-arg]
    """Two months; the first knows only `known` channels."""
    pieces = [(name, values[lo:hi]) for name, lo, hi in grid.months(START, STEP, len(values))]
    pieces[0] = (pieces[0][0], pieces[0][1][:, :known])
    names = [f"s{i}/a" for i in range(values.shape[1])]
    splits = {"train": (0, train), "validation": (train, 50), "test": (50, len(values))}
    grid.write(folder, start=START, step=STEP, months=iter(pieces), channels=channels(*names), splits=splits)
    return grid.Series.open(folder)


def sample(rows: int = 60, width: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    values = np.random.default_rng(0).normal(50, 9, (rows, width)).astype(np.float32)
    values[::7] = np.nan
    return values


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    values = sample()
    series = write(tmp_path, values, known=2)
    assert [c[0] for c in series.chunks] == ["values/2025-01.npy", "values/2025-02.npy"]
    values[:36, 2] = np.nan  # not yet known in January
    np.testing.assert_array_equal(series.read(), values)
    np.testing.assert_array_equal(series.read(30, 41), values[30:41])  # over the border
    np.testing.assert_array_equal(series.read(30, 41, np.array([1, 2])), values[30:41, 1:])
    assert series.read(10, 10).shape == (0, 3)
    for lo, hi in ((-3, 2), (58, 70), (-5, 65), (70, 72)):
        padded = np.pad(values, ((5, 15), (0, 0)), constant_values=np.nan)
        np.testing.assert_array_equal(series.read(lo, hi), padded[lo + 5 : hi + 5])


def test_rows_and_times_agree(tmp_path: Path) -> None:
    series = write(tmp_path, sample(), known=3)
    times = series.times()
    assert len(times) == series.length == 60
    assert [series.row(series.when(i)) for i in (0, 7, 59)] == [0, 7, 59]
    assert str(times[36]) == "2025-02-01T00:00:00"
    assert series.when(36) == dt.datetime(2025, 2, 1, tzinfo=dt.UTC)
    assert series.row(START + dt.timedelta(seconds=1)) == 1
    assert series.row(START - dt.timedelta(hours=2)) == -2
    assert len(series.times(50, 70)) == 20


def test_scalers_are_of_the_training_rows(tmp_path: Path) -> None:
    values = sample(width=4)
    values[:, 1] = 5.0
    values[:40, 2] = np.nan
    series = write(tmp_path, values, known=4)
    seen = values[:40, 0][np.isfinite(values[:40, 0])].astype(np.float64)
    np.testing.assert_allclose(series.scalers[:, 0], [seen.mean(), seen.std()], rtol=1e-6)
    assert series.scalers[:, 1].tolist() == [5.0, 1.0]  # constant
    others = series.scalers[0, [0, 1, 3]].mean(), np.array([seen.std(), 0, values[:40, 3][values[:40, 3] > 0].std()])
    np.testing.assert_allclose(series.scalers[:, 2], [others[0], others[1].mean()], rtol=1e-5)  # untrained: its kind's


def test_scalers_of_a_large_offset_keep_their_spread_in_any_block(tmp_path: Path) -> None:
    values = (1e6 + np.random.default_rng(1).normal(0, 1, (60, 2))).astype(np.float32)
    series = write(tmp_path, values, known=2)
    for block in (1, 7, 8192):
        found = grid.training_scalers(series, block)
        np.testing.assert_allclose(found[1], values[:40].astype(np.float64).std(0), rtol=1e-6)


def test_a_shorter_grid_leaves_no_old_month_behind(tmp_path: Path) -> None:
    write(tmp_path, sample(), known=3)
    series = write(tmp_path, sample()[:30], known=3, train=30)
    assert [p.name for p in (tmp_path / "values").iterdir()] == ["2025-01.npy"]
    assert series.length == 30


def test_a_killed_write_does_not_open(tmp_path: Path) -> None:
    write(tmp_path, sample(), known=3)
    pieces = [("2025-01", sample()[:36])]
    with pytest.raises(RuntimeError):
        grid.write(
            tmp_path,
            start=START,
            step=STEP,
            months=(p if i == 0 else _fail() for i, p in enumerate(pieces * 2)),
            channels=channels("s/a", "t/a", "u/a"),
            splits={"train": (0, 30)},
        )
    with pytest.raises(FileNotFoundError):
        grid.Series.open(tmp_path)


def _fail() -> tuple[str, np.ndarray]:  # type: ignore[type-arg]
    raise RuntimeError


def test_chunks_of_another_grid_are_linked(tmp_path: Path) -> None:
    first = write(tmp_path / "a", sample(), known=3)
    paths = [(Path(file).stem, tmp_path / "a" / file) for file, _, _ in first.chunks]
    arguments = {"start": START, "step": STEP, "channels": first.channels, "splits": first.splits}
    grid.write(tmp_path / "b", months=paths, **arguments)  # type: ignore[arg-type]
    second = grid.Series.open(tmp_path / "b")
    np.testing.assert_array_equal(second.read(), first.read())
    assert os.path.samefile(tmp_path / "a/values/2025-01.npy", tmp_path / "b/values/2025-01.npy")
    assert (tmp_path / "a/grid.json").read_bytes() == (tmp_path / "b/grid.json").read_bytes()


def test_months_and_days_of_a_grid() -> None:
    assert grid.months(START, STEP, 60) == [("2025-01", 0, 36), ("2025-02", 36, 60)]
    assert grid.days(START, STEP, 36, 60) == [("2025-02-01", 36, 60)]
    assert grid.days(START, STEP, 0, 40) == [("2025-01-30", 0, 12), ("2025-01-31", 12, 36), ("2025-02-01", 36, 40)]
    assert grid.months(START, STEP, 0) == []
    odd = START.replace(hour=23, minute=50)
    assert grid.days(odd, dt.timedelta(minutes=15), 0, 3) == [("2025-01-30", 0, 1), ("2025-01-31", 1, 3)]
