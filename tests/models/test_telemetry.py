"""What a training tells of its speed, and MLflow told while it runs, there or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training

from pipelines.core import tracking
from pipelines.core.paths import Paths
from pipelines.models import telemetry


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings, too, are told at once."""
    monkeypatch.setattr(telemetry, "SHORT_S", -1.0)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def test_tokens_are_channel_patches() -> None:
    batch = {"values": torch.zeros(2, 24, 5), "calendar": torch.zeros(2, 4, 7)}
    assert telemetry.tokens(batch) == 2 * 4 * 5
    assert telemetry.tokens({"x": torch.zeros(3)}) == 0


def test_rates_leave_the_first_tenth_out() -> None:
    meter = telemetry.Meter(torch.device("cpu"), 20, world=2)
    for step in range(20):
        meter.step(10.0 if step < 2 else 0.5, 0.1, 50, 0.0)
    told = meter.summary()
    assert told["step_seconds"] == pytest.approx(0.5)
    assert told["patches_per_s"] == pytest.approx(2 * 50 / 0.5)
    assert told["data_wait"] == pytest.approx(0.2)
    assert "mfu" not in told, "a processor has no entry in the table of peaks"


@pytest.mark.usefixtures("hasty")
def test_curves_reach_mlflow_in_the_run_of_these_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for _ in range(2):  # what trains again goes on in the same run
        trained, _model = toy_training.run(tmp_path)
        trained.forget()
    with tracking.connect(Paths(tmp_path)) as mlflow:
        (run,) = mlflow.client.search_runs([mlflow.experiment("cityloop training/pretrain toy")])
        history = mlflow.client.get_metric_history(run.info.run_id, "validation_loss")
        names = set(run.data.metrics)
    assert len(run.data.tags[tracking.INPUTS]) == 64
    assert {h.step: h.value for h in history} == {int(r["step"]): r["validation_loss"] for r in trained.curve}
    assert {"train_loss", "step_loss", "learning_rate", "patches_per_s", "data_wait", "memory_bytes"} <= names


@pytest.mark.usefixtures("hasty")
def test_training_goes_on_without_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    said: list[Any] = []
    monkeypatch.setattr(telemetry.log.logger, "warning", lambda text, *words: said.append(text % words))
    trained, _ = toy_training.run(tmp_path)
    assert trained.curve[-1]["step"] == 20
    (line,) = said
    assert line.startswith("pretrain toy: no curves in MLflow while it trains: ")
    assert "\n" not in line
