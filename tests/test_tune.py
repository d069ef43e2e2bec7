"""The search through its room: it touches no stage's output, goes on where it was, and says what tries its best."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import toy_city
from small_city import tree

from pipelines import tune
from pipelines.core import files
from pipelines.core.errors import UserError


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ready = toy_city.ready(tmp_path_factory)
    shutil.copytree(ready / "data", tmp_path / "city/data")
    shutil.copytree(ready / "models/backbones", tmp_path / "city/models/backbones")
    toy_city.write_params(tmp_path / "city")
    monkeypatch.setattr(tune, "STEPS", (2, 4))
    monkeypatch.setattr(tune, "BATCHES", (2, 4))
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "city"


def table(root: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = files.read_json(root.parent / "state/tune/ahead-loss.json")["trials"]
    return trials


def test_a_search_goes_on_names_its_best_and_touches_no_output(root: Path) -> None:
    before = tree(root)
    tune.run("ahead", 2, "loss", root=root)
    first = table(root)
    assert [t["number"] for t in first] == [0, 1]
    assert first[0]["params"] == {"learning_rate": 1e-3, "batch": 4, "steps": 6, "method": "full"}
    line = tune.run("ahead", 3, "loss", root=root)
    found = table(root)
    assert found[:2] == first
    assert len(found) == 3
    assert tree(root) == before
    best = min((t for t in found if t["state"] == "complete"), key=lambda t: t["score"])
    assert f"-S '+tasks.ahead.finetune.learning_rate={best['params']['learning_rate']:.3g}'" in line
    assert line.startswith("dvc exp run --temp ")
    assert line.endswith("evaluate@ahead")
    _nested_in_mlflow(root, found)


def _nested_in_mlflow(root: Path, found: list[dict[str, Any]]) -> None:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{root.parent / 'state/mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("cityloop/ahead-tune").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(parents) == 1
    assert sorted(r.data.metrics["validation_loss"] for r in trials) == pytest.approx(
        sorted(t["curve"][-1]["validation_loss"] for t in found)
    )


def test_a_metric_that_validation_does_not_have_is_one_line(root: Path) -> None:
    with pytest.raises(UserError, match="loss or mae") as error:
        tune.run("ahead", 1, "f1", root=root)
    assert "\n" not in str(error.value)
