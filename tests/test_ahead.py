"""Inputs known ahead: a target that follows the weather is forecast better by who is told the weather to come."""

import datetime as dt
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_city import city, kind, put, source

from pipelines import corpus, evaluate, features, finetune, join, pretrain
from pipelines.core import files, params
from pipelines.core.errors import UserError
from pipelines.models.data import Windows
from pipelines.release.predictor import Predictor

START, TEST_FROM, UNTIL = "2025-01-20", "2025-02-20", "2025-03-01"
TRAINER = {"steps": 4, "batch": 4, "accelerator": "cpu"}
Array = np.ndarray[Any, Any]


def task(ahead: bool, **more: Any) -> dict[str, Any]:
    return {
        "department": "dept",
        "question": "?",
        "objective": "forecast",
        "backbone": "series",
        "target": {"source": "x", "kinds": ["a"]},
        "inputs": [{"source": "x", "kinds": ["w"], "ahead": ahead}, {"source": "x", "kinds": ["v"]}],
        "context": "1d",
        "horizon": "6h",
        "finetune": TRAINER,
        **more,
    }


def write_params(root: Path, **tasks: Any) -> None:
    kinds = {k: kind() for k in "awv"}
    backbones = {"series": {"pretrain": {"steps": 2, "batch": 2, "accelerator": "cpu"}}}
    sources = {"x": source(kinds=kinds, test_from=TEST_FROM)}
    city(root, sources, until=UNTIL, backbones=backbones, tasks=tasks)


@cache
def _built(root: Path) -> Path:
    """`a` follows the hour's `w`, which nothing foretells; `v` is of no use."""
    write_params(root, told=task(True), untold=task(False))
    begin, end = (dt.datetime.fromisoformat(d).replace(tzinfo=dt.UTC) for d in (START, UNTIL))
    hours = int((end - begin).total_seconds() // 3600)
    rng = np.random.default_rng(2)
    w, noise = 50 + 8 * rng.normal(size=hours), rng.normal(size=(hours, 3))
    rows = []
    for i in range(hours):
        at = begin + dt.timedelta(hours=i)
        rows += [(at, s, "a", float(50 + (w[i] - 50) + noise[i, j])) for j, s in enumerate(("s1", "s2"))]
        rows += [(at, "m", "w", float(w[i])), (at, "m", "v", float(50 + noise[i, 2]))]
    put(root, "x", rows)
    features.run("x", root=root)
    corpus.run("series", root=root)
    pretrain.run("series", root=root)
    for key in ("told", "untold"):
        join.run(key, root=root)
        finetune.run(key, root=root)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built(tmp_path_factory.getbasetemp() / "ahead")


def opened(root: Path, key: str) -> tuple[Predictor, Windows]:
    predictor = Predictor.load(root / "models/tasks" / key, threads=1)
    return predictor, Windows.of_task(root / "data/joined" / key, predictor.spec, False)


def test_what_is_known_ahead_makes_a_better_forecast(built: Path) -> None:
    error = {}
    for key in ("told", "untold"):
        predictor, data = opened(built, key)
        rows = data.rows("test", 6)
        answer = predictor.predict(data.given(rows), data.starts(rows))[..., 1]
        truth = data.read(rows + data.known, 6)[..., :2]
        error[key] = float(np.abs(answer - truth).mean())
    assert error["told"] < 0.5 * error["untold"]
    assert error["untold"] > 4


def test_the_report_says_what_the_source_of_inputs_is_worth(built: Path) -> None:
    evaluate.run("told", root=built)
    found = files.read_json(built / "metrics/evaluate/told.json")
    with_it, silent = found["model"]["mae"], found["without_inputs"]["x"]
    assert silent["mae"] > 2 * with_it, "the very same model, while that source says nothing"
    assert silent["low"] <= silent["difference"] <= silent["high"] < 0


def test_those_known_ahead_come_last_and_the_bundle_says_which(built: Path) -> None:
    roles = {key: [(c["kind"], c["role"]) for c in opened(built, key)[0].channels] for key in ("told", "untold")}
    assert roles["told"] == [("a", "target"), ("a", "target"), ("v", "input"), ("w", "ahead")]
    assert roles["untold"] == [("a", "target"), ("a", "target"), ("w", "input"), ("v", "input")]


def test_nothing_else_is_seen_after_the_context(built: Path) -> None:
    predictor, data = opened(built, "told")
    rows = data.rows("test", 24)[:3]
    context = predictor.spec.context
    raw = data.read(rows, predictor.steps)
    answer = predictor.predict(data.given(rows), data.starts(rows))
    assert np.array_equal(predictor.predict(raw, data.starts(rows)), answer)
    raw[:, context:, :3] = 99
    assert np.array_equal(predictor.predict(raw, data.starts(rows)), answer)
    assert np.isnan(data.given(rows)[:, context:, :3]).all()
    raw[:, context:, 3] += 9
    assert not np.isclose(predictor.predict(raw, data.starts(rows)), answer).any()


def test_later_rows_are_taken_and_absent_ones_are_missing(built: Path) -> None:
    predictor, data = opened(built, "told")
    row = data.rows("test", 24)[:1]
    raw, first = data.given(row), data.starts(row)
    times = first + np.arange(predictor.steps) * np.timedelta64(3600, "s")
    there = [(t, c) for t in range(predictor.steps) for c in range(4) if np.isfinite(raw[0, t, c])]
    assert (predictor.steps - 1, 3) in there
    told = {
        "time": np.array([times[t] for t, _ in there]),
        "sensor": np.array([predictor.channels[c]["sensor"] for _, c in there], object),
        "kind": np.array([predictor.channels[c]["kind"] for _, c in there], object),
        "value": np.array([raw[0, t, c] for t, c in there]),
    }
    answer = predictor.predict(raw, first)[0]
    found = predictor.predict_rows(told)
    assert np.array_equal(found["q0.5"].reshape(6, 2), answer[..., 1])
    assert found["time"][0] == times[predictor.spec.context]
    early = {k: v[told["time"] < times[predictor.spec.context]] for k, v in told.items()}
    without = predictor.predict(raw[:, : predictor.spec.context], first)[0]
    assert np.array_equal(predictor.predict_rows(early)["q0.5"].reshape(6, 2), without[..., 1])
    assert np.isfinite(without).all()
    assert not np.isclose(without, answer).all()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"target": {"source": "x", "kinds": ["a"], "ahead": True}}, "target.ahead: only inputs"),
        ({"objective": "anomaly"}, "`ahead` belongs to forecast and classify"),
    ],
)
def test_where_it_makes_no_sense_it_is_one_line(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    write_params(tmp_path, told=task(True, **more))
    with pytest.raises(UserError, match=says) as error:
        params.load(tmp_path)
    assert "\n" not in str(error.value)
