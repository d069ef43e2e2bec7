"""Registration, on real MLflow stores: twice, wiped, killed half way, tampered with, and with no server there."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import carded
import pytest
import yaml

from pipelines import card, register
from pipelines.core import files, keys
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT, Tracking, connect
from pipelines.release import bundle, page

TASK = carded.TASK
EXAMPLE_SENSORS = 2
"""Named in a version's input example; the others take no part in its answer."""


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised SQLite registry with nothing in it: making one takes MLflow longer than a test."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("CITYLOOP_STATE", str(folder))
        with connect(Paths(folder)):
            pass
    return folder / "mlflow.db"


@pytest.fixture
def city(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A city with one card, a dvc.lock and a registry of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    paths = carded.city(tmp_path)
    card.run(TASK, root=tmp_path)
    lock(paths, "a")
    wipe(paths, empty_store)
    return paths


def lock(paths: Paths, version: str) -> None:
    """A dvc.lock as DVC would write it, as far as lineage looks."""
    made = {"path": f"cards/{TASK}", "hash": "md5", "md5": keys.folder_md5(paths.card(TASK))}
    stages = {
        f"finetune@{TASK}": {"outs": [{"path": f"models/tasks/{TASK}", "md5": version}]},
        f"card@{TASK}": {"deps": [{"path": f"models/tasks/{TASK}", "md5": version}], "outs": [made]},
    }
    (paths.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def wipe(paths: Paths, empty: Path) -> None:
    shutil.rmtree(paths.state, ignore_errors=True)
    paths.state.mkdir()
    shutil.copy(empty, paths.state / "mlflow.db")


def retrain(paths: Paths, factor: float) -> None:
    carded.city(paths.root, TASK, factor)
    card.run(TASK, root=paths.root)


def state(paths: Paths) -> dict[str, Any]:
    """What a person finds: runs by inputs, versions, aliases, logged models."""
    with connect(paths) as tracking:
        client = tracking.client
        ids = [e.experiment_id for e in client.search_experiments()]
        runs = client.search_runs(ids)
        return {
            "runs": {r.data.tags["inputs"]: r for r in runs},
            "n_runs": len(runs),
            "versions": tracking.versions(TASK),
            "aliases": tracking.aliases(TASK),
            "models": len(client.search_logged_models(ids)),
            "artifacts": {r.info.run_id: names(client, r.info.run_id) for r in runs},
            "curve": {r.info.run_id: client.get_metric_history(r.info.run_id, "finetune/train_loss") for r in runs},
        }


def names(client: Any, run_id: str, folder: str = "") -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder or None):
        found += names(client, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


def test_a_version_with_all_a_reviewer_needs(city: Paths) -> None:
    register.run(TASK, root=city.root)
    found = state(city)
    (run,), (version,) = found["runs"].values(), found["versions"]
    digest = bundle.digest(city.task(TASK))
    assert found["aliases"] == {"candidate": str(version.version)}
    assert version.description.splitlines()[0].startswith("air_quality answers: How much fine dust")
    assert f"lineage `{run.data.tags['inputs']}`" in version.description
    assert len(version.description) <= DESCRIPTION_LIMIT
    assert version.tags["digest"] == digest
    assert version.tags["verdict"] == "pending"
    assert version.tags["data_window"] == "air 2024-10-07/2025-04-07"
    assert version.tags["lineage"] == run.data.tags["inputs"] == version.tags["lineage.1"].split()[0]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/mae"] == 3.25
    assert run.data.metrics["ridge/mae"] == 3.75
    assert run.data.metrics["latency/float_one_ms"] == 1.5
    assert run.data.params["task.finetune.steps"] == "200"
    assert [(p.step, round(p.value, 4)) for p in found["curve"][run.info.run_id]][:2] == [(0, 1.0), (50, 0.0196)]
    assert found["artifacts"][run.info.run_id] == [
        "card/card.md",
        "card/request.json",
        "metrics/evaluate/air_quality.json",
        "metrics/finetune/air_quality.json",
        "metrics/latency/air_quality.json",
        "metrics/pretrain/series.json",
        "metrics/validate/air.json",
        "plots/evaluate/by_step.json",
        "plots/evaluate/by_step.png",
        "plots/finetune/curve.json",
        "plots/pretrain/series/curve.json",
        "plots/validate/air/index.html",
    ]


def test_registering_twice_changes_nothing(city: Paths) -> None:
    register.run(TASK, root=city.root)
    before = state(city)
    register.run(None, everything=True, root=city.root)
    after = state(city)
    assert (after["n_runs"], len(after["versions"]), after["models"]) == (1, 1, 1)
    assert after["versions"][0].tags == before["versions"][0].tags
    assert after["versions"][0].last_updated_timestamp == before["versions"][0].last_updated_timestamp
    assert len(next(iter(after["curve"].values()))) == 5


def test_a_wiped_registry_is_made_again_from_files(city: Paths, empty_store: Path) -> None:
    register.run(TASK, root=city.root)
    before = state(city)
    wipe(city, empty_store)
    register.run(TASK, root=city.root)
    after = state(city)
    assert after["runs"].keys() == before["runs"].keys()
    old, new = before["versions"][0], after["versions"][0]
    assert {**old.tags, "run": ""} == {**new.tags, "run": ""}
    assert old.description.replace(old.run_id, "") == new.description.replace(new.run_id, "")


def test_other_bytes_are_another_version_and_the_older_candidate_is_superseded(city: Paths) -> None:
    register.run(TASK, root=city.root)
    retrain(city, 2.0)
    lock(city, "b")
    register.run(TASK, root=city.root)
    found = state(city)
    first, second = found["versions"]
    assert found["n_runs"] == 2
    assert found["aliases"] == {"candidate": str(second.version)}
    assert first.tags["superseded"] == f"by version {second.version}"
    assert "superseded" not in second.tags
    retrain(city, 1.0)
    lock(city, "a")
    register.run(TASK, root=city.root)
    again = state(city)
    assert (again["n_runs"], len(again["versions"])) == (2, 2)
    assert again["aliases"] == {"candidate": str(second.version)}


def test_a_champion_is_neither_superseded_nor_made_candidate_again(city: Paths) -> None:
    register.run(TASK, root=city.root)
    with connect(city) as tracking:
        tracking.point(TASK, "champion", "1")
        tracking.client.delete_registered_model_alias(TASK, "candidate")
    register.run(TASK, root=city.root)
    assert state(city)["aliases"] == {"champion": "1"}
    retrain(city, 2.0)
    register.run(TASK, root=city.root)
    found = state(city)
    assert found["aliases"] == {"champion": "1", "candidate": "2"}
    assert "superseded" not in found["versions"][0].tags


def test_equal_bytes_from_another_lineage_are_the_same_version_with_a_second_run(city: Paths) -> None:
    register.run(TASK, root=city.root)
    with connect(city) as tracking:
        tracking.client.set_model_version_tag(TASK, "1", "review.ada", "approved:x")
        tracking.client.set_model_version_tag(TASK, "1", "verdict", "passed")
    lock(city, "b")
    register.run(TASK, root=city.root)
    found = state(city)
    (version,) = found["versions"]
    assert found["n_runs"] == 2
    assert found["models"] == 1
    assert version.tags["lineage.1"] != version.tags["lineage.2"]
    assert version.tags["lineage"] == version.tags["lineage.2"].split()[0]
    assert version.tags["review.ada"] == "approved:x"
    assert version.tags["verdict"] == "passed"


def test_a_commit_stays_and_only_a_dirty_one_is_replaced(city: Paths) -> None:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *args],
            cwd=city.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def tags() -> tuple[str, str]:
        register.run(TASK, root=city.root)
        found = state(city)["versions"][0].tags
        return found["commit"], found["dirty"]

    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "one")
    assert tags() == (git("rev-parse", "HEAD"), "true"), "window.yaml is not committed"
    git("add", "window.yaml")
    git("commit", "-qm", "two")
    clean = git("rev-parse", "HEAD")
    assert tags() == (clean, "false")
    git("commit", "-qm", "three", "--allow-empty")
    assert tags() == (clean, "false")


def test_without_dvc_lock_the_version_says_so(city: Paths, caplog: pytest.LogCaptureFixture) -> None:
    (city.root / "dvc.lock").unlink()
    register.run(TASK, root=city.root)
    register.run(TASK, root=city.root)
    found = state(city)
    assert found["n_runs"] == 1
    assert found["versions"][0].tags["lineage"] == "none"
    assert "rooms were run by hand" in found["versions"][0].description
    retrain(city, 2.0)
    register.run(TASK, root=city.root)
    assert state(city)["n_runs"] == 2


def test_a_dvc_lock_about_another_card_gives_no_lineage(city: Paths) -> None:
    retrain(city, 2.0)
    register.run(TASK, root=city.root)
    assert state(city)["versions"][0].tags["lineage"] == "none"


def test_lineage_knows_a_folder_as_dvc_does(tmp_path: Path) -> None:
    """The hash was read from a dvc.lock that DVC 3.67 wrote."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "sub/é a.txt").write_text("one\n")
    assert keys.folder_md5(tmp_path) == "4502c6912de16934a30744a113e06d9e.dir"


def test_one_broken_task_does_not_hold_up_the_others(city: Paths) -> None:
    carded.city(city.root, "another")
    card.run("another", root=city.root)
    (city.task("another") / "config.json").unlink()
    with pytest.raises(UserError, match=r"another/config\.json: missing"):
        register.run(None, everything=True, root=city.root)
    assert len(state(city)["versions"]) == 1


def test_one_changed_byte_is_refused_and_nothing_is_registered(city: Paths) -> None:
    weights = city.task(TASK) / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors: not the bytes"):
        register.run(TASK, root=city.root)
    with connect(city) as tracking:
        assert tracking.client.search_registered_models() == []


def test_a_card_about_another_bundle_is_refused(city: Paths) -> None:
    bundle.write(city.task(TASK), carded.contents(TASK, 3.0))
    with pytest.raises(UserError, match=r"run `dvc repro card@air_quality`"):
        register.run(TASK, root=city.root)


def test_tasks_that_are_not_there_are_named(city: Paths, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'air_quality'"):
        register.run("air_qualty", root=city.root)
    with pytest.raises(UserError, match=r"another/request\.json: no such card"):
        register.run("another", root=city.root)
    with pytest.raises(UserError, match="name one task, or give --all"):
        register.run(None, root=city.root)
    shutil.rmtree(city.root / "cards")
    with pytest.raises(UserError, match="no task has a card yet"):
        register.run(None, everything=True, root=city.root)


@pytest.mark.parametrize("step", ["run", "log_model", "log", "create_version", "describe", "point"])
def test_a_registration_that_died_anywhere_is_completed(
    city: Paths, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Died(BaseException):
        """Like a kill: nothing catches it."""

    real = getattr(Tracking, step)

    def dies(self: Tracking, *args: Any, **named: Any) -> Any:
        real(self, *args, **named)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Tracking, step, dies)
        with pytest.raises(Died):
            register.run(TASK, root=city.root)
    register.run(TASK, root=city.root)
    found = state(city)
    assert (found["n_runs"], len(found["versions"]), found["models"]) == (1, 1, 1)
    (run,), (version,) = found["runs"].values(), found["versions"]
    assert run.info.status == "FINISHED"
    assert len(found["curve"][run.info.run_id]) == 5
    assert "card/card.md" in found["artifacts"][run.info.run_id]
    assert version.run_id == run.info.run_id
    assert version.tags["lineage"] in version.description
    assert found["aliases"] == {"candidate": "1"}


def test_sigkill_while_the_model_is_logged(city: Paths) -> None:
    code = (
        "import os, signal, sys, pathlib, mlflow\n"
        "from pipelines import register\n"
        "mlflow.MlflowClient.finalize_logged_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"register.run({TASK!r}, root=pathlib.Path({str(city.root)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=carded.ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    register.run(TASK, root=city.root)
    found = state(city)
    assert (found["n_runs"], len(found["versions"]), found["models"]) == (1, 1, 1)


def test_two_at_once_on_a_fresh_store_make_one_version(city: Paths) -> None:
    shutil.rmtree(city.state)
    command = [sys.executable, "-m", "pipelines", "-C", str(city.root), "register", TASK]
    both = [subprocess.Popen(command, cwd=carded.ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.wait(120) == 0, process.stderr and process.stderr.read()
    found = state(city)
    assert (found["n_runs"], len(found["versions"]), found["models"]) == (1, 1, 1)


def test_the_registered_model_answers_with_its_own_code_and_without_torch(city: Paths) -> None:
    register.run(TASK, root=city.root)
    model = next(city.state.rglob("MLmodel")).parent
    assert not list(model.rglob("*.pkl"))
    assert bundle.verify(model / "data" / TASK) == bundle.digest(city.task(TASK))
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch": raise ModuleNotFoundError(name)
sys.meta_path = [Absent(), *(f for f in sys.meta_path if "editable" not in repr(f))]
import mlflow
model = mlflow.pyfunc.load_model("models:/air_quality@candidate")
import pipelines
answer = model.predict(model.input_example)
print(__import__("json").dumps({
    "code": pipelines.__file__, "columns": list(answer.columns), "rows": len(answer),
    "first": str(answer["time"].min()), "ratio": float((answer["q0.5"] / answer["mean"]).iloc[0]),
    "inputs": model.metadata.get_input_schema().input_names(), "modules": [m for m in ("torch",) if m in sys.modules]}))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=city.state,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{city.state / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"].startswith(str(model))
    assert told["columns"] == ["time", "sensor", "kind", *carded.NAMES]
    assert told["rows"] == carded.SPEC.horizon * EXAMPLE_SENSORS
    assert told["first"] == "2025-03-17 00:00:00"
    assert told["ratio"] == pytest.approx(1)
    assert told["inputs"] == ["time", "sensor", "kind", "value"]
    assert told["modules"] == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[str]:
    """A real MLflow server with its own store."""
    port = free_port()
    shutil.copy(empty_store, tmp_path / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.25)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_real_server_holds_it_too(city: Paths, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    register.run(TASK, root=city.root)
    register.run(TASK, root=city.root)
    found = state(city)
    assert (found["n_runs"], len(found["versions"]), found["models"]) == (1, 1, 1)
    assert found["aliases"] == {"candidate": "1"}
    model = mlflow.pyfunc.load_model(f"models:/{TASK}@candidate")
    assert len(model.predict(model.input_example)) == carded.SPEC.horizon * EXAMPLE_SENSORS
    assert not (city.state / "mlartifacts").exists()


def test_an_unreachable_server_is_one_line_and_exit_2(city: Paths) -> None:
    url = f"http://someone:secret@127.0.0.1:{free_port()}"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "-C", str(city.root), "register", TASK],
        cwd=carded.ROOT,
        env={**os.environ, "MLFLOW_TRACKING_URI": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert time.monotonic() - started < 30
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: MLflow at http://127.0.0.1:")
    assert "run `cityloop register` again" in line
    assert "secret" not in done.stderr


@pytest.mark.parametrize("where", ["file:./mlruns", "sqlite:////proc/nowhere/mlflow.db"])
def test_an_address_that_cannot_be_used_is_one_line(city: Paths, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    with pytest.raises(UserError, match=f"^MLflow at {where}: [^\n]*$"):
        register.run(TASK, root=city.root)


def test_a_relative_sqlite_address_is_made_absolute(city: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(city.state)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    register.run(TASK, root=city.root)
    monkeypatch.chdir(city.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(state(city)["versions"]) == 1
    assert not (city.root / "mlflow.db").exists()


def test_a_long_card_is_cut_at_a_line_and_the_lineage_stays(city: Paths) -> None:
    path = city.card(TASK) / "card.md"
    long = page.put(path.read_text(), "Plots and reports", "\n".join("x" * 50 for _ in range(200)))
    files.write_bytes(path, long.encode())
    register.run(TASK, root=city.root)
    text = state(city)["versions"][0].description
    assert len(text) <= DESCRIPTION_LIMIT
    assert "the rest is in the run's artifact" in text
    assert "## Lineage" in text


def test_a_verdict_that_stands_on_the_page_stays(city: Paths) -> None:
    register.run(TASK, root=city.root)
    with connect(city) as tracking:
        (version,) = tracking.versions(TASK)
        text = page.put(version.description, "Verdict", "**Passed**: as it had to.", before=page.RESULTS)
        tracking.describe(version, text, {})
    lock(city, "b")
    register.run(TASK, root=city.root)
    found = state(city)["versions"][0].description
    assert page.get(found, "Verdict") == "**Passed**: as it had to."
    assert found.index("## Verdict") < found.index("## Results")
    assert page.get(found, "Lineage") != page.get(text, "Lineage"), "the rest is told anew"
    assert "of `card@air_quality` and what it rests on, 2 stages" in found
