"""A task's grid: who stands where, nothing from the future, and no wave of changes."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_city import START, city, hourly, kind, put, source, tree, window

from pipelines import features, join
from pipelines.core import files, grid
from pipelines.core.errors import UserError

LEAK = {"a": kind(), "leak": kind(aggregate="max", label=True)}


def task(inputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "tasks": {
            "t": {
                "department": "dept",
                "question": "?",
                "objective": "forecast",
                "backbone": "series",
                "target": {"source": "x", "kinds": ["a"]},
                "inputs": inputs,
                "context": "1d",
                "horizon": "1h",
                **more,
            }
        }
    }


def build(root: Path, *names: str) -> grid.Series:
    for name in names:
        features.run(name, root=root)
    join.run("t", root=root)
    return grid.Series.open(root / "data/joined/t")


def names(series: grid.Series) -> list[str]:
    table = series.channels
    return [f"{s}/{k}" for s, k in zip(table["sensor"].to_pylist(), table["kind"].to_pylist(), strict=True)]


def test_target_then_label_then_inputs_with_their_roles(tmp_path: Path) -> None:
    wet = {"w": kind(), "v": kind(), "truth": kind(label=True)}
    sources = {"x": source(kinds=LEAK, timezone="Asia/Tokyo"), "y": source(kinds=wet)}
    more = task([{"source": "y", "kinds": ["w"]}], objective="anomaly", label="leak")
    city(tmp_path, sources, until="2025-02-12", **more)
    rows = [r for s in ("s2", "s1") for r in hourly("2025-01-20", "2025-02-12", s)]
    rows += [*hourly("2025-01-20", "2025-02-12", "s2", "leak"), *hourly("2025-01-21", "2025-02-12", "s7", "leak")]
    put(tmp_path, "x", rows, edges=[("s1", "s2"), ("s2", "s7")])
    put(tmp_path, "y", [r for w in "wv" for r in hourly("2025-01-20", "2025-02-12", "m", w)])
    joined = build(tmp_path, "x", "y")
    assert names(joined) == ["s1/a", "s2/a", "s2/leak", "m/w"]  # s7 is no target sensor: its label is of no use
    assert joined.roles == {"target": (0, 2), "label": (2, 3), "input": (3, 4)}
    whole = grid.Series.open(tmp_path / "data/features/series/x")
    assert (joined.start, joined.step, joined.length) == (whole.start, whole.step, whole.length)
    assert joined.splits == whole.splits
    assert joined.timezone == "Asia/Tokyo"
    np.testing.assert_array_equal(joined.read()[:, :3], whole.read()[:, :3])
    np.testing.assert_allclose(joined.scalers[:, :3], whole.scalers[:, :3], rtol=1e-6)
    assert joined.edges is not None
    assert joined.edges["target"].to_pylist() == ["s2"]


HOWS = ["mean", "sum", "max", "min", "last"]


@pytest.mark.parametrize(
    ("target", "other", "how"),
    [
        *((60, 5, how) for how in HOWS),
        *((15, 10, "mean"), (1440, 60, "sum"), (15, 5, "last")),
        *((5, 60, "mean"), (60, 60, "mean"), (10, 15, "sum"), (60, 1440, "max")),
    ],
)
def test_a_row_holds_what_was_known_by_its_end(tmp_path: Path, target: int, other: int, how: str) -> None:
    """Against a plain loop over all steps, with holes, an input that begins later, off the grid, and ends earlier."""
    begins, ends = START + dt.timedelta(days=2, minutes=7), "2025-02-12"
    kinds = {"w": kind(aggregate=how)}
    sources = {"x": source(step=f"{target}min"), "y": source(step=f"{other}min", start=f"{begins:%FT%T}", kinds=kinds)}
    city(
        tmp_path, sources, until="2025-02-14", **task([{"source": "y"}], horizon=f"{target}min", context=f"{target}min")
    )
    window(tmp_path, x="2025-02-14", y=ends)
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-14", minutes=target))
    feed = [r for i, r in enumerate(hourly(f"{begins:%FT%T}", ends, "m", "w", minutes=other)) if i % 7 and i % 60 < 50]
    put(tmp_path, "y", feed)
    joined = build(tmp_path, "x", "y")

    size, own = dt.timedelta(minutes=target), dt.timedelta(minutes=other)
    steps = {r[0]: r[3] for r in feed}
    count = (dt.datetime(2025, 2, 12, tzinfo=dt.UTC) - begins) // own
    ended: dict[int, list[float]] = {}
    for i in range(count):
        moment = begins + i * own
        row = -(-(moment + own - START) // size) - 1  # the row within which the step ends
        ended.setdefault(row, []).append(steps.get(moment, np.nan))
    expected = np.full(joined.length, np.nan)
    for row in range(joined.length):
        if other < target:
            found = [v for v in ended.get(row, []) if v == v]
            if found:
                pick = {"mean": np.mean, "sum": sum, "max": max, "min": min, "last": lambda v: v[-1]}[how]
                expected[row] = pick(found)
        else:
            newest = (START + (row + 1) * size - begins) // own - 1
            if 0 <= newest < count:
                expected[row] = steps.get(begins + newest * own, np.nan)
    assert np.isfinite(expected).sum() > 15
    assert np.isnan(expected).sum() > 3
    np.testing.assert_allclose(joined.read()[:, 1], expected.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("other", ["5min", "1h", "1d"])
def test_changing_what_is_known_later_changes_no_earlier_row(tmp_path: Path, other: str) -> None:
    minutes = {"5min": 5, "1h": 60, "1d": 1440}[other]
    sources = {"x": source(step="1h"), "y": source(step=other, kinds={"w": kind()})}
    city(tmp_path, sources, until="2025-02-12", **task([{"source": "y"}]))
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-12"))
    put(tmp_path, "y", hourly("2025-01-20", "2025-02-12", "m", "w", minutes=minutes))
    before = build(tmp_path, "x", "y").read()
    put(tmp_path, "y", hourly("2025-02-05", "2025-02-12", "m", "w", add=1.0, minutes=minutes))
    after = build(tmp_path, "x", "y")
    changed = np.flatnonzero((before != after.read())[:, 1] & np.isfinite(before[:, 1]))
    moment = after.row(dt.datetime(2025, 2, 5, tzinfo=dt.UTC) + dt.timedelta(minutes=max(minutes, 60)))
    assert changed[0] == moment - 1


def test_what_the_task_does_not_use_changes_no_byte(tmp_path: Path) -> None:
    kinds = {"w": kind(), "v": kind()}
    sources = {"x": source(), "y": source(kinds=kinds), "z": source()}
    city(tmp_path, sources, until="2025-02-12", **task([{"source": "y", "kinds": ["w"]}]))
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-12"))
    put(tmp_path, "y", [r for w in "wv" for r in hourly("2025-01-20", "2025-02-12", "m", w)])
    build(tmp_path, "x", "y")
    before = tree(tmp_path / "data/joined/t")
    # another kind gets other values and a new sensor; a source that no task names arrives
    extra = [r for s in ("m", "k") for r in hourly("2025-01-20", "2025-02-12", s, "v", add=3.0)]
    put(tmp_path, "y", [*hourly("2025-01-20", "2025-02-12", "m", "w"), *extra])
    put(tmp_path, "z", hourly("2025-01-20", "2025-02-12"))
    build(tmp_path, "x", "y", "z")
    assert tree(tmp_path / "data/joined/t") == before


def test_a_later_window_leaves_closed_months_alone(tmp_path: Path) -> None:
    city(tmp_path, {"x": source(), "y": source(kinds={"w": kind()})}, until="2025-02-22", **task([{"source": "y"}]))
    for name, what in (("x", "a"), ("y", "w")):
        put(tmp_path, name, hourly("2025-01-20", "2025-03-09", what, what))
    build(tmp_path, "x", "y")
    before = tree(tmp_path / "data/joined/t")
    window(tmp_path, x="2025-03-09", y="2025-03-09")
    build(tmp_path, "x", "y")
    after = tree(tmp_path / "data/joined/t")
    assert {name for name in after if after[name] != before.get(name)} == {
        "grid.json",
        "splits.json",
        "values/2025-02.npy",
        "values/2025-03.npy",
    }


@pytest.mark.parametrize(
    ("inputs", "more", "says"),
    [
        ([{"source": "x"}], {}, r"tasks\.t\.inputs: sensor 's1', kind 'a' occurs twice"),
        ([{"source": "y", "kinds": ["v"]}], {}, r"tasks\.t\.inputs\.0: y has no channel of kind v"),
        ([{"source": "z"}], {}, r"series/z: no features; run `cityloop features z`"),
        ([], {"objective": "anomaly", "label": "leak"}, r"tasks\.t\.label: x has no channel of kind leak"),
    ],
)
def test_what_cannot_be_joined_is_one_line_and_nothing_is_written(
    tmp_path: Path, inputs: list[dict[str, Any]], more: dict[str, Any], says: str
) -> None:
    sources = {"x": source(kinds=LEAK), "y": source(kinds={"w": kind(), "v": kind()}), "z": source()}
    city(tmp_path, sources, until="2025-02-12", **task(inputs, **more))
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-12"))
    put(tmp_path, "y", hourly("2025-01-20", "2025-02-12", "m", "w"))
    with pytest.raises(UserError, match=says) as caught:
        build(tmp_path, "x", "y")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data/joined").exists()


def anew(root: Path, **dates: str) -> None:
    (root / "retrain.yaml").write_text(yaml.safe_dump({"t": dates}))


def test_a_retraining_has_dates_and_scalers_of_its_own(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-03-01", **task([]))
    put(tmp_path, "x", [*hourly("2025-01-20", "2025-02-22"), *hourly("2025-02-22", "2025-03-01", add=1000.0)])
    before = build(tmp_path, "x")
    values, usual = before.read(), before.scalers[0, 0]
    anew(tmp_path, start="2025-02-22", validation_from="2025-02-24T12:00:00Z", test_from="2025-02-26")
    after = build(tmp_path)
    assert {k: tuple(str(after.when(row))[:13] for row in v) for k, v in after.splits.items()} == {
        "train": ("2025-01-20 00", "2025-02-24 12"),
        "validation": ("2025-02-24 12", "2025-02-26 00"),
        "test": ("2025-02-26 00", "2025-03-01 00"),
    }
    np.testing.assert_array_equal(after.read(), values)
    lo, hi = after.splits["train"]
    np.testing.assert_allclose(after.scalers[0, 0], after.read(lo, hi).mean(), rtol=1e-6)
    assert after.scalers[0, 0] > usual + 10


def test_a_retraining_whose_days_are_not_there_yet_is_one_line(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-02-22", **task([]))
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-22"))
    features.run("x", root=tmp_path)
    window(tmp_path, x="2025-03-01")  # the window has moved, its data are still to come
    anew(tmp_path, validation_from="2025-02-22", test_from="2025-02-26")
    with pytest.raises(UserError, match=r"retrain\.yaml: t: no step of x is left for validation"):
        join.run("t", root=tmp_path)


# What training reads.


def test_what_is_learnt_from_ends_where_the_test_begins(tmp_path: Path) -> None:
    wet = {"w": kind()}
    city(tmp_path, {"x": source(kinds=LEAK), "y": source(kinds=wet)}, until="2025-03-05", **task(
        [{"source": "y"}], objective="anomaly", label="leak"))  # fmt: skip
    late = [*hourly("2025-02-20", "2025-03-05", "s0"), *hourly("2025-02-25", "2025-03-05", "s0", "leak")]
    put(tmp_path, "x", [r for s in ("s2", "s1") for w in LEAK for r in hourly("2025-01-20", "2025-03-05", s, w)] + late,
        edges=[("s1", "s2"), ("s2", "s0")])  # fmt: skip
    put(tmp_path, "y", [*hourly("2025-01-20", "2025-03-05", "m", "w"), *hourly("2025-02-21", "2025-03-05", "n", "w")])
    joined = build(tmp_path, "x", "y")
    learn = grid.Series.open(tmp_path / "data/learn/t")
    lo, hi = joined.splits["test"]
    assert learn.length == lo < hi
    assert learn.splits == {**joined.splits, "test": (lo, lo)}
    # s0, s0's label and n first spoke in the test.
    assert names(joined) == ["s1/a", "s2/a", "s0/a", "s1/leak", "s2/leak", "s0/leak", "m/w", "n/w"]
    assert names(learn) == ["s1/a", "s2/a", "s1/leak", "s2/leak", "m/w"]
    assert learn.roles == {"target": (0, 2), "label": (2, 4), "input": (4, 5)}
    kept = [names(joined).index(name) for name in names(learn)]
    np.testing.assert_array_equal(learn.read(), joined.read(0, lo)[:, kept])
    np.testing.assert_array_equal(learn.scalers, joined.scalers[:, kept])
    assert learn.edges is not None
    assert learn.edges["target"].to_pylist() == ["s2"]
    assert len(files.read_json(tmp_path / "data/learn/t/steps.json")) == 5


def test_new_days_and_sensors_leave_it_byte_for_byte_and_closed_months_are_not_copied(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()}, until="2025-02-25", **task([]))
    put(tmp_path, "x", hourly("2025-01-20", "2025-02-25"))
    build(tmp_path, "x")
    before = tree(tmp_path / "data/learn/t")
    january = [tmp_path / f"data/{folder}/t/values/2025-01.npy" for folder in ("joined", "learn")]
    assert january[0].samefile(january[1])
    window(tmp_path, x="2025-03-05")
    put(tmp_path, "x", [*hourly("2025-02-25", "2025-03-05"), *hourly("2025-02-27", "2025-03-05", "s9")])
    joined = build(tmp_path, "x")
    assert names(joined) == ["s1/a", "s9/a"]
    assert tree(tmp_path / "data/learn/t") == before
    put(tmp_path, "x", hourly("2025-02-19", "2025-02-20", add=1.0))
    build(tmp_path, "x")
    changed = {k for k, v in tree(tmp_path / "data/learn/t").items() if v != before[k]}
    assert changed == {"values/2025-02.npy"}, "late data of before the test are another matter"


def test_a_target_that_first_spoke_in_the_test_is_one_line(tmp_path: Path) -> None:
    city(tmp_path, {"x": source(kinds={"a": kind(), "b": kind()})}, **task([], target={"source": "x", "kinds": ["b"]}))
    put(tmp_path, "x", [*hourly("2025-01-20", "2025-03-05"), *hourly("2025-02-21", "2025-03-05", "s1", "b")])
    with pytest.raises(UserError, match="no target was read before 2025-02-20, where the test begins"):
        build(tmp_path, "x")
