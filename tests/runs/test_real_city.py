"""The real graph of a tiny city: days more, run stage by stage and published from the commit that it made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import Workspace

from pipelines.runs import restore, run


@pytest.mark.slow
def test_days_more_in_a_real_city(looped: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(looped.root, tmp_path / "tiny", symlinks=True)
    city = Workspace(tmp_path / "tiny")
    city.run("git", "add", "--all")
    city.run("git", "commit", "-q", "--allow-empty", "-m", "What this run derived")
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/state/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    outcome = run.run("2025-04-09", 2, sources=["air"], root=city.root)
    outcome.require()
    assert {"ingest@air", "evaluate@air_quality", "card@air_quality"} <= set(outcome.done)
    # New days are for the test: they train nothing.
    assert not {"ingest@traffic", "pretrain@series", "finetune@air_quality"} & set(outcome.done)

    assert restore.publish(outcome.commit, "register", "--all", root=city.root) == 0
    with restore.restored(outcome.commit, root=city.root) as place:
        assert city.run("git", "-C", str(place), "status", "--porcelain") == ""
        assert (place / "cards/air_quality/card.md").is_file()
    # Judged by what that commit made, whatever lies in the checkout.
    shutil.rmtree(city.root / "data")
    words = ["python", "-m", "pipelines", "gate", "air_quality", "--live", "--json"]
    place = {"cwd": city.root, "env": {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}}
    done = subprocess.run(words, **place, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if told["verdict"] == "passed" else 4), done.stderr
    assert told["version"] == "1"
    # The checkout is on live, so its files came along; its data is one `dvc checkout` away.
    assert city.run("git", "rev-parse", "HEAD").strip() == outcome.commit
    city.run("dvc", "checkout", "-q")
    assert city.stale() == set()
    assert city.repro() == []
    script = "import mlflow; print(*{v.tags['commit'] for v in mlflow.MlflowClient().search_model_versions()})"
    said = city.run("env", f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/state/mlflow.db", "python", "-c", script)
    assert said.split() == [outcome.commit]
