"""Damage does what it says and hurts; an explanation's parts add up to what it explains; timings come from outside."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city
from PIL import Image

from pipelines.core.errors import UserError
from pipelines.models import objectives, package, probes
from pipelines.models.ridge import Ridge
from pipelines.release import latency
from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
TASKS = list(toy_city.TASKS)
CHANNELS = [{"sensor": f"s{i // 2}", "kind": f"k{i % 2}", "district": f"d{i // 6}"} for i in range(16)]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def values(size: int = 3, steps: int = 30) -> Array:
    found: Array = np.random.default_rng(1).normal(50, 8, (size, steps, 16)).astype(np.float32)
    found[0, 5:25, 3] = np.nan
    return found


def spoilt(damage: str, channels: list[dict[str, Any]] = CHANNELS) -> tuple[Array, Array]:
    given = values()
    kept = given.copy()
    out = probes.spoilt(damage, given, channels, np.full(16, 8.0), np.random.default_rng(0))
    assert np.array_equal(given, kept, equal_nan=True), "what was given stays as it is"
    again = probes.spoilt(damage, given, channels, np.full(16, 8.0), np.random.default_rng(0))
    assert np.array_equal(out, again, equal_nan=True)
    return given, out


def test_each_damage_does_what_it_says() -> None:
    given, out = spoilt("dropped")
    assert np.isnan(out[np.isfinite(given)]).mean() == pytest.approx(0.2, abs=0.04)
    given, out = spoilt("noise")
    assert np.nanstd(out - given) == pytest.approx(0.8, rel=0.1)
    given, out = spoilt("district_dark")
    dark = np.isnan(out).all((0, 1))
    assert set(np.flatnonzero(dark)) in ({*range(6)}, {*range(6, 12)})
    assert np.array_equal(out[..., ~dark], given[..., ~dark], equal_nan=True)
    given, out = spoilt("stuck")
    stuck = np.ptp(out[:, 20:], axis=1).max(0) == 0
    assert stuck.sum() == 4, "both kinds of two of eight sensors"
    assert np.array_equal(out[:, :20], given[:, :20], equal_nan=True)
    assert np.array_equal(out[1, 20:, stuck], given[1, 20:21, stuck].repeat(10, 1))
    assert np.array_equal(*spoilt("clean"), equal_nan=True)
    with pytest.raises(ValueError, match="no damage"):
        spoilt("fire")


def test_a_stuck_sensor_holds_the_last_value_it_had() -> None:
    gap = values()[:, :21]
    assert probes._carried(gap)[0, 3] == gap[0, 4, 3]
    assert probes._carried(gap)[1, 3] == gap[1, 20, 3]


def test_without_districts_a_quarter_of_the_sensors_goes_dark() -> None:
    _, out = spoilt("district_dark", [{**c, "district": None} for c in CHANNELS])
    dark = np.flatnonzero(np.isnan(out).all((0, 1)))
    assert len({CHANNELS[i]["sensor"] for i in dark}) == 2
    assert len(dark) == 4


def asked(ready: Path, task: str, split: str = "test") -> tuple[Any, ...]:
    predictor = Predictor.load(ready / "models/tasks" / task, threads=1)
    data = toy_city.opened(ready, task, predictor.reconstruct)
    rows = data.rows(split, 5)
    truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    return predictor, data, data.given(rows), data.starts(rows), truth


@pytest.mark.parametrize("task", TASKS)
def test_damage_is_reported_for_every_method_on_the_same_windows(ready: Path, task: str) -> None:
    predictor, data, readings, starts, truth = asked(ready, task)
    objective = objectives.load(predictor.config["objective"])
    ridge = Ridge.fit(data.batches(data.rows("train", 4), 64), [data.batch(data.rows("validation", 9))], data.known)
    told = probes.robustness(predictor, objective, ridge, readings, starts, truth)
    assert told == probes.robustness(predictor, objective, ridge, readings, starts, truth)
    assert told["windows"] == min(64, len(readings))
    assert told["metric"] == {"ahead": "mae", "state": "macro_f1", "leaks": "mae"}[task]
    for damage in ("clean", *probes.DAMAGES):
        assert set(told[damage]) == {"model", "ridge", "last_value"}
        assert all(np.isfinite(v["value"]) for v in told[damage].values())
    assert {v["ratio"] for v in told["clean"].values()} == {1.0}
    if task == "ahead":
        assert told["dropped"]["last_value"]["ratio"] > 1
        assert len({told[d]["model"]["value"] for d in ("clean", *probes.DAMAGES)}) == 5
        assert told["noise"]["model"]["ratio"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_attributions_add_up_to_the_difference_they_explain(ready: Path, tmp_path: Path, task: str) -> None:
    predictor, _, readings, starts, _ = asked(ready, task)
    served = package.load(ready / "models/tasks" / task)
    found = probes.explain(served, predictor, readings[:1], starts[:1], target=2)
    assert found.attribution.shape == (predictor.spec.context, len(predictor.channels))
    column = predictor.names.index(found.what.split("(")[1].rstrip(")"))
    asked_of_graph = predictor.run(predictor.inputs(readings[:1], starts[:1]))[0, -1, 2, column]
    assert found.answer == pytest.approx(asked_of_graph, rel=1e-4)
    assert abs(found.answer - found.usual) > 1e-6 or task == "leaks"
    assert found.gap < 0.02
    assert found.by_step.sum() == pytest.approx(1, abs=1e-5)
    kinds = found.by([c["kind"] for c in predictor.channels])
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert sum(kinds.values()) == pytest.approx(1, abs=1e-5)
    for name in ("one.png", "two.png"):
        probes.plot(tmp_path / name, found, predictor)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.size) > 500


def test_a_reading_that_is_as_usual_is_given_no_part(ready: Path) -> None:
    predictor, _, readings, starts, _ = asked(ready, "ahead")
    usual = predictor.inputs(readings[:1], starts[:1])["profile"][:, : predictor.spec.context]
    one = usual.copy()
    one[0, -1, 2] += 9
    found = probes.explain(package.load(ready / "models/tasks/ahead"), predictor, one, starts[:1], target=2)
    rest = found.attribution.copy()
    rest[-1, 2] = 0
    assert np.abs(rest).max() < 1e-4 * abs(found.attribution[-1, 2])


def test_latency_and_size_of_both_variants(ready: Path, tmp_path: Path) -> None:
    folder = ready / "models/tasks/ahead"
    for variant, file in (("float", "model.onnx"), ("int8", "model.int8.onnx")):
        told = latency.measure(folder, variant)
        assert told["graph_bytes"] == (folder / file).stat().st_size
        assert told["bundle_bytes"] > told["graph_bytes"]
        assert 0 < told["one"]["median_ms"] <= told["one"]["p95_ms"]
        assert told["one"]["median_ms"] < told["batch"]["median_ms"]
        assert 40 < told["peak_rss_mb"] < 400, "without torch"
    with pytest.raises(UserError, match="bundle"):
        latency.measure(tmp_path)


def test_neither_torch_nor_captum_comes_with_the_import() -> None:
    code = "import sys, pipelines.models.probes; sys.exit(bool({'torch', 'captum', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
