"""Batch forecasts: the numbers a server gives, for every sensor, wherever the data are gappy, late or changed."""

import datetime as dt
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city

from pipelines import finetune, join, predict
from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.release import predictions
from pipelines.release.predictor import Predictor
from pipelines.release.store import Pointer, Store

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-5
"""Relative; both are float32 of one graph, which may add in another order in another batch or thread."""
UNTIL = "2025-02-25T06:00:00Z"
HOUR = np.timedelta64(3600, "s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy city's data, where all its bundles serve."""
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    return toy_city.serving(made, tmp_path / "city", "joined")


def served(root: Path, task: str) -> Predictor:
    """The champion, as a server loads it."""
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    assert pointer is not None
    return Predictor.load(store.fetch(task, pointer.stable or ""), threads=1)


def latest(root: Path, task: str) -> dict[str, Array]:
    found = predictions.latest(Store.of(Paths(root)).objects, task)
    assert found is not None
    return found


def sent(root: Path, task: str, until: str, ahead: int = 0) -> dict[str, Array]:
    """What a client who knows the joined data sends at `until`: rows of the last day, those without a value too."""
    series = Series.open(root / "data/joined" / task)
    end = series.row(dt.datetime.fromisoformat(until))
    lo = max(0, end - 24)
    values, times = series.read(lo, end + ahead), series.times(lo, end + ahead)
    t, c = np.indices(values.shape).reshape(2, -1)
    names = {k: np.array(series.channels[k].to_pylist(), object)[c] for k in ("sensor", "kind")}
    return {"time": times[t], **names, "value": values[t, c].astype(float)}


@pytest.mark.parametrize("task", toy_city.TASKS)
def test_a_batch_has_the_numbers_that_a_request_gets(root: Path, task: str) -> None:
    predict.run(task, UNTIL, root=root)
    found, predictor = latest(root, task), served(root, task)
    said = predictor.predict_rows(sent(root, task, UNTIL))
    assert list(found)[-len(predictor.columns) + 3 :] == list(predictor.columns)[3:]
    for name in predictor.columns:
        if found[name].dtype.kind == "f":
            assert found[name] == pytest.approx(said[name], rel=TOLERANCE, nan_ok=True)
        else:
            assert np.array_equal(found[name], said[name])
    first = np.datetime64("2025-02-25T06:00") - (6 * HOUR if predictor.reconstruct else 0)
    assert found["time"].min() == first
    assert found["time"].max() == first + 5 * HOUR
    assert set(found["role"]) == {"batch"}
    assert set(found["digest"]) == {predictor.digest}
    assert set(found["issued"]) == {np.datetime64("2025-02-25T06:00", "us")}
    assert set(found["sensor"]) == set(toy_city.SENSORS)


SERVE = """
import sys
from pathlib import Path
from pipelines.core import log
from pipelines.serve import main

log.setup()
main.run(root=Path(sys.argv[1]), port=0, no_auth=True)
"""


@pytest.fixture
def server(root: Path) -> Iterator[str]:
    """A real one, in a process of its own, that serves what the city's store says; its address."""
    words = [sys.executable, "-c", SERVE, str(root)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.match(r"serving on (http://\S+) ", line)
            assert found, line + process.stderr.read()
            threading.Thread(target=process.stderr.read, daemon=True).start()
            ready(found[1])
            yield found[1]
        finally:
            process.terminate()
            process.wait(30)


def ready(address: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{address}/readyz") as reply:
                assert reply.status == 200
                return
        except urllib.error.URLError:  # not listening yet, or nothing loaded
            assert time.monotonic() < end
            time.sleep(0.2)


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_a_batch_has_the_numbers_that_a_server_gives_and_it_hands_the_batch_out(root: Path, server: str) -> None:
    for task in toy_city.TASKS:
        rows, predictor = sent(root, task, UNTIL), served(root, task)
        known = {(c["sensor"], c["kind"]) for c in predictor.channels}
        rows = [
            {"time": f"{t}Z", "sensor": s, "kind": k, "value": float(v) if np.isfinite(v) else None}
            for t, s, k, v in zip(*rows.values(), strict=True)
            if (s, k) in known
        ]
        answer = ask(f"{server}/v1/tasks/{task}/predict", {"rows": rows, "format": "columns"})
        predict.run(task, UNTIL, root=root)
        assert answer["digest"] == predictor.digest
        online, found = answer["columns"], latest(root, task)
        of = ask(f"{server}/v1/tasks/{task}/forecast?sensor=s2")
        assert (of["of"], of["digest"]) == ("batch", predictor.digest)
        names = list(zip(found["time"], found["sensor"], found["kind"], strict=True))
        times = np.array([t.removesuffix("Z") for t in online["time"]], "datetime64[us]")
        order = [names.index(name) for name in zip(times, online["sensor"], online["kind"], strict=True)]
        assert sorted(order) == list(range(len(names)))
        for name in list(predictor.columns)[3:]:
            values = found[name][order]
            if values.dtype.kind == "f":
                said = np.array(online[name], float)
                assert values == pytest.approx(said, rel=TOLERANCE, nan_ok=True)
                given = np.array(of["columns"][name], float)
                assert given == pytest.approx(found[name][found["sensor"] == "s2"], rel=TOLERANCE, nan_ok=True)
            else:
                assert values.tolist() == online[name]


def test_without_a_time_it_is_the_windows_end(root: Path) -> None:
    predict.run("ahead", root=root)
    assert latest(root, "ahead")["time"][0] == np.datetime64(toy_city.UNTIL)


def test_within_a_step_only_what_has_ended_is_known(root: Path) -> None:
    predict.run("ahead", UNTIL, root=root)
    one = latest(root, "ahead")
    predict.run("ahead", "2025-02-25T08:59:30+02:00", root=root)
    two = latest(root, "ahead")
    assert two["issued"][0] == np.datetime64("2025-02-25T06:59:30")
    for name in ("time", "q0.1", "mean"):
        assert np.array_equal(one[name], two[name])


def test_the_same_time_and_champion_make_the_same_file(root: Path) -> None:
    for _ in range(2):
        predict.run("state", UNTIL, root=root)
    objects = Store.of(Paths(root)).objects
    keys = objects.find("predictions/state")
    assert len(keys) == 2
    before = [objects.get(key) for key in keys]
    predict.run("state", UNTIL, root=root)
    assert [objects.get(key) for key in keys] == before


def test_what_it_did_is_one_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cityloop"):
        predict.run("ahead", UNTIL, root=root)
    (line,) = caplog.messages
    assert line.startswith("predict ahead: channels 4, steps 6")


@pytest.mark.parametrize(
    ("task", "until", "says"),
    [
        ("ahed", UNTIL, "no task 'ahed' in params.yaml; did you mean 'ahead'"),
        ("ahead", "soon", "--until: 'soon' is not a date"),
        ("ahead", "2025-03-01T01:00:00", "reaches until 2025-03-01T00:00"),
        ("ahead", "2025-01-20T12:00:00", r"reads 24 steps before it, and .* has 12; give 2025-01-21T00:00 or later"),
        ("ahead", "2024-01-20", r"has 0; give 2025-01-21T00:00 or later"),
    ],
)
def test_a_time_without_data_or_an_unknown_task_is_one_line(root: Path, task: str, until: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        predict.run(task, until, root=root)
    assert "\n" not in str(error.value)
    assert Store.of(Paths(root)).objects.find("predictions") == []


def test_before_anything_serves_it_says_what_to_do(root: Path) -> None:
    store = Store.of(Paths(root))
    store.point(Pointer("ahead", 2, None))
    with pytest.raises(UserError, match=r"no release serves yet.*cityloop promote ahead"):
        predict.run("ahead", UNTIL, root=root)
    store.objects.delete("current/ahead.json")
    with pytest.raises(UserError, match=r"no release serves yet.*cityloop promote ahead"):
        predict.run("ahead", UNTIL, root=root)
    shutil.rmtree(root / "data/joined/state")
    with pytest.raises(UserError, match="no joined data; run `cityloop join state`"):
        predict.run("state", UNTIL, root=root)


def change(root: Path, task: str, values: Any = None, **names: list[str]) -> None:
    """Rewrite the joined grid: its values, or columns of its channels table."""
    folder = root / "data/joined" / task
    table = Series.open(folder).channels
    for name, words in names.items():
        table = table.set_column(table.column_names.index(name), name, [words])
    files.write_table(folder / "channels.parquet", table)
    for path in sorted((folder / "values").glob("*.npy")) if values else ():
        files.write_array(path, values(np.load(path)))


def test_nothing_read_at_all_is_no_forecast(root: Path) -> None:
    def silent(values: Array) -> Array:
        values[:, :4] = np.nan
        return values

    change(root, "ahead", silent)
    with pytest.raises(UserError, match=r"no reading of a target from 2025-02-24T06:00:00 to 2025-02-25T06:00:00"):
        predict.run("ahead", UNTIL, root=root)


def test_a_channel_that_went_away_is_missing_and_one_that_came_is_a_stranger(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(root, "ahead", sensor=["s1", "new", "s3", "s4", "m"])
    predict.run("ahead", UNTIL, root=root)
    assert "predict ahead: without data, and missing: s2 a" in caplog.messages
    assert "predict ahead: new to this model, and taken for a usual one of its kind: new a" in caplog.messages
    rows = sent(root, "ahead", UNTIL)
    gone = {k: np.concatenate([v, v[:1]]) for k, v in rows.items()}
    gone["sensor"][-1], gone["kind"][-1], gone["value"][-1] = "s2", "a", np.nan
    found, said = latest(root, "ahead"), served(root, "ahead").predict_rows(gone, strangers=True)
    assert found["sensor"][:5].tolist() == ["s1", "s2", "s3", "s4", "new"]
    assert np.array_equal(found["sensor"], said["sensor"])
    assert found["mean"] == pytest.approx(said["mean"], rel=TOLERANCE)
    assert np.isfinite(found["mean"]).all()


def test_what_the_model_cannot_answer_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(root, "ahead", kind=["a", "b", "a", "a", "w"])
    predict.run("ahead", UNTIL, root=root)
    assert "predict ahead: new to this model, and not answered: s2 b" in caplog.messages
    names = [f"new_{i}" for i in range(3)]
    change(root, "leaks", sensor=["s1", *names, "s1", "s2", "s3", "s4"])
    caplog.clear()
    predict.run("leaks", UNTIL, root=root)
    assert "predict leaks: new to this model, and not answered: new_0 a, new_1 a, new_2 a" in caplog.messages
    assert set(latest(root, "leaks")["sensor"]) == set(toy_city.SENSORS)


def test_the_order_of_the_grid_does_not_matter(root: Path) -> None:
    predict.run("ahead", UNTIL, root=root)
    before = latest(root, "ahead")
    change(root, "ahead", lambda v: v[:, [2, 0, 3, 1, 4]], sensor=["s3", "s1", "s4", "s2", "m"])
    predict.run("ahead", UNTIL, root=root)
    after = latest(root, "ahead")
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.fixture
def told(root: Path, made: Path) -> Path:
    """With a task whose weather is known ahead."""
    shutil.copytree(made / "data/features", root / "data/features")
    shutil.copytree(made / "models/backbones", root / "models/backbones")
    weather = [{"source": "x", "kinds": ["w"], "ahead": True}]
    toy_city.write_params(root, told={**toy_city.TRAFFIC, "inputs": weather})
    join.run("told", root=root)
    finetune.run("told", root=root)
    store = Store.of(Paths(root))
    store.point(Pointer("told", 1, store.put("told", root / "models/tasks/told")))
    return root


def test_what_is_known_ahead_is_given_as_far_as_the_grid_has_it(told: Path) -> None:
    predictor, answers = served(told, "told"), {}
    for until in (UNTIL, toy_city.UNTIL):
        predict.run("told", until, root=told)
        answers[until] = latest(told, "told")["mean"]
    rows = sent(told, "told", UNTIL, ahead=6)
    early, weather = rows["time"] < np.datetime64("2025-02-25T06:00"), rows["kind"] == "w"
    known, unknown = (
        predictor.predict_rows({k: v[keep] for k, v in rows.items()})["mean"] for keep in (early | weather, early)
    )
    assert answers[UNTIL] == pytest.approx(known, rel=TOLERANCE)
    assert answers[UNTIL] != pytest.approx(unknown, rel=TOLERANCE)
    last = predictor.predict_rows(sent(told, "told", toy_city.UNTIL))["mean"]
    assert answers[toy_city.UNTIL] == pytest.approx(last, rel=TOLERANCE)


def test_answers_of_many_moments_are_those_of_each(root: Path) -> None:
    predict.run("ahead", UNTIL, root=root)
    store = Store.of(Paths(root)).objects
    (alone,) = (key for key in store.marks("predictions/ahead") if key.endswith(".parquet"))
    once = store.get(alone)
    predict.run("ahead", "2025-02-25T07:00:00Z", since="2025-02-25T04:30:00Z", every="1h", root=root)
    made = sorted(key for key in store.marks("predictions/ahead") if key.endswith(".parquet"))
    assert [key[-20:-8] for key in made] == [f"0225T{h:02d}0000Z" for h in (5, 6, 7)]
    assert store.get(alone) == once
    assert json.loads(store.get("predictions/ahead/latest.json"))["issued"] == "2025-02-25T07:00:00Z"


def test_without_a_beginning_it_goes_on_from_the_newest_answer(root: Path) -> None:
    def made() -> list[str]:
        return sorted(k[-16:-8] for k in store.marks("predictions/ahead") if k.endswith(".parquet"))

    store = Store.of(Paths(root)).objects
    predict.run("ahead", "2025-02-25T04:00:00Z", every="1h", root=root)
    assert made() == ["T040000Z"], "nothing was answered before"
    predict.run("ahead", "2025-02-25T07:30:00Z", every="1h", root=root)
    assert made() == ["T040000Z", "T043000Z", "T053000Z", "T063000Z", "T073000Z"]
    before = store.marks("predictions/ahead")
    predict.run("ahead", "2025-02-25T07:30:00Z", every="1h", root=root)
    assert store.marks("predictions/ahead") == before, "asked again it writes nothing"


def test_a_silent_stretch_is_passed_over_and_what_comes_after_it_is_answered(root: Path) -> None:
    predict.run("ahead", "2025-02-23T00:00:00Z", root=root)
    series = Series.open(root / "data/joined/ahead")
    for file, lo, hi in series.chunks:  # no target is read from the 22nd's last hour to the 24th's first
        values = np.load(series.folder / file)
        times = series.start + np.arange(lo, hi) * series.step
        gone = (times >= np.datetime64("2025-02-22T00")) & (times < np.datetime64("2025-02-24T01"))
        values[gone, : series.roles["target"][1]] = np.nan
        np.save(series.folder / file, values)
    with pytest.raises(UserError, match="no reading of a target"):
        predict.run("ahead", "2025-02-24T00:00:00Z", every="1h", root=root)
    predict.run("ahead", "2025-02-24T02:00:00Z", every="1h", root=root)
    keys = [k for k in Store.of(Paths(root)).objects.marks("predictions/ahead") if k.endswith(".parquet")]
    assert sorted(k[-20:-8] for k in keys) == ["0223T000000Z", "0224T020000Z"]


@pytest.mark.parametrize(
    ("since", "every", "says"),
    [
        ("2025-02-25", None, "--since goes with --every"),
        ("2025-02-26", "1h", "--since goes with --every"),
        ("25 February", "1h", "--since: '25 February' is not a date"),
        ("2025-02-25", "1", "not a duration"),
    ],
)
def test_moments_that_cannot_be_meant_are_named(root: Path, since: str | None, every: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        predict.run("ahead", UNTIL, since=since, every=every, root=root)
