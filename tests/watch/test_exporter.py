"""The exporter's figures are the ledger's, the heartbeats' and the files'; what is broken or away is told as such."""

import json
import logging
import re
import shutil
import signal
import subprocess
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus
import pytest
import requests
import yaml
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from workspaces import ROOT

from pipelines.__main__ import main
from pipelines.core import params
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release.ledger import Ledger
from pipelines.release.store import Pointer, Store
from pipelines.runs.live import Live
from pipelines.watch import exporter, gauges
from pipelines.watch.exporter import Exporter, Watched
from pipelines.watch.gauges import Book

TASK = "traffic_speed"


@pytest.fixture
def root(city_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CITYLOOP_STATE", str(city_files / "state"))
    for name in ("CITYLOOP_STORE", "CITYLOOP_GIT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return city_files


@pytest.fixture
def store(root: Path) -> Store:
    return Store.of(Paths(root))


def anew(found: Exporter) -> dict[str, dict[str, float]]:
    """Values by metric and labels of a look of now."""
    found.store._began = float("-inf")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(found)
    told: dict[str, dict[str, float]] = {}
    for line in generate_latest(registry).decode().splitlines():
        if line and not line.startswith("#"):
            name, labels, value = re.fullmatch(r"cityloop_(\w+)(\{.*\})? (\S+)", line).groups()  # type: ignore[union-attr]
            told.setdefault(name, {})[labels or ""] = float(value)
    return told


def only(told: dict[str, float], *words: str) -> float:
    (value,) = [v for labels, v in told.items() if all(word in labels for word in words)]
    return value


def decide(store: Store, action: str, digest: str, outcome: str) -> None:
    """As a promoter writes it."""
    ledger = Ledger(store.objects, TASK)
    state = ledger.state()
    said = {"action": action, "digest": digest, "by": "ada"}
    intent = ledger.append(state, {"state": "intended", **said})
    more = {"stable": digest, "previous": state.stable} if outcome == "serving" else {}
    done = ledger.append(ledger.state(), {"state": outcome, "of": intent["seq"], **said, **more})
    store.point(Pointer(TASK, done["seq"], done["stable"], versions={"d1": "1", "d2": "2"}))


def test_promotions_are_those_of_the_ledger(root: Path, store: Store) -> None:
    found = Exporter(root)
    decide(store, "promote", "d1", "serving")
    decide(store, "promote", "d2", "serving")
    first = anew(found)
    assert first["champion"] == {f'{{digest="d2",task="{TASK}",version="2"}}': 1}
    assert first["previous"] == {f'{{digest="d1",task="{TASK}",version="1"}}': 1}
    decide(store, "promote", "d3", "aborted")
    decide(store, "rollback", "d1", "serving")
    told = anew(found)
    counts = {
        (a, o): only(told["promotions_total"], TASK, f'action="{a}"', f'outcome="{o}"')
        for a in ("promote", "rollback") for o in ("serving", "aborted")
    }  # fmt: skip
    assert counts == {("promote", "serving"): 2, ("promote", "aborted"): 1, ("rollback", "serving"): 1,
                      ("rollback", "aborted"): 0}  # fmt: skip
    assert only(told["champion"], "d1", 'version="1"') == 1
    assert abs(only(told["champion_since_timestamp_seconds"], TASK) - time.time()) < 60
    assert 0 <= only(told["promotion_seconds"], TASK) < 60
    assert (only(told["promotion_under_way"], TASK), only(told["pointer_wrong"], TASK)) == (0, 0)
    ledger = Ledger(store.objects, TASK)
    ledger.append(ledger.state(), {"state": "intended", "action": "promote", "digest": "d4", "by": "ada"})
    told = anew(found)
    assert only(told["promotion_under_way"], TASK) == 1
    assert abs(only(told["promotion_begun_timestamp_seconds"], TASK) - time.time()) < 60


def test_a_pointer_that_says_otherwise_is_told(root: Path, store: Store) -> None:
    decide(store, "promote", "d1", "serving")
    store.point(Pointer(TASK, 9, "d9"))
    assert only(anew(Exporter(root))["pointer_wrong"], TASK) == 1


def test_another_store_in_its_place_is_another_ledger(root: Path, store: Store) -> None:
    found = Exporter(root)
    for digest in ("d1", "d2"):
        decide(store, "promote", digest, "serving")
    assert only(anew(found)["promotions_total"], TASK, '"promote"', '"serving"') == 2
    shutil.rmtree(store.where)
    decide(store, "promote", "d3", "serving")
    assert only(anew(found)["promotions_total"], TASK, '"promote"', '"serving"') == 1


@pytest.mark.parametrize("what", ["summary.json", "decision.json"])
@pytest.mark.parametrize("said", [b"{", b"[]", b"7", b'{"releases": [], "join": 3, "drift": {"days": {"x": 0}}}',
                                  b'{"decision": {"a": 1}, "error": {"live": "much", "gate": NaN}}'])  # fmt: skip
def test_files_that_say_nothing_are_nothing(root: Path, store: Store, what: str, said: bytes) -> None:
    decide(store, "promote", "d1", "serving")
    store.objects.put(f"monitor/{TASK}/{what}", said)
    told = anew(Exporter(root))
    assert told["store_up"] == {"": 1}
    assert only(told["champion"], TASK) == 1
    assert only(told["task_readable"], TASK) == 1
    assert not {"judged_score", "gate_score", "live_score"} & set(told)


def test_one_broken_ledger_does_not_hide_the_others(root: Path, store: Store) -> None:
    decide(store, "promote", "d1", "serving")
    for bad in (b"{", b"[]", b'{"seq": 1}'):
        store.objects.put("ledger/air_quality/00000001.json", bad)
        told = anew(Exporter(root))
        assert only(told["task_readable"], "air_quality") == 0
        assert only(told["task_readable"], TASK) == 1
        assert only(told["champion"], TASK) == 1


def test_a_store_that_is_away_is_told_and_what_was_known_stays(
    root: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    decide(store, "promote", "d1", "serving")
    found = Exporter(root)
    before = anew(found)
    place = Path(store.where)
    shutil.move(place, place.with_name("elsewhere"))
    place.write_text("no folder")
    caplog.clear()
    for _ in range(3):
        told = anew(found)
        assert told["store_up"] == {"": 0}
        assert told["champion"] == before["champion"]
        assert told["store_read_timestamp_seconds"] == before["store_read_timestamp_seconds"]
    assert len([line for line in caplog.messages if "metrics: " in line]) == 1
    place.unlink()
    shutil.move(place.with_name("elsewhere"), place)
    assert anew(found)["store_up"] == {"": 1}


def test_servers_are_told_while_their_heartbeats_go_on_and_none_is_removed(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, clock = Exporter(root), 100.0
    monkeypatch.setattr("pipelines.release.beats.time", types.SimpleNamespace(monotonic=lambda: clock))

    def beat(name: str, number: int, digest: str) -> None:
        store.beat(name, {"beat": number, "every_s": 2, "tasks": {TASK: {"stable": digest}}})

    beat("a", 1, "d1")
    beat("b", 1, "d2")
    told = anew(found)
    assert told["servers"] == {"": 2}
    assert {label.split(",")[0] for label in told["server_release"]} == {'{digest="d1"', '{digest="d2"'}
    clock += 30
    beat("a", 2, "d1")
    for _ in range(2):
        told = anew(found)
        assert told["servers"] == {"": 1}
        assert only(told["server_release"], 'server="a"', "d1") == 1
    assert set(store.beats()) == {"a", "b"}


def test_data_are_as_old_as_their_report_says(root: Path) -> None:
    report = Paths(root).metrics("validate", "air")
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"age_h": 5.0, "records": 100, "quarantined": 7, "expectations": {"warnings": 2}}))
    told = anew(Exporter(root))
    end = params.load(root).window["air"].timestamp()
    assert only(told["source_window_timestamp_seconds"], 'source="air"') == end
    assert only(told["source_newest_timestamp_seconds"], 'source="air"') == end - 5 * 3600
    assert only(told["source_quarantined"], 'source="air"') == 7
    assert only(told["source_warnings"], 'source="air"') == 2
    assert only(told["source_freshness_limit_seconds"], 'source="air"') == 6 * 3600
    report.write_text("{")
    assert "source_newest_timestamp_seconds" not in anew(Exporter(root))


@pytest.mark.parametrize("away", [False, True], ids=["here", "elsewhere"])
def test_live_is_read_where_it_is(root: Path, away: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and reports of branch live, its newest commit; of a repository here, or by an address."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)

    def window(day: str) -> None:
        (root / "window.yaml").write_text(yaml.safe_dump(dict.fromkeys(params.load(ROOT).sources, day)))
        git("commit", "-qam", day)

    git("init", "-q", "-b", "main")
    git("add", "params.yaml", "window.yaml")
    git("commit", "-qm", "first")
    monkeypatch.setattr("pipelines.runs.live.EVERY_S", 0.0)
    if away:
        monkeypatch.setenv("CITYLOOP_GIT", f"file://{root}")
    found = Exporter(root, Live(root))
    assert "source_window_timestamp_seconds" not in anew(found)
    git("checkout", "-qb", "live")
    for day in ("2025-06-01", "2025-06-02"):
        window(day)
        git("checkout", "-q", "main")
        end = params.parse_instant(day).timestamp()
        assert only(anew(found)["source_window_timestamp_seconds"], 'source="air"') == end
        git("checkout", "-q", "live")


def test_a_review_that_waits_is_told_with_its_begin() -> None:
    since = "2025-04-01T00:00:00Z"
    told = {"candidate": "d", "candidate_version": "4", "candidate_since": since, "verdict": "passed", "review": True}
    refused = told | {"verdict": "failed", "review": False}
    found = {family.name: family.samples for family in gauges.waiting({"a": told, "b": refused})}
    (waits,) = found["cityloop_review_waiting_timestamp_seconds"]
    assert (waits.labels, waits.value) == ({"task": "a"}, params.parse_instant("2025-04-01").timestamp())
    assert {(s.labels["task"], s.labels["verdict"]) for s in found["cityloop_candidate"]} == {
        ("a", "passed"), ("b", "failed"),
    }  # fmt: skip


def test_a_scrape_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "LONGEST_S", 0.3)
    go_on = threading.Event()
    answers: list[Callable[[], Any]] = [lambda: Book().families.values(), lambda: go_on.wait(20) and []]
    asked: list[int] = []

    def look() -> Any:
        asked.append(1)
        return list(answers[min(len(asked), 2) - 1]())

    watched = Watched(look, 0.0)
    watched.ask(5)
    assert watched.up
    for _ in range(3):
        begun = time.monotonic()
        watched.ask(0.1)
        assert time.monotonic() - begun < 2
    time.sleep(0.3)
    assert not watched.up
    assert len(asked) == 2, "one that hangs is not asked again"
    go_on.set()
    prometheus.eventually(lambda: watched.up)


def test_a_look_is_kept_for_some_seconds() -> None:
    asked: list[int] = []

    def look() -> Any:
        asked.append(1)
        raise UserError("away")

    watched = Watched(look, 60.0)
    for _ in range(5):
        watched.ask(1)
    assert (len(asked), watched.up) == (1, False)


def test_it_answers_as_a_process_until_sigterm(root: Path) -> None:
    with prometheus.exporter(root, CITYLOOP_STATE=str(root / "state")) as (run, port):
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20)
        assert "cityloop_store_up 1.0" in page.text
        taken = CliRunner().invoke(main, ["-C", str(root), "metrics", "--port", str(port)])
        assert (taken.exit_code, len(taken.output.splitlines())) == (2, 1)
        assert "give another --host or --port" in taken.output
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
    assert not Path(root / "state/store").exists(), "who only looks leaves nothing"


def test_without_a_city_it_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        done = CliRunner().invoke(main, ["-C", str(tmp_path), "metrics", "--port", "0"])
    assert done.exit_code == 2
    assert "params.yaml: no such file" in done.output
