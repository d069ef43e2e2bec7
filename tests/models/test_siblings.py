"""Impute and the autoencoder as words in params.yaml: through the rooms, up to the rows a person is answered."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city

from pipelines import evaluate, finetune, join
from pipelines.core import answers, files, params
from pipelines.core.errors import UserError
from pipelines.core.windows import Spec, prepare, profile_at
from pipelines.models.data import Windows
from pipelines.release.predictor import Predictor

SIBLINGS = {
    "gaps": {**toy_city.TRAFFIC, "objective": "impute", "context": "2d", "inputs": []},
    "codes": {**toy_city.TASKS["leaks"], "finetune": {**toy_city.TRAINER, "head": "vae"}},
}
SPEC = Spec.of(3600, 48, 6, "Europe/Amsterdam", both_sides=True)
KNOWN = 24  # four patches before the gap, three after it


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy city with both."""
    root = tmp_path_factory.mktemp("siblings") / "city"
    shutil.copytree(toy_city.ready(tmp_path_factory), root)
    toy_city.write_params(root, **SIBLINGS)
    for task in SIBLINGS:
        join.run(task, root=root)
        finetune.run(task, root=root)
        evaluate.run(task, root=root)
    return root


def loaded(ready: Path, task: str) -> Predictor:
    return Predictor.load(ready / "models/tasks" / task, threads=1)


def readings(ready: Path) -> tuple[Windows, np.ndarray, np.ndarray]:
    """The first windows of the test period, raw [B, 48, 4], and when they begin."""
    data = Windows.of_task(ready / "data/joined/gaps", SPEC, True)
    rows = data.rows("test", 7)
    return data, data.read(rows, SPEC.context), data.starts(rows)


def test_a_gap_is_answered_from_both_sides_and_never_from_itself(ready: Path) -> None:
    predictor = loaded(ready, "gaps")
    assert predictor.spec == SPEC
    _, values, starts = readings(ready)
    before = predictor.predict(values, starts)
    gap = values.copy()
    gap[:, KNOWN : KNOWN + 6, 0] = np.nan
    assert predictor.predict(gap, starts)[:, :, 0] == pytest.approx(before[:, :, 0], rel=1e-5)
    for side in (slice(0, KNOWN), slice(KNOWN + 6, None)):
        moved = values.copy()
        moved[:, side, 0] += 20
        assert np.abs(predictor.predict(moved, starts) - before)[:, :, 0, 1].mean() > 1


def test_asked_readings_speak_for_no_other_step(ready: Path) -> None:
    data, values, starts = readings(ready)
    values[:, :3] = values[:, KNOWN + 6 : KNOWN + 9] = np.nan
    other = values.copy()
    other[:, KNOWN : KNOWN + 6] += 30
    one, two = (prepare(v, starts, data.profile, SPEC, KNOWN)["values"] for v in (values, other))
    outside = np.r_[:KNOWN, KNOWN + 6 : 48]
    assert np.array_equal(one[:, outside], two[:, outside])


def test_no_window_reaches_past_its_split(ready: Path) -> None:
    data, _, _ = readings(ready)
    for split in ("train", "validation", "test"):
        _, hi = data.series.splits[split]
        assert data.rows(split, 1)[-1] + SPEC.context == hi


def test_filling_beats_the_last_value(ready: Path) -> None:
    found = files.read_json(ready / "metrics/evaluate/gaps.json")
    assert found["primary"] == "mae"
    assert found["model"]["mae"] < 0.5 * found["last_value"]["mae"]
    report = files.read_json(ready / "metrics/finetune/gaps.json")
    assert report["validation"]["loss"] <= report["validation"]["loss_untrained"]


@pytest.mark.parametrize("task", [*toy_city.TASKS, *SIBLINGS])
def test_rows_hold_the_columns_that_the_schema_names(ready: Path, task: str) -> None:
    predictor = loaded(ready, task)
    hours = np.datetime64("2025-02-24T00", "s") + np.arange(48) * np.timedelta64(1, "h")
    rows: dict[str, Any] = {
        "time": np.repeat(hours, 4),
        "sensor": np.tile(np.array(toy_city.SENSORS), 48),
        "kind": np.full(192, "a"),
        "value": np.tile(np.array([50.0, 51, 52, 53]), 48),
    }
    found = predictor.predict_rows(rows)
    assert list(found) == list(predictor.columns)
    types = {"datetime": "M", "string": "U", "float": "f", "boolean": "b"}
    assert {k: v.dtype.kind for k, v in found.items()} == {k: types[v] for k, v in predictor.columns.items()}
    assert all(v.dtype == np.float32 for v in found.values() if v.dtype.kind == "f")
    assert {len(v) for v in found.values()} == {predictor.spec.horizon * 4}
    assert set(answers.MORE[predictor.config["objective"]]) < set(found)


def test_a_gap_in_rows_is_filled_and_readings_stay(ready: Path) -> None:
    predictor = loaded(ready, "gaps")
    hours = np.datetime64("2025-02-24T00", "s") + np.arange(48) * np.timedelta64(1, "h")
    value = np.tile(np.array([50.0, 51, 52, 53]), 48)
    hidden = (np.arange(192) // 4 >= 26) & (np.arange(192) // 4 < 29) & (np.arange(192) % 4 == 1)
    kept = ~hidden
    found = predictor.predict_rows({
        "time": np.repeat(hours, 4)[kept], "sensor": np.tile(np.array(toy_city.SENSORS), 48)[kept],
        "kind": np.full(192, "a")[kept], "value": value[kept],
    })  # fmt: skip
    assert found["time"][0] == hours[KNOWN]
    asked = hidden[KNOWN * 4 : (KNOWN + 6) * 4]
    assert found["filled"][asked] == pytest.approx(found["q0.5"][asked])
    assert found["filled"][~asked] == pytest.approx(value[KNOWN * 4 : (KNOWN + 6) * 4][~asked])


def test_an_autoencoder_is_served_without_noise_and_ranks_leaks(ready: Path) -> None:
    predictor = loaded(ready, "codes")
    assert predictor.names == ("q0.1", "q0.5", "q0.9", "mean", "cost")
    assert "epsilon" not in {i.name for i in predictor.session.get_inputs()}
    found = files.read_json(ready / "metrics/evaluate/codes.json")
    assert found["model"]["average_precision"] > 2 * found["last_value"]["average_precision"]


def test_an_anomaly_models_noise_is_its_anchors_own_error(ready: Path) -> None:
    data = toy_city.opened(ready, "leaks", reconstruct=True)
    rows = data.rows("validation", 1)
    lo = rows + data.known
    truth = data.read(lo, 6)[..., :4]
    times = data.starts(lo)[:, None] + np.arange(6) * np.timedelta64(1, "h")
    error = (truth - profile_at(data.profile, times, data.spec)[..., :4]) / data.std[:4]
    from pipelines.models.ridge import profile_noise

    found = profile_noise(list(data.batches(rows, 16)), data.known)
    assert found == pytest.approx(np.sqrt(np.nanmean(error**2, axis=(0, 2))), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"objective": "impute", "context": "12h", "inputs": []}, "three times the horizon"),
        ({"objective": "impute", "context": "2d", "horizon": "4h", "inputs": []}, "multiple of 6 h"),
    ],
)
def test_a_gap_that_cannot_be_is_refused(ready: Path, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    shutil.copytree(ready, tmp_path / "city")
    toy_city.write_params(tmp_path / "city", gaps={**SIBLINGS["gaps"], **change})
    with pytest.raises(UserError, match=word) as error:
        finetune.run("gaps", root=tmp_path / "city")
    assert "\n" not in str(error.value)


def test_an_autoencoder_for_another_objective_is_refused(tmp_path: Path) -> None:
    toy_city.write_params(tmp_path, ahead={**toy_city.TRAFFIC, "finetune": {"head": "vae"}})
    with pytest.raises(UserError, match="head` belongs to objective anomaly"):
        params.load(tmp_path)
