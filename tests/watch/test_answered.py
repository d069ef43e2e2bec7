"""What a champion answers, and what requests say, held against validation and features: the toy city's, served."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city

from pipelines import monitor, predict
from pipelines.core import files
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.models import answering
from pipelines.release.predictions import Log
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store

Array = np.ndarray[Any, Any]
DAYS = ("2025-02-21", "2025-02-22")


@pytest.fixture
def root(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.serving(toy_city.ready(tmp_path_factory), tmp_path / "city", "joined", "features")


def champion(root: Path, task: str) -> Predictor:
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    assert pointer is not None
    return Predictor.load(store.fetch(task, pointer.stable or ""), threads=1)


def serve(root: Path, task: str, said: Any = lambda given: given, answer: Any = lambda answer: answer) -> Predictor:
    """The log of a server that was asked every two hours of DAYS; what a request `said`, and was answered."""
    predictor, series = champion(root, task), Series.open(root / "data/joined" / task)
    log = Log(Store.of(Paths(root)).objects, "server-1")
    for day in DAYS:
        for hour in range(0, 24, 2):
            issued = np.datetime64(f"{day}T{hour:02}", "us")
            one = predict.answered(task, predictor, series, issued)
            row = int((issued - series.start) // series.step) - 1
            given = series.read(row, row + 1)[0, : predictor.targets]
            log.add(one._replace(role="stable", given=said(given.copy()), answer=answer(one.answer)))
    assert log.close()
    return predictor


def test_requests_that_say_what_was_read_have_no_skew(root: Path) -> None:
    serve(root, "ahead")
    skew = monitor.run("ahead", root=root)["drift"]["skew"]
    assert skew["requests"] == 2 * 12 * 4
    assert 0.7 * skew["requests"] < skew["compared"] <= skew["requests"]
    assert (skew["off"], skew["worst"]) == (0, [])


def test_a_sensor_that_is_sent_in_other_units_is_named(root: Path) -> None:
    def mixed(given: Array) -> Array:
        given[1] *= 1.6
        return given

    serve(root, "ahead", said=mixed)
    skew = monitor.run("ahead", root=root)["drift"]["skew"]
    assert skew["off"] == pytest.approx(0.25, abs=0.05)
    assert skew["worst"] == [{"sensor": "s2", "off": 1.0}]


def test_a_batch_forecast_is_no_request(root: Path) -> None:
    predict.run("ahead", "2025-02-23T06:00:00Z", root=root)
    assert monitor.run("ahead", root=root)["drift"]["skew"] is None


def test_answers_as_on_validation_have_not_drifted_and_higher_or_wider_ones_have(root: Path) -> None:
    serve(root, "ahead")
    days = monitor.run("ahead", root=root)["drift"]["days"]
    assert [days[day]["predictions"] for day in DAYS] == [{"tested": 2, "drifted": []}] * 2

    def wrong(answer: Array) -> Array:
        names = champion(root, "ahead").names
        out = answer + 15
        out[..., names.index("q0.1")] -= 60
        return out

    for path in (Paths(root).state / "store/predictions").rglob("*.parquet"):
        path.unlink()
    serve(root, "ahead", answer=wrong)
    days = monitor.run("ahead", root=root)["drift"]["days"]
    assert all(days[day]["predictions"] == {"tested": 2, "drifted": ["a bias", "a width"]} for day in DAYS)


def test_shares_of_classes_are_told(root: Path) -> None:
    predictor = serve(root, "state")
    usual = predictor.config["reference"]["answers"]["a"]
    assert sum(mean for mean, _, _ in usual.values()) == pytest.approx(1)
    days = monitor.run("state", root=root)["drift"]["days"]
    assert days[DAYS[0]]["predictions"]["tested"] == len(predictor.names)


def test_alarms_are_left_to_the_report(root: Path) -> None:
    assert champion(root, "leaks").config["reference"]["answers"] == {}


def test_figures_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    names, kinds = ["q0.1", "q0.5", "q0.9", "mean"], ["a", "b", "a"]
    answer, truth = rng.normal(50, 5, (6, 4, 3, 4)), rng.normal(50, 5, (6, 4, 3))
    truth[rng.random(truth.shape) < 0.2] = np.nan
    days, std = np.array(["2025-01-01", "2025-01-02"] * 3, "datetime64[D]"), np.array([2.0, 3.0, 4.0])
    assert answering.of_validation(days, kinds, answer, truth, std, names, None) == {}
    days = np.array([f"2025-01-0{i}" for i in range(1, 7)], "datetime64[D]")
    found = answering.of_validation(days, kinds, answer, truth, std, names, None)
    off = [
        np.mean([answer[b, h, n, 3] - truth[b, h, n] for h in range(4) for n in (0, 2) if np.isfinite(truth[b, h, n])])
        for b in range(6)
    ]
    assert found["a"]["bias"] == pytest.approx([np.mean(off) / 3, np.std(off, ddof=1) / 3, 6])
    assert files.to_json(found)
