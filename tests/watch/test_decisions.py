"""Decisions of `cityloop monitor`: of a real city's answers, written down once for each moment."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import toy_city
from receivers import Hook
from small_city import put

from pipelines import features, history, monitor, predict
from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.release.ledger import Ledger
from pipelines.release.store import Store

UNTILS = [f"2025-02-{day}T{hour:02}:00:00Z" for day in (21, 22, 23, 24, 25, 26) for hour in (6, 16)]
CHANGE = dt.datetime(2025, 2, 23, tzinfo=dt.UTC)
WATCHED = {"retrain": {"learn": "1d", "validation": "1d", "test": "1d"}}


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy city, where all its bundles serve, and answered for some days."""
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    made = toy_city.ready(tmp_path_factory)
    city = toy_city.serving(made, tmp_path / "city", "joined", "features", "validated")
    toy_city.write_params(city, ahead={**toy_city.TRAFFIC, "monitor": WATCHED})
    for until in UNTILS:
        predict.run("ahead", until, root=city)
    return city


def champion(root: Path) -> str:
    pointer = Store.of(Paths(root)).pointer("ahead")
    assert pointer is not None
    assert pointer.stable is not None
    return pointer.stable


def promoted(root: Path, mae: float, digest: str) -> None:
    """The champion's promotion, in the ledger as the gate saw it."""
    scores = {"model": {"mae": mae}, "last_value": {"mae": 1e9}}
    ledger = Ledger(Store.of(Paths(root)).objects, "ahead")
    record = {"action": "promote", "digest": digest, "stable": digest, "by": "ada", "verdict": {"scores": scores}}
    ledger.append(ledger.state(), {"state": "serving", **record})


def store(root: Path) -> Path:
    return Paths(root).state / "store/monitor/ahead"


def kept(root: Path) -> dict[str, Any]:
    return {p.stem: files.read_json(p) for p in sorted((store(root) / "decisions").glob("*.json"))}


def test_the_error_is_held_against_what_the_gate_saw_of_this_champion(root: Path) -> None:
    live = monitor.run("ahead", root=root)["releases"][champion(root)]["batch"]["model"]["mae"]
    files.write_json(Paths(root).metrics("evaluate", "ahead"), {"model": {"mae": live / 9}})  # of another bundle
    promoted(root, live, champion(root))
    told = monitor.run("ahead", root=root)
    assert told["frozen_test"]["model"] == {"mae": live}
    assert told["decision"]["decision"] == "fine"
    assert told["decision"]["error"]["gate"] == pytest.approx(1.2 * live)


def test_a_changed_city_is_trained_anew_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook()
    monkeypatch.setenv("CITYLOOP_NOTIFY_DEPT", hook.address)
    live = monitor.run("ahead", UNTILS[3], root=root)["releases"][champion(root)]["batch"]["model"]["mae"]
    promoted(root, live, champion(root))
    put(root, "x", [(*r[:3], 60 + (r[3] - 60) / 9) if r[2] == "a" and r[0] >= CHANGE else r for r in toy_city.rows()])
    features.run("x", root=root)
    said = {}
    for day in (23, 24, 25, 26, 27, 28):
        for hour in (0, 12) if day > 25 else (0,):
            until = f"2025-02-{day}T{hour:02}:00:00Z"
            said[until] = monitor.run("ahead", until, root=root)["decision"]
    asked = [until for until, made in said.items() if made["decision"] == "retrain"]
    assert len(asked) == 1
    found = said[asked[0]]
    assert found["retrain"]["init"] == champion(root)
    assert found["since"] == "2025-02-23"
    assert list(kept(root)) == [UNTILS[3], *said]
    before = {p.name: p.read_bytes() for p in (store(root) / "decisions").iterdir()}
    again = monitor.run("ahead", asked[0], root=root)["decision"]
    assert again == found
    assert {p.name: p.read_bytes() for p in (store(root) / "decisions").iterdir()} == before
    titles = [title for title in hook.titles() if "the model" in title]
    assert titles == ["ahead: the model is to be watched", "ahead: the model is to be trained anew"]
    hook.server.shutdown()
    told = history.run("ahead", root=root)
    states = [r["state"] for r in told if r["action"] == "decision"]
    assert [s for s in states if s != "fine"][:2] == ["watch", "retrain"]
    assert states.count("retrain") == 1
    (line,) = [line for line in history.table(told).splitlines() if "decision retrain" in line]
    assert (
        f"{champion(root)[:12]}  –        monitor  The mean absolute error is above the gate since 2025-02-23" in line
    )
    assert next(r for r in told if r["action"] == "promote")["seq"] == 1
