"""The parts of an evaluation: sums that make metrics, slices on the local clock, trees that see no future."""

import datetime as dt
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city

from pipelines.core import metrics
from pipelines.core.windows import Spec
from pipelines.models import objectives
from pipelines.models.data import Windows
from pipelines.models.evaluation import forecasts, frozen, methods, points, slices
from pipelines.models.evaluation.trees import Trees, table

Array = np.ndarray[Any, Any]
NAN = float("nan")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Joined data, no model: nothing here needs one."""
    return toy_city.data(tmp_path_factory.mktemp("data"), "ahead", "state")


def gen(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def whole(found: points.Points, size: int) -> float:
    return float(found.value(found.sums(np.zeros(size, int), 1))[0])


def test_sums_make_the_metrics_themselves() -> None:
    rng = gen()
    truth = rng.integers(0, 3, (40, 4, 2)).astype(float)
    truth[3] = NAN
    p = rng.dirichlet((1, 1, 1), truth.shape)
    classify, aux = objectives.load("classify"), {"names": ["a", "b", "c"]}
    size = int(np.isfinite(truth).sum())
    told = whole(points.of_answer(classify, p, truth, aux), size)
    assert told == pytest.approx(classify.score(p, truth, aux)["macro_f1"])
    answer = rng.normal(size=(40, 4, 2, 4))
    forecast = objectives.load("forecast")
    told = whole(points.of_answer(forecast, answer, truth, {}), size)
    assert told == pytest.approx(forecast.score(answer, truth, {})["mae"])
    score, label = rng.integers(0, 300, 400).astype(float), rng.random(400) < 0.2
    told = whole(points.of_scores(score, label), 400)
    assert told == pytest.approx(metrics.ranking(score, label)["average_precision"])


def test_many_scores_are_ranked_closely_enough() -> None:
    rng = gen(1)
    label = rng.random(50_000) < 0.02
    score = rng.normal(size=50_000) + 2 * label
    told = whole(points.of_scores(score, label), 50_000)
    assert told == pytest.approx(metrics.ranking(score, label)["average_precision"], abs=0.003)


def test_a_difference_is_paired_and_by_block() -> None:
    rng = gen(2)
    day = np.repeat(np.arange(20), 30)
    hard = np.repeat(rng.gamma(2, 3, 20), 30)
    a, b = points.Errors(hard), points.Errors(hard + 0.1 + rng.normal(0, 0.05, 600))
    found = points.compare(a, b, day, 300)
    assert found["low"] < found["difference"] < found["high"] < 0, "hard days are hard for both"
    assert found["n"], found["blocks"] == (600, 20)
    half = points.compare(a, b, np.where(day < 10, day, -1), 300)
    assert half["n"], half["blocks"] == (300, 10)
    one = points.compare(a, b, np.where(day == 3, day, -1), 300)
    assert np.isnan(one["low"]), "one day says nothing of another"


def test_average_precision_of_a_clear_gain_excludes_zero() -> None:
    rng = gen(3)
    day = np.repeat(np.arange(30), 96)
    label = rng.random(len(day)) < 0.05
    good, poor = (rng.normal(size=len(day)) + shift * label for shift in (3, 1))
    found = points.compare(points.of_scores(good, label), points.of_scores(poor, label), day, 200)
    assert 0 < found["low"] < found["difference"] < found["high"]


def test_hours_are_local_and_holidays_are_no_working_days(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead")
    times = np.datetime64("2025-03-28T00", "s") + np.arange(96) * np.timedelta64(3600, "s")  # the clocks go forward
    zone = zoneinfo.ZoneInfo("Europe/Amsterdam")
    local = [t.item().replace(tzinfo=dt.UTC).astimezone(zone) for t in times]
    found = {name: inside for _, name, inside in slices.hours(data, times)}
    off = [t.weekday() >= 5 for t in local]
    assert found["weekend_holiday"].tolist() == off
    assert found["night"].tolist() == [t.hour < 6 for t in local]
    rush = [not o and (t.hour in (7, 8) or t.hour in (16, 17, 18)) for t, o in zip(local, off, strict=True)]
    assert found["rush_hour"].tolist() == rush


def test_small_slices_are_left_out_and_said_so() -> None:
    block = np.repeat(np.arange(10), 30)
    error = points.Errors(np.ones(300))
    found = [("kind", "few", np.arange(300) < 50), ("kind", "short", block < 2), ("kind", "enough", block < 5)]
    told, out = slices.report(found, error, error, block, 50, ("model", "ridge"))
    assert list(told["kind"]) == ["enough"]
    assert told["kind"]["enough"]["n"] == 150
    assert "50 points in 2 blocks" in out["kind/few"]
    assert "kind/short" in out


def test_the_worst_sensors_come_first(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead")
    column = np.repeat(np.arange(4), 200)
    error = points.Errors(np.repeat([1.0, 4.0, 2.0, 3.0], 200))
    assert [name for _, name, _ in slices.worst(error, column, data, False)] == ["s2", "s4", "s3", "s1"]


def test_steps_that_are_told_and_how_they_are_called() -> None:
    assert forecasts.knots(300, 12) == [2, 5, 11]
    assert forecasts.knots(3600, 30) == [0, 2, 5, 11, 23, 29]
    assert forecasts.knots(86400, 7) == [0, 1, 6]
    assert [forecasts.span(s) for s in (900, 3600, 7200, 86400, 172800, 45)] == [
        "15min", "60min", "2h", "24h", "2d", "45s"
    ]  # fmt: skip


def test_overlapping_forecasts_and_long_tests_have_longer_blocks_and_short_tests_shorter_ones(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead", horizon=30)
    for days, alone, overlapping in ((30, 48, 72), (frozen.LONG_TEST, 168, 168), (3, 30, 60)):
        data.series.splits["test"] = (0, 24 * days)
        assert frozen.block_hours(data, overlap=False) == alone
        assert frozen.block_hours(data, overlap=True) == overlapping
    soon = toy_city.opened(ready, "ahead", horizon=1)
    soon.series.splits["test"] = (0, 27)
    assert frozen.block_hours(soon, overlap=True) == 3
    issued = soon.series.times(0, 27)
    assert len(np.unique(frozen.blocks(issued, soon, 3))) in (9, 10)


def test_the_naive_error_is_of_a_day_ago_in_training(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead")
    lo, hi = data.series.splits["train"]
    values = data.series.read(lo, hi)[:, :4]
    told = frozen.naive_error(data, block=100)
    assert told == pytest.approx(np.nanmean(np.abs(values[24:] - values[:-24]), axis=0), rel=1e-5)


def test_trees_are_told_what_was_read_a_day_before(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead")
    rows = data.rows("validation", 7)[:5]
    x, usual, level, scale = table(data, data.batch(rows), rows, np.arange(4), np.arange(6))
    raw = data.read(rows, 30)[..., :4]
    yesterday = (raw[:, :6] - level) / scale
    seen = np.isfinite(yesterday)
    close = [np.allclose(x[..., i][seen], yesterday[seen], atol=1e-4) for i in range(x.shape[-1])]
    assert sum(close) == 1
    assert np.isfinite(x).all()
    assert usual.shape == (5, 6, 4)


def test_baselines_do_not_look_at_the_test(ready: Path, tmp_path: Path) -> None:
    one = toy_city.opened(ready, "ahead")
    other = toy_city.opened(toy_city.data(tmp_path, "ahead", change_test=True), "ahead")
    rows = one.rows("validation", 9)
    forecast = objectives.load("forecast")
    told = [methods.baselines(d, forecast, {}, methods.fit_ridge(d)) for d in (one, other)]
    assert list(told[0]) == ["last_value", "profile", "ridge", "gbt"]
    for name in told[0]:
        assert np.array_equal(told[0][name].answer(rows), told[1][name].answer(rows)), name


def test_intervals_of_baselines_hold_what_they_say_on_validation(ready: Path) -> None:
    data = toy_city.opened(ready, "ahead")
    forecast = objectives.load("forecast")
    rows = data.rows("validation", 1)
    truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    for name, method in methods.baselines(data, forecast, {}, methods.fit_ridge(data)).items():
        held = forecast.score(method.answer(rows), truth, {})["coverage80"]
        assert 0.75 < held < 0.85, name


def test_classes_of_a_single_kind_are_no_error(ready: Path) -> None:
    data = toy_city.opened(ready, "state")
    aux = {"names": ["low", "high"], "edges": [1e9], "reference": np.ones(4)}
    trees = Trees.fit(data, objectives.load("classify"), aux)
    answer = trees.predict(data.rows("validation", 30))
    assert (answer[..., 0] == 1).all()


def test_trees_do_not_see_what_is_hidden_in_a_gap(ready: Path) -> None:
    spec = Spec(3600, 24, 6, "Europe/Amsterdam", after=6)
    data = Windows.of_task(ready / "data/joined/ahead", spec, True)
    rows = data.rows("validation", 7)[:5]
    batch = data.batch(rows)
    told = table(data, batch, rows, np.arange(4), np.arange(6))[0]
    changed = {**batch, "values": batch["values"].copy(), "observed": batch["observed"].copy()}
    changed["values"][:, 12:18, :4] += 100
    changed["observed"][:, 12:18, :4] = 0
    assert np.array_equal(told, table(data, changed, rows, np.arange(4), np.arange(6))[0])
    changed["values"][:, 18, :4] += 100
    assert not np.array_equal(told, table(data, changed, rows, np.arange(4), np.arange(6))[0])
