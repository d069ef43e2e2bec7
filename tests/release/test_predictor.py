"""A bundle asked in both its ways: windows and long rows, with strangers, gaps and old readings among them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import carded
import numpy as np
import pytest
import toy_city
from safetensors.numpy import load, save
from workspaces import ROOT

from pipelines.core.answers import calibrated, misfit, smooth
from pipelines.core.errors import UserError
from pipelines.release import bundle
from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
TASKS = list(toy_city.TASKS)
END = np.datetime64("2025-02-25T06:00", "s")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


@pytest.fixture(scope="module", params=TASKS)
def predictor(ready: Path, request: pytest.FixtureRequest) -> Predictor:
    return Predictor.load(ready / "models/tasks" / request.param)


@pytest.fixture(scope="module")
def ahead(ready: Path) -> Predictor:
    return Predictor.load(ready / "models/tasks/ahead", threads=1)


def window(predictor: Predictor, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(50, 8, (1, predictor.spec.context, len(predictor.channels))).astype(np.float32)


def long(predictor: Predictor, values: Array, end: np.datetime64 = END) -> dict[str, Array]:
    """One window as rows, NaN left out, in random order; the window's last step begins at `end`."""
    _, context, n = values.shape
    times = end - (context - 1 - np.arange(context)) * np.timedelta64(1, "h")
    made = [
        (times[t], predictor.channels[c]["sensor"], predictor.channels[c]["kind"], float(values[0, t, c]))
        for t in range(context)
        for c in range(n)
        if np.isfinite(values[0, t, c])
    ]
    order = np.random.default_rng(1).permutation(len(made))
    return as_rows([made[i] for i in order])


def as_rows(made: list[tuple[Any, ...]]) -> dict[str, Array]:
    time, sensor, kind, value = zip(*made, strict=True)
    return {
        "time": np.array(time, "datetime64[s]"),
        "sensor": np.array(sensor, object),
        "kind": np.array(kind, object),
        "value": np.array(value, float),
    }


def more(rows: dict[str, Array], *made: tuple[Any, ...]) -> dict[str, Array]:
    extra = as_rows(list(made))
    return {k: np.concatenate([v, extra[k]]) for k, v in rows.items()}


def start(predictor: Predictor) -> Array:
    return np.array([END - (predictor.spec.context - 1) * np.timedelta64(1, "h")])


def same(one: dict[str, Array], two: dict[str, Array]) -> bool:
    return one.keys() == two.keys() and all(
        np.array_equal(v, two[k], equal_nan=v.dtype.kind == "f") for k, v in one.items()
    )


def test_golden_inputs_give_the_golden_answer(predictor: Predictor) -> None:
    assert predictor.golden() < 1e-5


def test_a_bundle_that_answers_otherwise_than_it_did_is_seen(tmp_path: Path) -> None:
    """A toy bundle, which stores only what its graph reads."""
    contents, other = carded.contents(), carded.contents(factor=2)
    bundle.write(tmp_path / "same", contents)
    assert Predictor.load(tmp_path / "same").golden() < 1e-5
    bundle.write(tmp_path / "other", {**contents, "model.onnx": other["model.onnx"]})
    assert Predictor.load(tmp_path / "other").golden() == pytest.approx(1)
    stored = load(contents["golden.safetensors"])
    wild = {**stored, "input.values": np.full_like(stored["input.values"], np.nan)}
    bundle.write(tmp_path / "wild", {**contents, "golden.safetensors": save(wild)})
    assert Predictor.load(tmp_path / "wild").golden() == float("inf")
    bundle.write(tmp_path / "less", {**contents, "golden.safetensors": save({"answer": stored["answer"]})})
    with pytest.raises(UserError, match="golden inputs lack values"):
        Predictor.load(tmp_path / "less").golden()


def test_rows_and_windows_are_answered_alike(predictor: Predictor) -> None:
    values = window(predictor)
    values[0, 3:6, 1] = np.nan
    answer = predictor.predict(values, start(predictor))[0]
    found = predictor.predict_rows(long(predictor, values))
    n = predictor.targets
    assert answer.shape == (6, n, len(predictor.names))
    for i, name in enumerate(predictor.names):
        assert np.array_equal(found[name].reshape(6, n), answer[..., i])
    first = END - 5 * np.timedelta64(1, "h") if predictor.reconstruct else END + np.timedelta64(1, "h")
    assert np.array_equal(found["time"].reshape(6, n)[:, 0], first + np.arange(6) * np.timedelta64(1, "h"))
    assert found["sensor"][:n].tolist() == [c["sensor"] for c in predictor.channels[:n]]
    assert {len(v) for v in found.values()} == {6 * n}


def test_a_classifier_names_the_class_and_a_detector_the_alarm(ready: Path) -> None:
    state = Predictor.load(ready / "models/tasks/state")
    found = state.predict_rows(long(state, window(state)))
    shares = np.stack([found[name] for name in ("low", "mid", "high")], axis=-1)
    assert shares.sum(-1) == pytest.approx(np.ones(len(shares)), abs=1e-5)
    assert found["class"].tolist() == [
        ("low", "mid", "high")[i] for i in (shares * state.tables["decision"]).argmax(-1)
    ]
    leaks = Predictor.load(ready / "models/tasks/leaks")
    usual = leaks.inputs(np.full((1, 24, 4), np.nan, np.float32), start(leaks))["profile"][:, :24]
    calm = leaks.predict_rows(long(leaks, usual))
    low = usual.copy()
    low[0, -6:, 2] -= 25
    found = leaks.predict_rows(long(leaks, low))
    assert not calm["alarm"].any()
    assert found["alarm"].reshape(6, 4)[-1].tolist() == [False, False, True, False]
    answer = leaks.predict(low, start(leaks))
    score = smooth(misfit(answer, low[:, -6:], leaks.tables["misfit"])[0], int(leaks.config["alarm"]["span"]))
    assert found["score"].reshape(6, 4) == pytest.approx(score)


def test_who_is_not_named_is_not_there_and_not_answered(predictor: Predictor) -> None:
    values = window(predictor)
    rows = long(predictor, values)
    mine = np.isin(rows["sensor"], ["s2", "s4"])
    found = predictor.predict_rows({k: v[mine] for k, v in rows.items()})
    answer = predictor.only((1, 3)).predict(values[:, :, [1, 3]], start(predictor))[0]
    assert found["sensor"].tolist() == ["s2", "s4"] * 6
    for i, name in enumerate(predictor.names):
        assert np.array_equal(found[name].reshape(6, 2), answer[..., i])
    one = predictor.predict_rows({k: v[rows["sensor"] == "s2"] for k, v in rows.items()})
    assert len(one["time"]) == 6


def test_who_is_named_without_a_reading_is_missing(predictor: Predictor) -> None:
    values = window(predictor)
    values[0, :, 2] = np.nan
    rows = more(long(predictor, values), (END, "s3", "a", None))
    answer = predictor.predict(values, start(predictor))[0]
    assert np.array_equal(predictor.predict_rows(rows)[predictor.names[1]].reshape(6, -1), answer[..., 1])


def test_each_sensor_alone_is_answered_much_as_among_the_others(ready: Path) -> None:
    for task, off in (("ahead", 0.1), ("leaks", 0.4)):
        asked = Predictor.load(ready / "models/tasks" / task, threads=1)
        data = toy_city.opened(ready, task, reconstruct=task == "leaks")
        rows = data.rows("test", 24)[:6]
        values, starts = data.given(rows), data.starts(rows)
        whole = asked.predict(values, starts)
        for i in range(asked.targets):
            alone = asked.only((i,)).predict(values[:, :, [i]], starts)[:, :, 0]
            assert np.abs(alone - whole[:, :, i])[..., 1].mean() < off * asked.tables["std"][i]


def test_an_alarms_usual_misfit_is_each_sensors_own(ready: Path) -> None:
    leaks = Predictor.load(ready / "models/tasks/leaks")
    rows = long(leaks, window(leaks))
    part = {k: v[np.isin(rows["sensor"], ["s2", "s3"])] for k, v in rows.items()}
    assert leaks.only((1, 2)).tables["misfit"].tolist() == leaks.tables["misfit"][1:3].tolist()
    assert np.isfinite(leaks.predict_rows(part)["score"]).all()


@pytest.mark.parametrize("task", ["ahead", "state"])
def test_a_stranger_that_reads_as_a_known_sensor_is_answered_much_like_it(ready: Path, task: str) -> None:
    asked = Predictor.load(ready / "models/tasks" / task, threads=1)
    data = toy_city.opened(ready, task)
    rows = data.rows("test", 24)[:6]
    values, n = data.given(rows), asked.targets
    joined = asked.joined_by([("double", "a")])
    assert joined.channels[n]["sensor"] == "double"
    found = joined.predict(np.insert(values, n, values[:, :, 1], axis=2), data.starts(rows))
    unit = 1 if task == "state" else asked.tables["std"][1]
    assert np.isfinite(found).all()
    assert np.abs(found[:, :, n] - found[:, :, 1])[..., 1].mean() < 0.3 * unit


def test_strangers_in_rows_join_when_they_are_let(ready: Path) -> None:
    asked = Predictor.load(ready / "models/tasks/ahead", threads=1)
    values = window(asked)
    rows = long(asked, values)
    double = rows["sensor"] == "s2"
    other = {k: np.concatenate([v, v[double]]) for k, v in rows.items()}
    other["sensor"][len(rows["sensor"]) :] = "double"
    assert same(asked.predict_rows(other), asked.predict_rows(rows))
    found = asked.predict_rows(other, strangers=True)
    assert found["sensor"][:5].tolist() == ["s1", "s2", "s3", "s4", "double"]
    wide = np.insert(values, 4, values[:, :, 1], axis=2)
    answer = asked.joined_by([("double", "a")]).predict(wide, start(asked))[0]
    assert np.array_equal(found["q0.5"].reshape(6, 5), answer[..., 1])
    alone = asked.predict_rows({k: v[len(rows["sensor"]) :] for k, v in other.items()}, strangers=True)
    assert set(alone["sensor"].tolist()) == {"double"}


def test_a_stranger_who_cannot_join_is_named(ready: Path) -> None:
    asked, leaks = (Predictor.load(ready / "models/tasks" / task) for task in ("ahead", "leaks"))
    for one, kind, says in (
        (asked, "noise", "sensor 's9': this model knows no 'noise'"),
        (leaks, "a", "'s9' is unknown"),
    ):
        rows = more(long(one, window(one)), (END, "s9", kind, 1.0))
        with pytest.raises(UserError, match=says) as error:
            one.predict_rows(rows, strangers=True)
        assert "\n" not in str(error.value)


def test_times_that_cannot_be_are_the_callers_mistake(ahead: Predictor) -> None:
    values = window(ahead)
    for wrong in ("NaT", "0001-01-01", "9999-12-31", "-200000-01-01"):
        with pytest.raises(UserError, match="times must lie between"):
            ahead.predict(values, np.array([wrong], "datetime64[s]"))
        with pytest.raises(UserError, match="times must lie between"):
            ahead.predict_rows(more(long(ahead, values), (wrong, "s1", "a", 1.0)))


def test_columns_of_unequal_length_are_the_callers_mistake(ahead: Predictor) -> None:
    rows = long(ahead, window(ahead))
    with pytest.raises(UserError, match="not equally long"):
        ahead.predict_rows({**rows, "value": rows["value"][:-1]})


def test_unknown_sensors_and_kinds_are_ignored(ahead: Predictor) -> None:
    rows = long(ahead, window(ahead))
    later = END + np.timedelta64(1, "D")
    other = more(rows, (END, "s99", "a", 1.0), (END, "s1", "w", 1.0), (later, "m", "rain", 1.0))
    assert same(ahead.predict_rows(other), ahead.predict_rows(rows))


def test_readings_older_than_the_window_are_ignored(ahead: Predictor) -> None:
    rows = long(ahead, window(ahead))
    old = END - 24 * np.timedelta64(1, "h")
    other = more(rows, (old, "s1", "a", 9e9), (old - np.timedelta64(300, "D"), "s2", "a", -9e9))
    assert same(ahead.predict_rows(other), ahead.predict_rows(rows))
    inside = more(rows, (old + np.timedelta64(1, "h"), "s1", "a", 99.0))
    assert not same(ahead.predict_rows(inside), ahead.predict_rows(rows))


def test_a_missing_reading_is_an_absent_one(predictor: Predictor) -> None:
    values = window(predictor)
    values[0, 5, 0] = values[0, 9, 2] = np.nan
    rows = long(predictor, values)
    at = END - np.array([18, 14]) * np.timedelta64(1, "h")
    for nothing in (np.nan, np.inf):
        named = more(rows, (at[0], "s1", "a", nothing), (at[1], "s3", "a", nothing))
        assert same(predictor.predict_rows(named), predictor.predict_rows(rows))
    whole = values.copy()
    whole[0, 5, 0] = np.inf
    assert np.array_equal(predictor.predict(whole, start(predictor)), predictor.predict(values, start(predictor)))


def test_a_reading_within_a_step_belongs_to_it(ahead: Predictor) -> None:
    rows = long(ahead, window(ahead))
    late = {**rows, "time": rows["time"] + np.timedelta64(59, "m")}
    assert same(ahead.predict_rows(late), ahead.predict_rows(rows))


def test_one_reading_is_enough_and_every_answer_is_finite(predictor: Predictor) -> None:
    found = predictor.predict_rows(as_rows([(END, "s2", "a", 55.0)]))
    for name in predictor.names:
        assert np.isfinite(found[name]).all()
    silent = np.full((2, 24, len(predictor.channels)), np.nan, np.float32)
    assert np.isfinite(predictor.predict(silent, np.repeat(start(predictor), 2))).all()


def test_no_known_sensor_is_the_callers_mistake(ahead: Predictor) -> None:
    with pytest.raises(UserError, match="no reading is of a target") as error:
        ahead.predict_rows(as_rows([(END, "nobody", "a", 1.0)]))
    assert "\n" not in str(error.value)
    empty = {k: v[:0] for k, v in as_rows([(END, "s1", "a", 1.0)]).items()}
    with pytest.raises(UserError, match="no reading is of a target"):
        ahead.predict_rows(empty)


def test_windows_of_another_shape_are_refused(ahead: Predictor) -> None:
    for shape, starts in (((1, 24, 4), 1), ((1, 23, 5), 1), ((0, 24, 5), 0), ((2, 24, 5), 1), ((24, 5), 24)):
        with pytest.raises(UserError, match=r"24 steps of 5 channels") as error:
            ahead.predict(np.zeros(shape, np.float32), np.repeat(start(ahead), starts))
        assert "\n" not in str(error.value)


def test_many_windows_are_answered_as_one_by_one(ahead: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([window(ahead, seed) for seed in range(5)])
    starts = start(ahead)[0] + np.arange(5) * np.timedelta64(5, "h")
    whole = ahead.predict(values, starts)
    monkeypatch.setattr("pipelines.release.predictor.CHUNK", 2)
    assert ahead.predict(values, starts) == pytest.approx(whole, rel=1e-5)
    assert ahead.predict(values[3:4], starts[3:4]) == pytest.approx(whole[3:4], rel=1e-5)


def test_answers_are_calibrated_and_ordered(ready: Path) -> None:
    for task in ("ahead", "leaks"):
        predictor = Predictor.load(ready / "models/tasks" / task)
        values = window(predictor)
        raw = predictor.run(predictor.inputs(values, start(predictor)))[:, :, : predictor.targets]
        found = predictor.predict(values, start(predictor))
        assert found == pytest.approx(calibrated(raw, predictor.tables["spread"]))
        assert not np.array_equal(found, raw)
        assert (np.diff(found[..., :3], axis=-1) >= 0).all()


def test_the_order_of_rows_does_not_matter(ahead: Predictor) -> None:
    rows = long(ahead, window(ahead))
    again = ahead.predict_rows({k: v[::-1].copy() for k, v in rows.items()})
    assert same(again, ahead.predict_rows(rows))


def test_a_changed_bundle_is_refused(ready: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "ahead"
    shutil.copytree(ready / "models/tasks/ahead", folder)
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes().replace(b"3600", b"1800"))
    with pytest.raises(UserError, match=r"config\.json"):
        Predictor.load(folder)
    with pytest.raises(UserError, match="no bundle"):
        Predictor.load(tmp_path)


def test_a_hidden_reading_does_not_answer_for_itself(ready: Path) -> None:
    """Not even when its channel was silent until then, so that it is all there is to fill the gap with."""
    leaks = Predictor.load(ready / "models/tasks/leaks")
    values = window(leaks)
    values[0, :-6, 1] = np.nan
    other = values.copy()
    other[0, -6:, 1::2] += 40  # channels 1 and 3 are hidden together
    one, two = (leaks.predict(v, start(leaks)) for v in (values, other))
    assert np.array_equal(one[:, :, 1::2], two[:, :, 1::2])
    assert not np.array_equal(one[:, :, ::2], two[:, :, ::2])


def test_rows_are_placed_when_they_are_known_as_join_places_them() -> None:
    channel = {"sensor": "s", "aggregate": "mean"}
    channels = [
        {**channel, "kind": "load", "step_s": 900},
        {**channel, "kind": "warmth", "step_s": 3600},
        {**channel, "kind": "rain", "step_s": 300, "aggregate": "sum"},
    ]
    spec = {"step_s": 900, "context": 8, "horizon": 8, "timezone": "UTC", "holidays": []}
    asked = Predictor({"spec": spec, "channels": channels, "targets": 1}, {}, "", None)
    read = [
        ("10:00", "load", 1.0), ("11:50", "load", 2.0), ("11:45", "load", 4.0), ("12:00", "load", np.nan),
        ("09:00", "warmth", 7.0), ("10:30", "warmth", 9.0),
        ("10:50", "rain", 1.0), ("10:55", "rain", 2.0), ("11:00", "rain", 5.0), ("13:00", "rain", 99.0),
    ]  # fmt: skip
    times, kinds, values = zip(*read, strict=True)
    given = {
        "time": np.array([f"2025-03-03T{t}" for t in times], "datetime64[s]"),
        "sensor": np.array(["s"] * len(read)),
        "kind": np.array(kinds),
        "value": np.array(values),
    }
    window, start = asked.window(given)
    # A reading of 09:00 to 10:00 is known at 10:00, so first in the row 09:45, and holds for four rows.
    assert start == np.datetime64("2025-03-03T10:00:00")
    gap = np.nan
    expected = [
        [1, gap, gap, gap, gap, gap, gap, 3],
        [7, 7, 7, 9, 9, 9, 9, gap],
        [gap, gap, gap, 3, 5, gap, gap, gap],
    ]
    np.testing.assert_array_equal(window[0].T, np.array(expected, np.float32))


def test_the_runtime_keeps_no_record_of_who_asked_what_and_sends_none(tmp_path: Path) -> None:
    """ONNX Runtime's wheels collect events for their makers and write who we are beside them, unless told not to."""
    bundle.write(tmp_path / "bundle", carded.contents())
    unset = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    alone = {name: value for name, value in os.environ.items() if name not in unset}
    load = "from pipelines.release.predictor import Predictor; Predictor.load(Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"import sys; from pathlib import Path; {load}", str(tmp_path / "bundle")]

    def left(home: Path, **environ: str) -> list[Path]:
        subprocess.run(command, env={**alone, "HOME": str(home), **environ}, cwd=ROOT, check=True)
        return list(home.rglob("*onnxruntime*"))

    assert not left(tmp_path / "home")
    assert left(tmp_path / "told", ORT_DISABLE_TELEMETRY="0"), "who wants to may"
