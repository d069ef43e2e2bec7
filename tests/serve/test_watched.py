"""A real Prometheus watches a real server and the real exporter; nothing it does, or does not, reaches who asks."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import prometheus
import pytest
import requests
import yaml
from prometheus import MONITORING, Prometheus, eventually
from served import ROOT, TASK, Client, Place, arrays, process

from pipelines.watch import gauges

DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
DECISION: dict[str, Any] = {
    "task": TASK, "until": "2025-04-07T00:00:00Z", "decision": "retrain", "reasons": ["it is off"],
    "since": "2025-04-05", "retrain": None, "rollback": None, "champion": "d",
    "error": {"live": 5.0, "gate": 4.0, "metric": "mae", "days_above": 3},
}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "task": TASK, "until": "2025-04-06T00:00:00Z", "primary": "mae", "champion": "d", "candidate": None,
    "frozen_test": {"model": {"mae": 3.0}},
    "releases": {"d": {"stable": {"by_day": {
        "2025-04-04": {"scored": 5, "model": {"mae": 4.5}, "profile": {"mae": 6.0}},
        "2025-04-05": {"scored": 9, "model": {"mae": 5.5}, "profile": {"mae": 6.5}},
        "2025-04-06": {"scored": 0, "model": {"mae": None}, "profile": {"mae": None}},
    }}}},
    "join": {"scored": 14, "waiting": 2, "missing": 1, "unanswered": 0, "unsettled": 0, "coverage": 14 / 15,
             "unknown": {"f": 7}, "unreadable": []},
    "drift": {"days": {"2025-04-05": {"tested": 10, "drifted": ["a/x"], "faults": [], "share": 0.1}},
              "changed_since": None, "faulty": {"b/x": {"since": "2025-04-05", "why": "stuck"}}, "new_sensors": [],
              "skew": {"off": 0.25}},
}  # fmt: skip


def written(place: Place, name: str, told: Any) -> None:
    place.store.objects.put(f"monitor/{TASK}/{name}", json.dumps(told).encode())


@dataclass
class Watched:
    """All of it, running."""

    place: Place
    server: int
    exporter: "subprocess.Popen[str]"
    exporter_port: int
    prometheus: Prometheus

    def metrics(self, port: int) -> str:
        return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    place = Place(folder)
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(ROOT / name, folder / name)
    digest = place.release()
    place.point(digest, versions={digest: "3"})
    written(place, "summary.json", SUMMARY)
    written(place, "decision.json", DECISION)
    where = {"CITYLOOP_STORE": place.store.where, "CITYLOOP_STATE": str(folder / "state"), "MLFLOW_TRACKING_URI": ""}
    with (
        process(place) as (_, server),
        prometheus.exporter(folder, **where) as (exporter, port),
        prometheus.running(folder / "prometheus", serving=server, exporter=port) as running,
    ):
        yield Watched(place, server, exporter, port, running)


def answers(port: int) -> int:
    return Client(port).predict(arrays(np.full((24, 3), 5.0))).status


@prometheus.needed
def test_server_and_exporter_are_scraped_and_every_rule_is_judged(watched: Watched) -> None:
    ask = watched.prometheus.query
    assert answers(watched.server) == 200
    assert eventually(lambda: len(ask("up == 1")) == 1 and watched.prometheus.ask("query", query="sum(up)"))
    ((labels, _),) = eventually(lambda: ask("cityloop_release")).items()
    assert ("version", "3") in labels
    assert eventually(lambda: ask(f'cityloop_requests_total{{task="{TASK}", route="predict", code="200"}} > 0'))
    eventually(lambda: ask(f'task:requests:rate5m{{task="{TASK}"}}'))
    groups = watched.prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written_down = [r for path in RULES for g in yaml.safe_load(path.read_text())["groups"] for r in g["rules"]]
    assert len(rules) == len(written_down) > 25
    healthy = eventually(lambda: _judged(watched.prometheus))
    assert healthy == {"ok"}


def _judged(running: Prometheus) -> set[str]:
    found = {r["health"] for g in running.ask("rules")["groups"] for r in g["rules"]}
    return found if "unknown" not in found else set()


@prometheus.needed
def test_what_monitor_found_is_told_to_its_department_until_it_is_over(watched: Watched) -> None:
    ask = watched.prometheus.query
    alert = eventually(lambda: watched.prometheus.firing().get("ErrorAboveGate"))
    assert alert["labels"] | {"instance": "", "job": ""} == {
        "alertname": "ErrorAboveGate", "severity": "day", "department": "environment", "task": TASK, "metric": "mae",
        "instance": "", "job": "",
    }  # fmt: skip
    assert alert["annotations"]["summary"] == f"{TASK} has been off by more than its gate allows for 3 days."
    assert ask(f'cityloop_decision{{task="{TASK}"}} == 1') == {(("decision", "retrain"), ("task", TASK)): 1}
    assert ask('cityloop_live_score{method="model"}') == {
        (("method", "model"), ("metric", "mae"), ("release", "champion"), ("role", "stable"), ("task", TASK)): 5.5
    }
    assert {k[0][1]: v for k, v in ask("cityloop_answers").items()} == {
        "scored": 14, "waiting": 2, "missing": 1, "unanswered": 0, "unsettled": 0, "unknown": 7
    }  # fmt: skip
    one = {"cityloop_drift_share": 0.1, "cityloop_faulty_channels": 1, "cityloop_skew_share": 0.25,
           "cityloop_frozen_score": 3, "cityloop_gate_score": 4, "cityloop_monitor_lag_seconds": 86400,
           "cityloop_join_coverage": 14 / 15}  # fmt: skip
    assert {name: [*ask(name).values()] for name in one} == {name: [value] for name, value in one.items()}
    assert ask("cityloop_changed_since_timestamp_seconds") == {}
    better = {**DECISION, "decision": "fine", "error": {**DECISION["error"], "days_above": 0}}
    written(watched.place, "decision.json", better)
    eventually(lambda: "ErrorAboveGate" not in watched.prometheus.firing())


@prometheus.needed
def test_serving_does_not_notice_that_nobody_watches(watched: Watched) -> None:
    """The exporter is killed, then Prometheus, while requests come: the first is told, none of them fails."""
    statuses: list[int] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            statuses.append(answers(watched.server))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        eventually(lambda: len(statuses) > 20)
        watched.exporter.kill()
        fires = eventually(lambda: watched.prometheus.firing().get("ExporterDown"))
        assert fires["labels"]["department"] == "platform"
        watched.prometheus.process.kill()
        watched.prometheus.process.wait()
        before = len(statuses)
        eventually(lambda: len(statuses) > before + 50)
    finally:
        over.set()
        thread.join()
    assert set(statuses) == {200}


# What dashboards and rules ask for


def names(text: str) -> set[str]:
    """Of the series that a scrape gives."""
    return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")} | {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP")
    }


def expressions() -> dict[str, list[str]]:
    found = {path.name: [t["expr"] for p in json.loads(path.read_text())["panels"] for t in p["targets"]]
             for path in DASHBOARDS}  # fmt: skip
    for path in RULES:
        groups = yaml.safe_load(path.read_text())["groups"]
        found[path.name] = [rule["expr"] for group in groups for rule in group["rules"]]
    return found


def test_every_metric_that_is_asked_for_is_one_that_is_given(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(ROOT / name, place.root / name)
    place.point(place.release())
    written(place, "summary.json", SUMMARY)
    waits = {"candidate": "d", "candidate_version": "1", "candidate_since": "2025-04-01T00:00:00Z",
             "verdict": "passed", "review": True}  # fmt: skip
    given = {f.name for f in gauges.waiting({TASK: waits})}
    where = {"CITYLOOP_STORE": place.store.where, "CITYLOOP_STATE": str(tmp_path / "state")}
    with (
        process(place) as (_, server),
        prometheus.exporter(place.root, **where, MLFLOW_TRACKING_URI="http://127.0.0.1:9") as (_, exporter),
    ):
        assert answers(server) == 200
        for port in (server, exporter):
            given |= names(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text)
        given |= eventually(lambda: _registry(exporter))
    recorded = {r["record"] for r in _rules() if "record" in r}
    for file, exprs in expressions().items():
        for expr in exprs:
            asked = set(re.findall(r"\b(cityloop_\w+|[a-z]+:\w+:\w+)", expr))
            assert asked - given - recorded - {"ALERTS"} == set(), f"{file}: {expr}"


def _registry(port: int) -> set[str]:
    """MLflow, which does not answer, is told as such."""
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
    return names(text) if "cityloop_registry_up 0.0" in text else set()


def _rules() -> list[dict[str, Any]]:
    return [r for path in RULES for g in yaml.safe_load(path.read_text())["groups"] for r in g["rules"]]


@prometheus.needed
def test_every_expression_of_a_dashboard_is_one(tmp_path: Path) -> None:
    exprs = [expr for path in DASHBOARDS for expr in expressions()[path.name]]
    rules = [{"record": "x", "expr": expr, "labels": {"n": str(i)}} for i, expr in enumerate(exprs)]
    checked = tmp_path / "x.yaml"
    for more, right in (([], True), ([{"record": "x", "expr": "rate(cityloop_requests_total)"}], False)):
        checked.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules + more}]}))
        done = subprocess.run([str(prometheus.PROMTOOL), "check", "rules", checked], capture_output=True, check=False)
        assert (done.returncode == 0) is right, done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_dashboards_can_be_read_by_whoever_is_on_duty(path: Path) -> None:
    told = json.loads(path.read_text())
    assert told["uid"] == f"cityloop-{path.stem}"
    assert {"title", "description", "schemaVersion", "time", "templating", "panels"} <= set(told)
    assert not told["editable"]
    (source,) = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]  # fmt: skip
    variables = {v["name"] for v in told["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in told["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == source["uid"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({p["id"] for p in told["panels"]}) == len({p["title"] for p in told["panels"]}) == len(told["panels"])


def test_every_alert_says_what_an_operator_needs_and_is_tested() -> None:
    tests = "".join(path.read_text() for path in (MONITORING / "tests").glob("*.yaml"))
    alerts = [rule for rule in _rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 20
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "means", "wait", "do"}, rule["alert"]
        assert all(text.strip() for text in rule["annotations"].values()), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "day", "week")
        assert "department" in rule["labels"] or "group_left (department)" in rule["expr"], rule["alert"]
        assert f'alertname="{rule["alert"]}"' in tests, rule["alert"]


COMMAND = re.compile(r"`cityloop ([a-z]+)")


def test_commands_that_alerts_name_are_commands() -> None:
    from pipelines.__main__ import main

    texts = [text for rule in _rules() for text in rule.get("annotations", {}).values()]
    said = {name for text in texts for name in COMMAND.findall(text)}
    assert {"status", "rollback", "promote", "monitor", "metrics"} <= said
    assert said - set(main.commands) == set()


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "x", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_nothing_to_who_asks(tmp_path: Path, small_disk: Path) -> None:
    """Of the store: the server reads what it has, drops its log; the exporter reads on."""
    place = Place(small_disk)
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(ROOT / name, small_disk / name)
    place.point(place.release())
    where = {"CITYLOOP_STORE": place.store.where, "CITYLOOP_STATE": str(tmp_path / "state")}
    with process(place, **where) as (_, server), prometheus.exporter(small_disk, **where) as (_, exporter):
        assert answers(server) == 200
        full = subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'full'}"], check=False, capture_output=True)
        assert b"No space left" in full.stderr
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert answers(server) == 200
        failed = r"(?m)^cityloop_store_errors_total [1-9]"
        eventually(lambda: re.search(failed, requests.get(f"http://127.0.0.1:{server}/metrics", timeout=20).text))
        assert "cityloop_store_up 1.0" in requests.get(f"http://127.0.0.1:{exporter}/metrics", timeout=20).text
