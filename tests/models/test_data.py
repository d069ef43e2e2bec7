"""Windows of a grid: inside their split, alike from memory and disk, and clear when there are none."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_city import SENSORS, data, opened

from pipelines.core import grid, windows
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.windows import Spec
from pipelines.models import vocabulary
from pipelines.models.data import Windows, spread_out, strangers
from pipelines.models.tokens import Config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data(tmp_path_factory.mktemp("grid"), "ahead", "leaks")


def one(root: Path, reconstruct: bool) -> Windows:
    return opened(root, "leaks" if reconstruct else "ahead", reconstruct)


def change(chosen: Windows, rows: slice, columns: Any, value: float) -> None:
    """Overwrite readings of an opened grid, in memory only."""
    whole = chosen.series.read()
    whole[rows, np.array(chosen.columns)[columns]] = value
    parts = [whole[lo:hi].view(Copy) for _, lo, hi in chosen.series.chunks]
    chosen.series.__dict__["_maps"] = parts


class Copy(np.ndarray[Any, Any]):
    """A month in memory, which nothing maps."""

    _mmap = mmap.mmap(-1, 1)


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_asked_steps_lie_in_the_split(root: Path, split: str, reconstruct: bool) -> None:
    chosen = one(root, reconstruct)
    lo, hi = chosen.series.splits[split]
    rows = chosen.rows(split, 1)
    asked = rows[:, None] + chosen.known + np.arange(chosen.spec.horizon)
    assert asked.min() >= lo
    assert asked.max() == hi - 1
    if split != "train":
        assert asked.min() == lo
    # Nothing that such a window is given or asked lies past its split.
    assert (rows + max(chosen.spec.context, chosen.known + chosen.spec.horizon)).max() <= hi


@pytest.mark.parametrize("reconstruct", [False, True])
def test_training_and_validation_never_read_the_test_period(root: Path, tmp_path: Path, reconstruct: bool) -> None:
    mine = one(root, reconstruct)
    other = one(data(tmp_path, "ahead", "leaks", change_test=True), reconstruct)
    assert not np.array_equal(mine.series.read(), other.series.read(), equal_nan=True)
    assert np.array_equal(mine.profile, other.profile)
    for split in ("train", "validation"):
        rows = mine.rows(split, 7)
        for key, found in mine.batch(rows).items():
            assert np.array_equal(found, other.batch(rows)[key], equal_nan=True), (split, key)
    rows = mine.rows("test", 7)
    assert not np.array_equal(mine.batch(rows)["truth"], other.batch(rows)["truth"], equal_nan=True)


def test_windows_over_the_ends_of_months_and_of_the_grid(root: Path) -> None:
    chosen = one(root, False)
    length = chosen.series.length
    whole = chosen.series.read()[:, list(chosen.columns)]
    months = [lo for _, lo, _ in chosen.series.chunks]
    assert len(months) > 1
    rows = np.array([-30, -3, 0, 100, months[1] - 20, length - 10, length + 5])
    found = chosen.read(rows, 40)
    assert found.dtype == np.float32
    for b, row in enumerate(rows):
        at = np.arange(row, row + 40)
        inside = (at >= 0) & (at < length)
        assert np.array_equal(found[b, inside], whole[at[inside]], equal_nan=True)
        assert np.isnan(found[b, ~inside]).all()
    assert np.array_equal(chosen.read(rows, 40, np.array([0, 3])), found[..., [0, 3]], equal_nan=True)


def test_what_is_mapped_in_is_let_go_and_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = one(root, False)
    rows = chosen.rows("train", 5)
    before = chosen.read(rows, 40)
    dropped = []
    monkeypatch.setattr(grid, "RESIDENT", 1000)
    monkeypatch.setattr(Series, "_resident", property(lambda self: [dropped.append(1) or 2000]))
    assert np.array_equal(chosen.read(rows, 40), before, equal_nan=True)
    assert dropped


def test_a_batch_of_some_columns_is_the_batch_without_the_others(root: Path) -> None:
    chosen = one(root, False)
    rows = chosen.rows("train", 50)
    whole, part = chosen.batch(rows), chosen.batch(rows, np.array([1, 3, 4]))
    assert part["truth"].shape[-1] == 2
    assert np.array_equal(part["truth"], whole["truth"][..., [1, 3]], equal_nan=True)
    for key in ("values", "observed", "profile", "mean", "std"):
        assert np.array_equal(part[key], whole[key][..., [1, 3, 4]])


def test_some_columns_keep_targets_first(root: Path) -> None:
    chosen = one(root, False)
    for seed in range(20):
        columns = chosen.some_columns(np.random.default_rng(seed), 3)
        assert len(columns) == len(set(columns)) == 3
        assert list(columns) == sorted(columns)
        assert (columns < chosen.targets).sum() >= 2
    assert chosen.some_columns(np.random.default_rng(0), 99).tolist() == [0, 1, 2, 3, 4]


def test_truth_is_what_was_measured_at_that_time(root: Path) -> None:
    chosen = one(root, False)
    rows = np.array([40, 77])
    truth, starts = chosen.batch(rows)["truth"], chosen.starts(rows)
    assert truth.shape == (2, 6, len(SENSORS))
    whole = chosen.series.read()
    for b, begin in enumerate(starts):
        at = int((begin - chosen.series.start) / chosen.series.step) + chosen.spec.context
        assert np.array_equal(truth[b], whole[at : at + 6, : len(SENSORS)], equal_nan=True)
    assert np.isnan(chosen.series.read()[:, : len(SENSORS)]).any(), "the city should have gaps"


def test_what_comes_after_now_is_truth_and_nothing_else(root: Path) -> None:
    one_, other = one(root, False), one(root, False)
    rows = one_.rows("test", 80)[:2]  # training windows also take their own readings out of the profile
    for row in rows:
        change(other, slice(row + 24, row + 60), slice(None), -7)
    before, after = one_.batch(rows), other.batch(rows)
    assert (after["truth"] == -7).all()
    assert all(np.array_equal(v, after[k]) for k, v in before.items() if k != "truth")


def test_asked_readings_do_not_fill_a_gap_before_them(root: Path) -> None:
    chosen = one(root, True)
    change(chosen, slice(100, 118), 2, np.nan)
    batch = chosen.batch(np.array([100]))
    assert chosen.known == 18
    assert np.array_equal(batch["values"][0, :18, 2], batch["profile"][0, :18, 2])


def test_labels_are_of_the_asked_steps(root: Path) -> None:
    chosen = one(root, True)
    rows = np.array([200, 40, 41])
    found = chosen.labelled(rows)
    for b, row in enumerate(rows):
        assert np.array_equal(found[b], chosen.label(row + chosen.known, row + chosen.known + 6), equal_nan=True)


def test_labels_are_no_input_and_stand_beside_their_sensor(root: Path) -> None:
    chosen = one(root, True)
    assert chosen.channel("kind") == ["a"] * 4
    label = chosen.label(0, 50)
    assert label is not None
    names = list(zip(*(chosen.series.channels[c].to_pylist() for c in ("sensor", "kind")), strict=True))
    for i, sensor in enumerate(chosen.channel("sensor")):
        assert np.array_equal(label[:, i], chosen.series.read(0, 50)[:, names.index((sensor, "leak"))], equal_nan=True)
    assert one(root, False).label(0, 9) is None


def test_a_period_too_short_says_which_and_what_to_do(root: Path) -> None:
    long = Windows.of_task(root / "data/joined/ahead", Spec.of(3600, 24, 24 * 20, "UTC"), False)
    with pytest.raises(UserError, match=r"validation period has 240 h.*horizon of 480 h") as error:
        long.rows("validation", 1)
    assert "\n" not in str(error.value)


def test_a_window_may_begin_before_the_data_but_half_of_it_is_there(root: Path) -> None:
    chosen = one(root, False)
    first = chosen.batch(chosen.rows("train", 1)[:1])
    assert chosen.rows("train", 1)[0] == -12
    assert not first["observed"][0, :12].any()
    assert np.isfinite(first["values"]).all()


def test_spread_out() -> None:
    rows = np.arange(100, 200)
    assert np.array_equal(spread_out(rows, 100), rows)
    few = spread_out(rows, 7)
    assert len(few) == 7
    assert (few[0], few[-1]) == (100, 199)


def test_vocabulary_numbers_are_found_again_and_strangers_are_zero(root: Path) -> None:
    chosen = one(root, False)
    known = Config("tiny", **vocabulary.collect([chosen, one(root, True)]))
    assert (known.kinds, known.units) == (("a", "w"), ("u",))
    assert known.sensors == ("m/w", "s1/a", "s2/a", "s3/a", "s4/a")
    found = vocabulary.numbers(chosen, known)
    assert found["unit_id"].tolist() == [1] * 5
    assert [known.sensors[i - 1] for i in found["sensor"]] == ["s1/a", "s2/a", "s3/a", "s4/a", "m/w"]
    assert found["place"].shape == (5, 12)
    assert found["place"].dtype == np.float32
    stranger = vocabulary.numbers(chosen, Config("tiny", ("w",), ("s1/a",), units=("kW",)))
    assert stranger["kind"].tolist() == [0, 0, 0, 0, 1]
    assert not stranger["unit_id"].any()
    assert stranger["sensor"].tolist() == [1, 0, 0, 0, 0]


def test_profile_is_of_the_chosen_columns(root: Path) -> None:
    chosen = one(root, False)
    whole = windows.Week.of(chosen.series, chosen.spec).profile
    assert np.array_equal(chosen.profile, whole[:, list(chosen.columns)])


def test_half_of_the_sensors_are_strangers_in_training() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([strangers(rng, np.arange(1, 101)) for _ in range(50)])
    assert 0.45 < (drawn == 0).mean() < 0.55
    assert ((drawn == 0) | (drawn == np.arange(1, 101))).all()
