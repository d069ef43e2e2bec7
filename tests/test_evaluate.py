"""Evaluation through the room: what the card reads, baselines against plain loops, and whose bytes count."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city
from small_city import tree

from pipelines import evaluate, join
from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.windows import profile_at
from pipelines.models.data import Windows
from pipelines.models.evaluation import methods
from pipelines.release.predictor import Predictor

METHODS = ("model", "last_value", "profile", "ridge", "gbt")
TASKS = list(toy_city.TASKS)
PLOTS = {"ahead": "example.png by_step.json", "state": "confusion.png by_step.json", "leaks": "alarms.png"}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the toy city, evaluated."""
    root = tmp_path_factory.mktemp("evaluated") / "city"
    shutil.copytree(toy_city.ready(tmp_path_factory), root)
    for task in TASKS:
        evaluate.run(task, root=root)
    return root


def report(root: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(root / f"metrics/evaluate/{task}.json")
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_report_says_what_the_card_reads(ready: Path, task: str) -> None:
    found = report(ready, task)
    primary = found["primary"]
    assert primary == {"ahead": "mae", "state": "macro_f1", "leaks": "average_precision"}[task]
    assert found["higher_is_better"] is (task != "ahead")
    for method in METHODS:
        assert all(isinstance(v, float) for v in found[method].values()), found[method]
        assert primary in found[method]
    test = found["test"]
    assert test["from"] == "2025-02-20T00:00:00"
    assert test["until"] == "2025-03-01T00:00:00"
    assert test["forecasts"] == 9 * 24 // 6
    if task == "leaks":
        assert test["positives"] > 0
    else:
        versus = found["interval"]["versus_best_baseline"]
        assert versus["baseline"] in METHODS[1:]
        assert test["points"] == versus["n"]
        silent = found["without_inputs"]["x"]
        assert silent["n"] == test["points"]
        assert silent["difference"] == pytest.approx(found["model"][primary] - silent[primary], abs=1e-5)
    for method in METHODS[1:]:
        versus = found["interval"]["versus"][method]
        assert versus["difference"] == pytest.approx(found["model"][primary] - found[method][primary], abs=1e-5)
        assert versus["low"] <= versus["high"]
        assert versus["blocks"] == test["blocks"] == (10 if task == "leaks" else 9), "days of issue; of readings, local"
    made = {p.name for p in (ready / "plots/evaluate" / task).iterdir()}
    assert made == {*PLOTS[task].split(), "0_overview.png", "explanation.png"}


def by_hand(ready: Path) -> tuple[Windows, np.ndarray, np.ndarray, int]:
    """The task's windows, all its readings, the rows in which a forecast of the test period begins, the targets."""
    data = toy_city.opened(ready, "ahead")
    lo, hi = data.series.splits["test"]
    return data, data.series.read(), np.arange(lo, hi - 6 + 1, 6), data.targets


def test_last_value_against_a_plain_loop(ready: Path) -> None:
    data, values, issued, n = by_hand(ready)
    errors = []
    for row in issued:
        for c in range(n):
            back = next(r for r in range(row - 1, row - 25, -1) if np.isfinite(values[r, c]))
            usual = profile_at(data.profile, data.series.times(back, row), data.spec)[:, c]
            last = values[back, c] - usual[0] + usual[-1]  # a gap follows the profile, see core.windows.fill
            errors += [abs(values[row + h, c] - last) for h in range(6) if np.isfinite(values[row + h, c])]
    assert report(ready, "ahead")["last_value"]["mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert report(ready, "ahead")["test"]["points"] == len(errors)


def test_profile_against_a_plain_loop(ready: Path) -> None:
    """Mean of the time of week in the training period, leaning once on the time of day."""
    data, values, issued, n = by_hand(ready)
    zone = data.spec.timezone
    import datetime as dt
    import zoneinfo

    local = [t.item().replace(tzinfo=dt.UTC).astimezone(zoneinfo.ZoneInfo(zone)) for t in data.series.times()]
    trained = range(*data.series.splits["train"])
    errors = []
    for row in issued:
        for h in range(6):
            at = local[row + h]
            day = [r for r in trained if local[r].hour == at.hour]
            week = [r for r in day if local[r].weekday() == at.weekday()]
            for c in range(n):
                seen = [values[r, c] for r in week if np.isfinite(values[r, c])]
                mean = (np.sum(seen) + np.nanmean(values[day, c])) / (len(seen) + 1)
                errors.append(abs(values[row + h, c] - mean))
    assert report(ready, "ahead")["profile"]["mae"] == pytest.approx(np.nanmean(errors), rel=1e-4)


def test_ridge_is_the_one_that_finetuning_starts_from(ready: Path) -> None:
    data, values, issued, n = by_hand(ready)
    answer = methods.fit_ridge(data).predict(data.batch(issued - 24), n)
    truth = np.stack([values[row : row + 6, :n] for row in issued])
    assert report(ready, "ahead")["ridge"]["mae"] == pytest.approx(np.nanmean(np.abs(answer - truth)), rel=1e-4)


def test_the_model_is_the_bundles_predictor(ready: Path) -> None:
    data, values, issued, n = by_hand(ready)
    predictor = Predictor.load(ready / "models/tasks/ahead")
    given = np.stack([values[row - 24 : row, list(data.columns)] for row in issued])
    answer = predictor.predict(given, data.series.start + (issued - 24) * data.series.step)
    truth = np.stack([values[row : row + 6, :n] for row in issued])
    found = report(ready, "ahead")["model"]
    assert found["mae"] == pytest.approx(np.nanmean(np.abs(answer[..., 1] - truth)), rel=1e-4)
    inside = (truth >= answer[..., 0]) & (truth <= answer[..., 2])
    assert found["coverage80"] == pytest.approx(inside[np.isfinite(truth)].mean(), rel=1e-4)


def test_each_step_is_scored_and_the_steps_make_up_the_whole(ready: Path) -> None:
    rows = files.read_json(ready / "plots/evaluate/ahead/by_step.json")
    assert len(rows) == 6 * len(METHODS)
    mine = [r for r in rows if r["method"] == "model"]
    assert [r["minutes"] for r in mine] == [60, 120, 180, 240, 300, 360]
    assert np.mean([r["mae"] for r in mine]) == pytest.approx(report(ready, "ahead")["model"]["mae"], rel=0.02)


def test_steps_and_slices_make_up_the_whole(ready: Path) -> None:
    found = report(ready, "ahead")
    assert list(found["at"]) == ["3h", "60min", "6h"]
    whole = found["interval"]["versus_best_baseline"]
    last = found["up_to"]["6h"]
    assert {k: last[k] for k in whole} == whole
    first = files.read_json(ready / "plots/evaluate/ahead/by_step.json")[0]
    assert found["at"]["60min"]["model"] == pytest.approx(first["mae"], rel=1e-5)
    levels, rival = found["slices"]["level"], whole["baseline"]
    assert sum(s["n"] for s in levels.values()) == found["test"]["points"]
    for method in ("model", rival):
        mean = sum(s["n"] * s[method] for s in levels.values()) / found["test"]["points"]
        assert mean == pytest.approx(found[method]["mae"], rel=1e-6)
    inside = sum(s["n"] * s["coverage80"] for s in levels.values()) / found["test"]["points"]
    assert inside == pytest.approx(found["model"]["coverage80"]) == found["coverage"]["overall"]
    assert set(found["slices"]["regime"]) | {k.split("/")[1] for k in found["slices_left_out"]} >= {
        "night", "rush_hour", "weekend_holiday", "faulty_sensor"
    }  # fmt: skip
    assert "points in" in found["slices_left_out"]["regime/faulty_sensor"]


def test_damage_and_timings_are_reported_apart(ready: Path) -> None:
    found = report(ready, "ahead")
    assert found["robustness"]["windows"] == 36
    assert {m["ratio"] for m in found["robustness"]["clean"].values()} == {1.0}
    assert found["robustness"]["district_dark"]["model"]["ratio"] > 1
    assert sum(found["explanation"]["by_kind"].values()) == pytest.approx(1, abs=1e-5)
    assert files.read_json(ready / "metrics/latency/ahead.json")["float"]["one"]["median_ms"] > 0
    assert "median_ms" not in (ready / "metrics/evaluate/ahead.json").read_text()


def test_many_points_are_thinned_and_it_is_said(ready: Path, tmp_path: Path) -> None:
    root = small_copy(ready, tmp_path)
    toy_city.write_params(root, ahead={**toy_city.TASKS["ahead"], "evaluate": {"bootstrap": 20, "points": 300}})
    evaluate.run("ahead", root=root)
    test = report(root, "ahead")["test"]
    assert test["forecasts"] == 300 // (6 * 4)
    assert test["forecasts_possible"] == 36


def test_leaks_are_found(ready: Path) -> None:
    found = report(ready, "leaks")["model"]
    assert found["auroc"] > 0.9
    assert found["f1"] > 0.4
    assert 0 < found["alarm_rate"] < 0.2


@pytest.mark.parametrize("task", TASKS)
def test_equal_results_give_equal_bytes_plots_included(ready: Path, tmp_path: Path, task: str) -> None:
    shutil.copytree(ready / "models/tasks", tmp_path / "models/tasks")
    shutil.copytree(ready / "data/joined", tmp_path / "data/joined")
    toy_city.write_params(tmp_path)
    evaluate.run(task, root=tmp_path)
    assert tree(tmp_path / "plots/evaluate" / task) == tree(ready / "plots/evaluate" / task)
    one, two = (root / f"metrics/evaluate/{task}.json" for root in (ready, tmp_path))
    assert one.read_bytes() == two.read_bytes()


def small_copy(ready: Path, root: Path) -> Path:
    shutil.copytree(ready / "models/tasks/ahead", root / "models/tasks/ahead")
    shutil.copytree(ready / "data", root / "data")
    toy_city.write_params(root)
    return root


def refused(root: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        evaluate.run("ahead", root=root)
    assert "\n" not in str(error.value)
    assert not (root / "metrics").exists()
    assert not (root / "plots").exists()


def test_a_bundle_that_was_touched_is_refused(ready: Path, tmp_path: Path) -> None:
    root = small_copy(ready, tmp_path)
    path = root / "models/tasks/ahead/tables.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    refused(root, r"tables\.safetensors: not the bytes")


def test_a_bundle_of_other_channels_is_refused(ready: Path, tmp_path: Path) -> None:
    root = small_copy(ready, tmp_path)
    toy_city.write_params(root, ahead={**toy_city.TASKS["ahead"], "inputs": []})
    join.run("ahead", root=root)
    refused(root, r"models/tasks/ahead.*other channels.*finetune")


def test_what_is_missing_is_named(ready: Path, tmp_path: Path) -> None:
    root = small_copy(ready, tmp_path)
    shutil.rmtree(root / "data/joined/ahead")
    refused(root, r"cityloop join ahead")
    shutil.rmtree(root / "models/tasks/ahead")
    refused(root, r"models/tasks/ahead")


def test_a_silent_test_period_is_no_result(ready: Path, tmp_path: Path) -> None:
    root = small_copy(ready, tmp_path)
    series = toy_city.series(root, "ahead")
    lo, _ = series.splits["test"]
    for file, a, b in series.chunks:
        values = np.load(root / "data/joined/ahead" / file)
        values[max(lo - a, 0) : b - a, :4] = np.nan
        files.write_array(root / "data/joined/ahead" / file, values)
    refused(root, r"joined/ahead.*test")
