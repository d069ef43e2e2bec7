"""Live scores: each answer once, by what was read since, whatever is late, corrected, broken or killed."""

import datetime as dt
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import toy_city
import yaml
from click.testing import CliRunner
from small_city import Row, put, tree

from pipelines import features, monitor, predict
from pipelines.__main__ import main
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
from pipelines.watch import scoring, week
from pipelines.watch.kept import Kept

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
    # The rival raises as many alarms, about the readings farthest from what is usual; bins are 9 % wide.
    predictor = served(root, "leaks")
    std = dict(zip([c["sensor"] for c in predictor.channels], predictor.tables["std"], strict=True))
    away = [abs(read[(r["time"], r["sensor"], "a")] - usual(predictor, r)) / std[r["sensor"]] for r in rows]
    order = np.argsort(away)[::-1][: sum(alarm)]
    assert told["profile"]["precision"] == pytest.approx(np.mean(np.array(leak)[order]), abs=0.1)
    assert told["profile"]["alarm_rate"] == pytest.approx(sum(alarm) / len(rows))
    assert told["profile"]["recall"] == pytest.approx(told["profile"]["precision"] * sum(alarm) / sum(leak))


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
    monkeypatch.setattr(scoring, "_of_file", lambda *_: pytest.fail("read again"))
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
    for stop in range(len(whole)):
        shutil.rmtree(live(answered))
        written: list[Path] = []

        def put(self: Folder, key: str, data: bytes, stop: int = stop, written: list[Path] = written) -> None:
            path = self.root / key
            if not path.is_relative_to(live(answered)):  # a server of another test in this process may still beat
                real(self, key, data)
                return
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
            name = path.relative_to(live(answered)).as_posix()
            assert tree(live(answered))[name] == whole[name]
        monitor.run("ahead", root=answered)
        assert tree(live(answered)) == whole


def _killed_before(number: int, state: str, root: Path) -> None:
    """In a process of its own: SIGKILL before its file `number` is there whole."""
    os.environ["CITYLOOP_STATE"], real, made = state, os.replace, list[None]()

    def replace(*paths: Any) -> None:
        if len(made) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(real(*paths))

    os.replace = replace  # type: ignore[assignment]
    monitor.run("ahead", root=root)


def test_each_answer_counts_once_though_processes_are_killed(answered: Path) -> None:
    """One after the other, each a file or two further; and what they leave is what one call without a kill leaves."""
    context, rows = multiprocessing.get_context("forkserver"), len(logged(answered, "ahead"))
    context.set_forkserver_preload(["test_monitor"])
    killed = 0
    for number in (0, 2, 3, 1):
        state = str(Paths(answered).state)
        process = context.Process(target=_killed_before, args=(number, state, answered))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += process.exitcode != 0
    assert killed >= 3
    told = monitor.run("ahead", root=answered)
    assert only(told)["rows"] == rows == sum(only(told)[k] for k in ("scored", "missing", "waiting", "unanswered"))
    after = tree(live(answered))
    shutil.rmtree(live(answered))
    monitor.run("ahead", root=answered)
    assert after == tree(live(answered))


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


def twin(root: Path, place: Path, task: str = "ahead", **config: Any) -> str:
    """A candidate in the store, and as its pointer's shadow: the champion by another name, but for its `config`."""
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    assert pointer is not None
    folder = store.fetch(task, pointer.stable or "")
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del contents[bundle.MANIFEST]
    told = {**json.loads(contents["config.json"]), "question": "another?", **config}
    bundle.write(place, {**contents, "config.json": files.to_json(told)})
    digest = store.put(task, place)
    store.point(Pointer(task, 2, pointer.stable, digest, 1.0, True))
    return digest


def test_champion_and_shadow_stand_side_by_side_over_what_both_answered(root: Path, tmp_path: Path) -> None:
    champion, store = served(root, "ahead"), Store.of(Paths(root))
    digest = twin(root, tmp_path / "twin")
    shadow = Predictor.load(store.fetch("ahead", digest), threads=1)
    series = Series.open(root / "data/joined/ahead")
    log, both = Log(store.objects, "server-1"), (UNTILS[1], UNTILS[3])
    for until in UNTILS:
        issued = np.datetime64(until.removesuffix("Z"), "us")
        first = predict.answered("ahead", champion, series, issued)
        log.add(first._replace(role="stable"))
        if until in both:
            log.add(Answered("ahead", shadow, "shadow", first.request_id, issued, first.first, first.answer + 1))
    assert log.close()
    files.write_json(Paths(root).metrics("evaluate", "ahead"), {"model": {"mae": 2.5}, "ridge": {"mae": 2.0}})
    told = monitor.run("ahead", root=root)
    side, read = told["side_by_side"], readings(root)
    assert (side["days"], side["requests"]) == (["2025-02-22", "2025-02-23"], 2)
    assert side["champion"]["rows"] == side["candidate"]["rows"] == 48
    for name, role in (("champion", "stable"), ("candidate", "shadow")):
        rows = [r for r in logged(root, "ahead") if r["role"] == role and f"{r['issued']:%FT%TZ}" in both]
        error = [abs(read[k] - r["q0.5"]) for r in rows if (k := (r["time"], r["sensor"], r["kind"])) in read]
        assert side[name]["model"]["mae"] == pytest.approx(np.mean(error), rel=1e-6)
    assert side["candidate"]["profile"] == side["champion"]["profile"]
    assert told["releases"][champion.digest]["stable"]["rows"] == 96
    assert (told["champion"], told["candidate"]) == (champion.digest, digest)
    assert told["frozen_test"] == {"digest": None, "model": {"mae": 2.5}}


def test_a_canary_that_answers_other_requests_stands_beside_the_champion_by_day(root: Path, tmp_path: Path) -> None:
    champion, store = served(root, "ahead"), Store.of(Paths(root))
    canary = Predictor.load(store.fetch("ahead", twin(root, tmp_path / "twin")), threads=1)
    series, log = Series.open(root / "data/joined/ahead"), Log(store.objects, "server-1")
    for until, predictor, role in zip(
        UNTILS[:3], (champion, champion, canary), ("stable", "stable", "canary"), strict=True
    ):
        log.add(predict.answered("ahead", predictor, series, np.datetime64(until[:-1], "us"))._replace(role=role))
    assert log.close()
    side = monitor.run("ahead", root=root)["side_by_side"]
    assert (side["days"], side["requests"]) == (["2025-02-22"], None)
    assert (side["champion"]["rows"], side["candidate"]["rows"]) == (24, 24)


def test_districts_hours_and_regimes_are_those_of_the_city_itself(root: Path, tmp_path: Path) -> None:
    """Twelve hours of a Friday, six of a Saturday; s1 in a district of its own, and s4 in none."""
    config = served(root, "ahead").config
    of = {"s1": "north", "s2": "south", "s3": "south", "s4": None}
    channels = [{**c, "district": of.get(c["sensor"])} for c in config["channels"]]
    digest, store = twin(root, tmp_path / "twin", channels=channels), Store.of(Paths(root))
    store.point(Pointer("ahead", 3, digest))
    for until in ("2025-02-21T04:00:00Z", "2025-02-21T14:00:00Z", "2025-02-21T23:00:00Z"):
        predict.run("ahead", until, root=root)
    found, read, rows = only(monitor.run("ahead", root=root)), readings(root), logged(root, "ahead")
    zone = zoneinfo.ZoneInfo("Europe/Amsterdam")

    def mae(wanted: Any) -> float:
        near = [(r, read.get((r["time"], r["sensor"], r["kind"]))) for r in rows]
        return float(np.mean([abs(t - r["q0.5"]) for r, t in near if t is not None and wanted(r)]))

    def hour(row: dict[str, Any]) -> int:
        return int(row["time"].astimezone(zone).hour)

    def off(row: dict[str, Any]) -> bool:
        return bool(row["time"].astimezone(zone).weekday() >= 5)

    rush = lambda r: not off(r) and hour(r) in (7, 8, 16, 17, 18)  # noqa: E731
    expected = {"rush_hour": rush, "night": lambda r: hour(r) < 6, "weekend_holiday": off}
    assert {k: v["model"]["mae"] for k, v in found["by_regime"].items()} == pytest.approx(
        {name: mae(wanted) for name, wanted in expected.items()}, rel=1e-6
    )
    assert {k: v["model"]["mae"] for k, v in found["by_district"].items()} == pytest.approx(
        {name: mae(lambda r, name=name: of[r["sensor"]] == name) for name in ("north", "south")}, rel=1e-6
    )
    assert {int(k): v["model"]["mae"] for k, v in found["by_hour"].items()} == pytest.approx(
        {h: mae(lambda r, h=h: hour(r) == h) for h in sorted({hour(r) for r in rows})}, rel=1e-6
    )
    assert list(found["by_hour"])[-2:] == ["19", "20"]
    for part in ("hour", "step", "kind", "day"):
        assert sum(v["scored"] for v in found[f"by_{part}"].values()) == found["scored"]


def test_truth_in_another_unit_is_named_and_the_rest_scored(answered: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = monitor.run("ahead", root=answered)
    path = answered / "data/features/series/x/channels.parquet"
    channels = pq.read_table(path)
    units = [
        "mph" if s == "s2" else u for s, u in zip(*(channels[k].to_pylist() for k in ("sensor", "unit")), strict=True)
    ]
    files.write_table(path, channels.set_column(channels.column_names.index("unit"), "unit", [units]))
    told = monitor.run("ahead", root=answered)
    found, (digest,) = only(told), told["releases"]
    assert (found["rows"], found["other_unit"]) == (96, 24)
    assert found["scored"] + found["missing"] == 72
    assert told["join"]["units"] == {digest: {"s2/a": ["u", "mph"]}}
    assert sum(counts["other_unit"] for counts in told["join"]["distrusted"].values()) == 24
    assert any("whose units are not its own: s2/a: mph, was u" in line for line in caplog.messages)
    read = readings(answered)
    rows = [r for r in logged(answered, "ahead") if r["sensor"] != "s2"]
    error = [abs(read[k] - r["q0.5"]) for r in rows if (k := (r["time"], r["sensor"], r["kind"])) in read]
    assert found["model"]["mae"] == pytest.approx(np.mean(error), rel=1e-6)
    files.write_table(path, channels)
    assert monitor.run("ahead", root=answered) == before


def real_city(root: Path) -> None:
    """Its readings come from files, and its clock is that of its servers."""
    told = yaml.safe_load((root / "params.yaml").read_text())
    told["sources"]["x"]["read"] = {"connector": "files", "path": "a.csv", "time": "time", "value": "value"}
    (root / "params.yaml").write_text(yaml.safe_dump(told, sort_keys=False))


def test_answers_of_a_wrong_clock_are_named_and_the_rest_scored(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    real_city(root)
    champion, store = served(root, "ahead"), Store.of(Paths(root))
    good = predict.answered(
        "ahead", champion, Series.open(root / "data/joined/ahead"), np.datetime64(UNTILS[1][:-1], "us")
    )
    hours = np.timedelta64(1, "h")
    wrong = {  # six hours were asked, and readings may be a day old
        "off_grid": good._replace(first=good.first + np.timedelta64(7, "m")),
        "future": good._replace(issued=good.issued - 2 * hours),
        "hindsight": good._replace(issued=good.issued + 30 * hours + np.timedelta64(1, "s")),
    }
    for name, one in {"right": good, "slow": good._replace(issued=good.issued + 30 * hours), **wrong}.items():
        log = Log(store.objects, f"server-{name}")
        log.add(one._replace(role="stable", request_id=name))
        assert log.close()
    told = monitor.run("ahead", root=root)
    found = told["releases"][champion.digest]["stable"]
    assert {name: found[name] for name in ("rows", *wrong)} == {"rows": 5 * 24, **dict.fromkeys(wrong, 24)}
    assert found["scored"] + found["missing"] == 48
    named = {key.split("/server-")[1].split("-")[0]: counts for key, counts in told["join"]["distrusted"].items()}
    assert named == {name: {name: 24} for name in wrong}
    assert any("server-future" in line and "are not scored: future 24" in line for line in caplog.messages)
    assert monitor.run("ahead", root=root) == told


def test_a_simulated_city_has_a_clock_of_its_own(root: Path) -> None:
    champion, store = served(root, "ahead"), Store.of(Paths(root))
    good = predict.answered(
        "ahead", champion, Series.open(root / "data/joined/ahead"), np.datetime64(UNTILS[1][:-1], "us")
    )
    log = Log(store.objects, "server-1")
    log.add(good._replace(role="stable", issued=good.issued + np.timedelta64(400, "D")))
    assert log.close()
    found = monitor.run("ahead", root=root)["releases"][champion.digest]["stable"]
    assert found["hindsight"] == 0 < found["scored"]


def test_at_a_glance_the_champions_last_week_stands_beside_gate_and_rivals(answered: Path) -> None:
    files.write_json(Paths(answered).metrics("evaluate", "ahead"), {"model": {"mae": 2.0}, "last_value": {"mae": 9.0}})
    predict.run("ahead", "2025-02-10T06:00:00Z", root=answered)  # before the week
    told, read = monitor.run("ahead", root=answered), readings(answered)
    seen = files.read_json(live(answered) / "glance.json")
    rows = [r for r in logged(answered, "ahead") if r["issued"].date() >= dt.date(2025, 2, 17)]
    near = [(r, read[k]) for r in rows if (k := (r["time"], r["sensor"], r["kind"])) in read]
    week = seen["week"]
    assert (week["from"], week["until"], week["scored"]) == ("2025-02-21", "2025-02-23", len(near))
    assert week["model"] == pytest.approx(np.mean([abs(t - r["q0.5"]) for r, t in near]), rel=1e-6)
    assert week["coverage"] == pytest.approx(len(near) / len(rows))
    assert week["last_value"] > 0 < week["profile"]
    assert (seen["metric"], seen["unit"], seen["frozen_test"]) == ("mae", "u", 2.0)
    assert seen["decision"] == told["decision"]["decision"]
    assert seen["gate"] == told["decision"]["error"]["gate"] == pytest.approx(2.4)
    assert seen["champion"] == told["champion"]


def test_the_week_is_told_sensor_by_sensor_and_broken_ones_apart(answered: Path) -> None:
    told, read, champion = monitor.run("ahead", root=answered), readings(answered), served(answered, "ahead")
    kept = Kept(Store.of(Paths(answered)).objects, "ahead")
    days = {day: kept.read(kept.day(day)) for day in kept.days()}

    def sensors(day: str) -> Any:
        return kept.read(kept.day(day, "sensors"))

    def mae(wanted: Any) -> float:
        near = [(r, read.get((r["time"], r["sensor"], r["kind"]))) for r in logged(answered, "ahead")]
        return float(np.mean([abs(t - r["q0.5"]) for r, t in near if t is not None and wanted(r)]))

    found = week.of(days, sensors, champion.digest, (), champion.channels)
    assert (found["from"], found["until"], found["role"], found["before"]) == (
        "2025-02-21",
        "2025-02-23",
        "batch",
        None,
    )
    assert {k: v["model"]["mae"] for k, v in found["by_sensor"].items()} == pytest.approx(
        {s: mae(lambda r, s=s: r["sensor"] == s) for s in ("s1", "s2", "s3", "s4")}, rel=1e-6
    )
    assert found["by_sensor"]["s1"]["latitude"] == 52.0
    broken = {"2025-02-22": {"faults": ["s2/a"]}, "2025-02-23": {"faults": []}, "2025-02-01": {"faults": ["s1/a"]}}
    summary = {**told, "drift": {"days": broken}}
    week.set_apart(summary, sensors, ())
    by_day = only(summary)["by_day"]
    expected = mae(lambda r: r["sensor"] != "s2" and r["issued"].date() == dt.date(2025, 2, 22))
    assert by_day["2025-02-22"]["apart"]["mae"] == pytest.approx(expected, rel=1e-6)
    assert "apart" not in by_day["2025-02-23"]


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


def test_a_full_disk_is_one_line_and_what_was_there_stays_whole(answered: Path) -> None:
    """Where monitor writes there is a file system of its own, without room; afterwards it goes on where it was."""
    whole = monitor.run("ahead", root=answered)
    before = {name: (live(answered) / name).read_bytes() for name in tree(live(answered))}
    arrive(answered, change=lambda r: (*r[:3], r[3] + 1))
    shutil.rmtree(live(answered))
    live(answered).mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "x", live(answered)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        done = CliRunner().invoke(main, ["-C", str(answered), "monitor", "ahead"])
        assert done.exit_code == 2
        assert re.fullmatch(r"error: .*: No space left on device", done.output.splitlines()[-1])
        assert not [line for line in done.output.splitlines() if "Traceback" in line]
        assert set(tree(live(answered))) <= set(before)
    finally:
        subprocess.run(["umount", live(answered)], check=True)
    arrive(answered)
    assert monitor.run("ahead", root=answered) == whole
    assert {name: (live(answered) / name).read_bytes() for name in before} == before
