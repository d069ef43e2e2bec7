"""A bundle's contents: the torch model comes back from it, int8 is in it where it pays, and says what it costs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_city
from safetensors.numpy import load_file

from pipelines import finetune
from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.models import export, package
from pipelines.release.predictor import Predictor

TASKS = list(toy_city.TASKS)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


@pytest.mark.parametrize("task", TASKS)
def test_the_torch_model_comes_back_from_the_bundle_alone(ready: Path, task: str) -> None:
    folder = ready / "models/tasks" / task
    golden = load_file(folder / "golden.safetensors")
    given = [torch.from_numpy(golden[f"input.{k}"]) for k in export.INPUTS]
    with torch.no_grad():
        answer = package.load(folder)(*given).numpy()
    assert export.parity(answer, golden["answer"]) < export.PARITY


@pytest.mark.parametrize("task", TASKS)
def test_int8_is_loaded_on_demand_and_answers_nearly_alike(ready: Path, task: str) -> None:
    folder = ready / "models/tasks" / task
    told = files.read_json(folder / "config.json")["int8"]
    assert told["included"] is True
    assert told["worse"] <= package.WORSE
    assert told["size"] == pytest.approx(
        (folder / "model.int8.onnx").stat().st_size / (folder / "model.onnx").stat().st_size
    )
    exact, rough = (Predictor.load(folder, threads=1, variant=v) for v in ("float", "int8"))
    assert exact.digest == rough.digest
    rng = np.random.default_rng(0)
    values = rng.normal(50, 8, (3, exact.spec.context, len(exact.channels))).astype(np.float32)
    starts = np.datetime64("2025-02-25", "s") + np.arange(3) * np.timedelta64(1, "h")
    off = export.parity(rough.predict(values, starts), exact.predict(values, starts))
    assert off < 0.02
    assert off > 0 or told["worse"] == 0, "a head that is still zero"


def test_int8_that_does_not_pay_stays_out_and_is_refused(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "models/backbones"):
        shutil.copytree(ready / name, tmp_path / name)
    toy_city.write_params(tmp_path)
    monkeypatch.setattr(package, "SMALLER", 0.1)
    finetune.run("ahead", root=tmp_path)
    folder = tmp_path / "models/tasks/ahead"
    assert not (folder / "model.int8.onnx").exists()
    told = files.read_json(folder / "config.json")["int8"]
    assert told["included"] is False
    assert 0.1 < told["size"] < 1
    Predictor.load(folder)
    with pytest.raises(UserError, match=r"no int8 graph.*float") as error:
        Predictor.load(folder, variant="int8")
    assert "\n" not in str(error.value)


class Sibling:
    """An objective as far as the main metric is concerned."""

    def __init__(self, **has: Any) -> None:
        self.__dict__.update(has)


def test_what_an_alarm_costs_is_the_reconstructions_error() -> None:
    answer, truth = np.zeros((2, 3, 1, 4)), np.ones((2, 3, 1))
    assert package.main_metric(Sibling(CALIBRATION=("alarm",)), answer, truth, {}) == ("mae", 1.0)
