"""Decisions of `cityloop monitor`: of a real city's answers, written down once for each moment."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_city
from click.testing import CliRunner
from receivers import Hook
from safetensors.numpy import load, save
from small_city import put

from pipelines import features, history, monitor, predict
from pipelines.__main__ import main
from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.release import bundle
from pipelines.release.ledger import Ledger
from pipelines.release.store import Pointer, Store

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
    state = ledger.state()
    record = {"action": "promote", "digest": digest, "stable": digest, "previous": state.stable, "by": "ada"}
    ledger.append(state, {"state": "serving", **record, "verdict": {"scores": scores}})


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


def test_a_release_that_is_worse_for_certain_is_rolled_back_where_params_say_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = champion(root)
    live = monitor.run("ahead", UNTILS[3], root=root)["releases"][good]["batch"]["model"]["mae"]
    promoted(root, live, good)
    bad = spoilt(root, tmp_path / "bad")
    promoted(root, live, bad)
    for until in [f"2025-02-{day}T{hour:02}:00:00Z" for day in (22, 23, 24, 25) for hour in range(0, 24, 6)]:
        predict.run("ahead", until, root=root)
    hook = Hook()
    monkeypatch.setenv("CITYLOOP_NOTIFY", hook.address)
    told = CliRunner().invoke(main, ["-C", str(root), "monitor", "ahead", "--until", "2025-02-26", "--json"])
    assert told.exit_code == 0, told.output
    proposal = json.loads(told.stdout)["decision"]["rollback"]
    assert proposal["to"] == good
    assert 0 < proposal["low"] < proposal["gain"]
    assert "ahead: what served before would do better" in hook.titles()
    assert champion(root) == bad
    toy_city.write_params(root, ahead={**toy_city.TRAFFIC, "monitor": {**WATCHED, "rollback": "automatic"}})
    told = CliRunner().invoke(main, ["-C", str(root), "monitor", "ahead", "--until", "2025-02-26"])
    assert told.exit_code == 0, told.output
    assert f"{good[:12]}, which served before, would have done better" in told.stdout
    head = Ledger(Store.of(Paths(root)).objects, "ahead").state().head
    assert (head["action"], head["state"], head["stable"], head["by"]) == ("rollback", "serving", good, "monitor")
    assert champion(root) == good
    again = CliRunner().invoke(main, ["-C", str(root), "monitor", "ahead", "--until", "2025-02-26T06:00:00Z"])
    assert again.exit_code == 0, again.output
    assert champion(root) == good
    hook.server.shutdown()


def spoilt(root: Path, place: Path) -> str:
    """The champion, off by a good deal, in the store, where it serves."""
    store = Store.of(Paths(root))
    folder = store.fetch("ahead", champion(root))
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del contents[bundle.MANIFEST]
    tables = load(contents["tables.safetensors"])
    contents["tables.safetensors"] = save({**tables, "profile": np.roll(tables["profile"], 6, axis=0)})
    bundle.write(place, contents)
    digest = store.put("ahead", place)
    store.point(Pointer("ahead", 2, digest))
    return digest
