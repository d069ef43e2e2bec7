"""Live scores: each answer once, by what was read since, whatever is late, corrected, broken or killed."""

import datetime as dt
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import toy_city
from small_city import Row, put, tree

from pipelines import features, monitor, predict
from pipelines.core import calendar, files
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.models import objectives
from pipelines.release import bundle, predictions
from pipelines.release.objects import Folder
from pipelines.release.predictions import Answered, Log
from pipelines.release.predictor import Predictor
from pipelines.release.store import Pointer, Store

Array = np.ndarray[Any, Any]
UNTILS = ("2025-02-21T06:00:00Z", "2025-02-22T06:00:00Z", "2025-02-22T12:00:00Z", "2025-02-23T06:00:00Z")
HOUR = np.timedelta64(3600, "s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy city, where all its bundles serve."""
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    return toy_city.serving(made, tmp_path / "city", "joined", "features", "validated")


@pytest.fixture
def answered(root: Path) -> Path:
    """With some days of forecasts."""
    for until in UNTILS:
        predict.run("ahead", until, root=root)
    return root


def live(root: Path, task: str = "ahead") -> Path:
    return Paths(root).state / "store/monitor" / task


def log_files(root: Path, task: str = "ahead") -> list[Path]:
    return sorted((Paths(root).state / "store/predictions" / task).glob("date=*/*.parquet"))


def logged(root: Path, task: str) -> list[dict[str, Any]]:
    return [row for path in log_files(root, task) for row in pq.read_table(path, partitioning=None).to_pylist()]


def readings(root: Path) -> dict[tuple[dt.datetime, str, str], float]:
    """What features have, as a plain table."""
    series = Series.open(root / "data/features/series/x")
    values, names = series.read(), series.channels.select(["sensor", "kind"]).to_pylist()
    return {
        (series.when(t), n["sensor"], n["kind"]): float(values[t, i])
        for t in range(series.length)
        for i, n in enumerate(names)
        if np.isfinite(values[t, i])
    }


def only(told: dict[str, Any], role: str = "batch") -> dict[str, Any]:
    (roles,) = told["releases"].values()
    return roles[role]


def served(root: Path, task: str) -> Predictor:
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    assert pointer is not None
    return Predictor.load(store.fetch(task, pointer.stable or ""), threads=1)


def usual(predictor: Predictor, row: dict[str, Any], steps_before: int = 0) -> float:
    at = np.array([np.datetime64(row["time"].replace(tzinfo=None), "s") - steps_before * HOUR])
    slot = calendar.slot_of_week(at, predictor.spec.timezone, predictor.spec.holidays, 3600)[0]
    names = [(c["sensor"], c["kind"]) for c in predictor.channels]
    return float(predictor.tables["profile"][slot, names.index((row["sensor"], row["kind"]))])


def test_the_figures_are_those_of_a_plain_loop(answered: Path) -> None:
    told, read, predictor = monitor.run("ahead", root=answered), readings(answered), served(answered, "ahead")
    rows = logged(answered, "ahead")
    truth = [read.get((r["time"], r["sensor"], r["kind"])) for r in rows]
    good = [(r, t) for r, t in zip(rows, truth, strict=True) if t is not None]
    assert 0 < len(good) < len(rows) == 4 * 6 * 4
    found = only(told)
    assert {k: found[k] for k in ("rows", "scored", "missing", "waiting", "unanswered")} == {
        "rows": len(rows), "scored": len(good), "missing": len(rows) - len(good), "waiting": 0, "unanswered": 0,
    }  # fmt: skip
    assert found["coverage"] == told["join"]["coverage"] == len(good) / len(rows)
    error = [abs(t - r["q0.5"]) for r, t in good]
    levels = [(0.1, "q0.1"), (0.5, "q0.5"), (0.9, "q0.9")]
    pinball = [np.mean([max(q * (t - r[n]), (q - 1) * (t - r[n])) for q, n in levels]) for r, t in good]
    assert found["model"] == pytest.approx(
        {
            "mae": np.mean(error),
            "rmse": np.mean([(t - r["mean"]) ** 2 for r, t in good]) ** 0.5,
            "pinball": np.mean(pinball),
            "coverage80": np.mean([r["q0.1"] <= t <= r["q0.9"] for r, t in good]),
            "width80": np.mean([r["q0.9"] - r["q0.1"] for r, _ in good]),
        },
        rel=1e-6,
    )
    last = []
    for r, t in good:
        before = (r["time"] - dt.timedelta(hours=r["step"]), r["sensor"], r["kind"])
        last.append(abs(t - read.get(before, usual(predictor, r, r["step"]))))
    assert found["last_value"]["mae"] == pytest.approx(np.mean(last), rel=1e-6)
    assert found["profile"]["mae"] == pytest.approx(np.mean([abs(t - usual(predictor, r)) for r, t in good]), rel=1e-6)
    for step in range(1, 7):
        mine = [e for e, (r, _) in zip(error, good, strict=True) if r["step"] == step]
        assert found["by_step"][str(step)]["model"]["mae"] == pytest.approx(np.mean(mine), rel=1e-6)
    assert list(found["by_day"]) == ["2025-02-21", "2025-02-22", "2025-02-23"]
    assert found["by_day"]["2025-02-22"]["rows"] == 48
    assert list(found["by_kind"]) == ["a"]


def test_classes_are_scored_as_the_frozen_test_scores_them(root: Path) -> None:
    for until in UNTILS:
        predict.run("state", until, root=root)
    told, predictor = only(monitor.run("state", root=root)), served(root, "state")
    read, rows = readings(root), logged(root, "state")
    names = list(predictor.names)
    channel = [c["sensor"] for c in predictor.channels[: predictor.targets]]
    aux = {**predictor.config["aux"], "decision": predictor.tables["decision"]}
    aux["reference"] = np.array([predictor.tables["reference"][channel.index(r["sensor"])] for r in rows])
    values = np.array([read.get((r["time"], r["sensor"], r["kind"]), np.nan) for r in rows])
    answer = np.array([[r[name] for name in names] for r in rows])
    objective = objectives.load("classify")
    expected = objective.score(answer, objective.truth(values, aux), aux)
    both = ("accuracy", "macro_f1", "log_loss", "calibration_error", "f1_low", "f1_mid", "f1_high")
    assert told["model"] == pytest.approx({k: expected[k] for k in both}, rel=1e-6, nan_ok=True)
    profile = np.array([usual(predictor, r) for r in rows])
    said, true = objective.truth(profile, aux), objective.truth(values, aux)
    assert told["profile"]["accuracy"] == pytest.approx((said == true)[np.isfinite(true)].mean())


def test_alarms_are_held_against_labels_at_the_settled_steps(root: Path) -> None:
    untils = [f"2025-02-{day}T{hour:02}:00:00Z" for day in (21, 22, 23, 24) for hour in (6, 12, 18)]
    for until in untils:
        predict.run("leaks", until, root=root)
    told, read, rows = only(monitor.run("leaks", root=root)), readings(root), logged(root, "leaks")
    spec = served(root, "leaks").spec
    rows = [r for r in rows if r["step"] > spec.horizon - spec.patch and r["score"] is not None]
    leak = [read[(r["time"], r["sensor"], "leak")] > 0.5 for r in rows]
    alarm = [r["alarm"] for r in rows]
    hit = sum(a and b for a, b in zip(alarm, leak, strict=True))
    assert told["scored"] == len(rows)
    assert sum(alarm) > 0
    assert told["model"]["precision"] == pytest.approx(hit / sum(alarm))
    assert told["model"]["recall"] == pytest.approx(hit / sum(leak))
    assert told["model"]["alarm_rate"] == pytest.approx(sum(alarm) / len(rows))
    assert told["rows"] == told["scored"] + told["unsettled"] + told["unanswered"] + told["missing"]


def arrive(root: Path, keep: Any = None, change: Any = None) -> None:
    """The validated records again, those that `keep` lets through, as `change` has them; on the grid."""
    rows: list[Row] = [change(r) if change else r for r in toy_city.rows() if keep is None or keep(r)]
    shutil.rmtree(root / "data/validated/x")
    put(root, "x", rows)
    features.run("x", root=root)


def days(root: Path) -> dict[str, bytes]:
    return {path.stem.removeprefix("date="): path.read_bytes() for path in sorted(live(root).glob("date=*.json"))}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return [day for day in after if before.get(day) != after[day]]


def test_late_and_corrected_truth_scores_its_day_again_and_no_other(answered: Path) -> None:
    late = dt.datetime(2025, 2, 22, 8, tzinfo=dt.UTC)
    arrive(answered, keep=lambda r: (r[0], r[1]) != (late, "s1"))
    first = only(monitor.run("ahead", root=answered))
    before = days(answered)
    arrive(answered)
    second = only(monitor.run("ahead", root=answered))
    assert changed(before, days(answered)) == ["2025-02-22"]
    assert (second["scored"], second["missing"]) == (first["scored"] + 1, first["missing"] - 1)
    before = days(answered)
    arrive(answered, change=lambda r: (*r[:3], r[3] + 5) if (r[0], r[1]) == (late, "s1") else r)
    third = only(monitor.run("ahead", root=answered))
    assert changed(before, days(answered)) == ["2025-02-22"]
    assert third["scored"] == second["scored"]
    assert third["model"]["mae"] != second["model"]["mae"]


def test_what_has_not_ended_waits(answered: Path) -> None:
    told = only(monitor.run("ahead", "2025-02-23T08:00:00Z", root=answered))
    assert told["waiting"] == 4 * 4
    assert told["rows"] == told["scored"] + told["missing"] + told["waiting"]
    before = days(answered)
    assert only(monitor.run("ahead", root=answered))["waiting"] == 0
    assert changed(before, days(answered)) == ["2025-02-23"]


def test_again_changes_no_byte_and_scores_nothing(
    answered: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.run("ahead", root=answered)
    before = tree(live(answered))
    assert {"summary.json", "live.png", "date=2025-02-21.json"} < set(before)
    monkeypatch.setattr(monitor, "_of_file", lambda *_: pytest.fail("read again"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "cityloop"):
        monitor.run("ahead", root=answered)
    assert tree(live(answered)) == before
    (line,) = caplog.messages
    assert "days 3, scored_now 0" in line
    assert "metric mae" in line


def test_a_kill_between_two_days_leaves_whole_files_and_the_next_call_the_same_bytes(
    answered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor.run("ahead", root=answered)
    whole, real = tree(live(answered)), Folder.put
    for stop in range(5):
        shutil.rmtree(live(answered))
        written: list[Path] = []

        def put(self: Folder, key: str, data: bytes, stop: int = stop, written: list[Path] = written) -> None:
            path = self.root / key
            if len(written) == stop:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".{path.name}.0.tmp").write_bytes(data[:10])
                raise KeyboardInterrupt
            written.append(path)
            real(self, key, data)

        with monkeypatch.context() as killing:
            killing.setattr(Folder, "put", put)
            with pytest.raises(KeyboardInterrupt):
                monitor.run("ahead", root=answered)
        for path in written:
            assert tree(live(answered))[path.name] == whole[path.name]
        monitor.run("ahead", root=answered)
        assert tree(live(answered)) == whole


def test_what_cannot_be_read_or_is_of_nobody_is_named_and_the_rest_scored(
    answered: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.run("ahead", root=answered)
    _, cut, strange, _ = log_files(answered)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    table = pq.read_table(strange, partitioning=None)
    unknown = table.set_column(table.column_names.index("digest"), "digest", [["f" * 64] * len(table)])
    pq.write_table(unknown, strange)
    told = monitor.run("ahead", root=answered)
    assert told["join"]["unreadable"] == [f"predictions/ahead/{cut.parent.name}/{cut.name}"]
    assert told["join"]["unknown"] == {"f" * 64: 24}
    assert told["join"]["rows"] == 48
    assert any(f"{cut.name} cannot be read, and is left out" in line for line in caplog.messages)
    assert any("answers by ffffffffffff are not scored" in line for line in caplog.messages)
    cut.write_bytes(whole)
    assert monitor.run("ahead", root=answered)["join"]["rows"] == 72


def twin(root: Path, place: Path, task: str = "ahead") -> str:
    """A candidate in the store, and as its pointer's shadow: the champion by another name."""
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    assert pointer is not None
    folder = store.fetch(task, pointer.stable or "")
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del contents[bundle.MANIFEST]
    contents["config.json"] = files.to_json({**json.loads(contents["config.json"]), "question": "another?"})
    bundle.write(place, contents)
    digest = store.put(task, place)
    store.point(Pointer(task, 2, pointer.stable, digest, 1.0, True))
    return digest


def test_champion_and_shadow_stand_side_by_side_on_the_days_both_answered(root: Path, tmp_path: Path) -> None:
    champion, store = served(root, "ahead"), Store.of(Paths(root))
    digest = twin(root, tmp_path / "twin")
    shadow = Predictor.load(store.fetch("ahead", digest), threads=1)
    series = Series.open(root / "data/joined/ahead")
    log = Log(store.objects, "server-1")
    for until in UNTILS:
        issued = np.datetime64(until.removesuffix("Z"), "us")
        first = predict.answered("ahead", champion, series, issued)
        log.add(first._replace(role="stable"))
        if until != UNTILS[0]:
            log.add(Answered("ahead", shadow, "shadow", first.request_id, issued, first.first, first.answer + 1))
    assert log.close()
    files.write_json(Paths(root).metrics("evaluate", "ahead"), {"model": {"mae": 2.5}, "ridge": {"mae": 2.0}})
    told = monitor.run("ahead", root=root)
    side = told["side_by_side"]
    assert side["days"] == ["2025-02-22", "2025-02-23"]
    assert side["champion"]["rows"] == side["candidate"]["rows"] == 72
    assert side["candidate"]["model"]["mae"] != side["champion"]["model"]["mae"]
    assert side["candidate"]["profile"] == side["champion"]["profile"]
    assert told["releases"][champion.digest]["stable"]["rows"] == 96
    assert (told["champion"], told["candidate"]) == (champion.digest, digest)
    assert told["frozen_test"] == {"digest": None, "model": {"mae": 2.5}}


def test_a_day_whose_log_is_gone_keeps_what_was_scored(answered: Path) -> None:
    before = monitor.run("ahead", root=answered)
    shutil.rmtree(log_files(answered)[0].parent)
    assert monitor.run("ahead", root=answered) == before


@pytest.mark.parametrize(
    ("task", "until", "says"),
    [
        ("ahed", None, "no task 'ahed' in params.yaml; did you mean 'ahead'"),
        ("ahead", "soon", "--until: 'soon' is not a date"),
        ("ahead", None, r"nothing was answered of ahead; .*cityloop predict ahead"),
    ],
)
def test_a_mistake_is_one_line(root: Path, task: str, until: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        monitor.run(task, until, root=root)
    assert "\n" not in str(error.value)


def test_without_features_it_says_what_to_run(root: Path) -> None:
    shutil.rmtree(root / "data/features")
    with pytest.raises(UserError, match="no features; run `cityloop features x`"):
        monitor.run("ahead", root=root)


def test_pictures_and_messages_are_refused(city_files: Path) -> None:
    with pytest.raises(UserError, match="nothing tells yet what was right about a text"):
        monitor.run("request_routing", root=city_files)


def test_marks_change_when_an_object_is_replaced(tmp_path: Path) -> None:
    from pipelines.release import objects

    folder = objects.of(str(tmp_path))
    folder.put("a/b.json", b"1")
    before, far = folder.marks("a"), objects.of(f"file://{tmp_path}").marks("a")
    assert list(before) == list(far) == ["a/b.json"]
    folder.put("a/b.json", b"2")
    assert folder.marks("a") != before


def test_the_log_is_of_the_day_it_was_issued(answered: Path) -> None:
    for path in log_files(answered):
        assert predictions.FOLDER in path.parts
        day = path.parent.name.removeprefix("date=")
        assert {f"{r['issued']:%F}" for r in pq.read_table(path, partitioning=None).to_pylist()} == {day}
