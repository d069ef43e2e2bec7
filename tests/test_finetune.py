"""Fine-tuning through the room: equal inputs, equal bundles; never worse than its anchor; nothing from the test."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import toy_city
import yaml
from safetensors.numpy import load_file
from small_city import tree

from pipelines import finetune, join, pretrain
from pipelines.core import files, params
from pipelines.core.answers import calibrated
from pipelines.core.errors import UserError
from pipelines.core.params import Finetune
from pipelines.models.adapt import Adaptation, Lessons
from pipelines.models.package import conformal
from pipelines.release import bundle
from pipelines.release.store import Store


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def copied(ready: Path, root: Path, *, models: bool = True) -> Path:
    """Data and, unless told otherwise, the backbone of the ready city; no bundle."""
    shutil.copytree(ready / "data", root / "data")
    if models:
        shutil.copytree(ready / "models/backbones", root / "models/backbones")
    toy_city.write_params(root)
    return root


def again(root: Path, **settings: Any) -> dict[str, Any]:
    """Fine-tune `ahead` with other settings; its report."""
    ahead = {**toy_city.TASKS["ahead"], "finetune": {**toy_city.TRAINER, **settings}}
    toy_city.write_params(root, ahead=ahead)
    finetune.run("ahead", root=root)
    report: dict[str, Any] = files.read_json(root / "metrics/finetune/ahead.json")
    return report


def test_equal_inputs_give_an_equal_digest_in_another_folder(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path / "some/where/else")
    finetune.run("ahead", root=root)
    assert tree(root / "models/tasks/ahead") == tree(ready / "models/tasks/ahead")
    assert bundle.verify(root / "models/tasks/ahead") == bundle.digest(ready / "models/tasks/ahead")
    assert tree(root / "plots/finetune") == {k: v for k, v in tree(ready / "plots/finetune").items() if "ahead" in k}


@pytest.mark.parametrize("task", ["ahead", "leaks"])
def test_the_test_period_reaches_no_byte_of_backbone_or_bundle(ready: Path, tmp_path: Path, task: str) -> None:
    root = toy_city.data(tmp_path, task, change_test=True)
    changed = toy_city.series(root, task)
    lo, hi = changed.splits["test"]
    theirs = toy_city.series(ready, task)
    assert not np.array_equal(changed.read(lo, hi), theirs.read(lo, hi), equal_nan=True)
    pretrain.run("series", root=root)
    assert tree(root / "models/backbones") == tree(ready / "models/backbones")
    finetune.run(task, root=root)
    assert tree(root / "models/tasks" / task) == tree(ready / "models/tasks" / task)


@pytest.mark.parametrize("task", list(toy_city.TASKS))
def test_never_worse_on_validation_than_before_training(ready: Path, task: str) -> None:
    report = files.read_json(ready / f"metrics/finetune/{task}.json")
    assert report["validation"]["loss"] <= report["validation"]["loss_untrained"]
    curve = files.read_json(ready / f"plots/finetune/{task}/curve.json")
    assert curve[0]["step"] == 0
    assert curve[0]["validation_loss"] == report["validation"]["loss_untrained"]
    assert min(row["validation_loss"] for row in curve) == report["validation"]["loss"]
    assert 0 < report["trained_parameters"] < report["parameters"]
    assert len(report["kept"]) == {"ahead": 2, "state": 1, "leaks": 0}[task]
    assert all(0 <= share <= 1 for share in report["kept"])


def weights(root: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(root / "models/tasks/ahead/weights.safetensors")
    return found


def tables(root: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(root / "models/tasks/ahead/tables.safetensors")
    return found


def test_method_head_leaves_the_backbone_as_it_is(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path)
    report = again(root, method="head", steps=40, patience=40)
    backbone = load_file(root / "models/backbones/series/weights.safetensors")
    mine = weights(root)
    for name, value in backbone.items():
        assert np.array_equal(mine[f"backbone.{name}"], value), name
    head = mine["head.weight"]
    assert report["trained_parameters"] == head.size + mine["head.bias"].size
    assert head.any(), "40 steps should improve on the ridge"


def test_from_scratch_takes_only_the_shape(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path)
    again(root, scratch=True, seed=5)
    one = tree(root / "models/tasks/ahead")
    assert one["model.onnx"] != tree(ready / "models/tasks/ahead")["model.onnx"]
    assert files.read_json(root / "models/tasks/ahead/config.json")["backbone"]["sha256"] == "scratch"
    backbone = load_file(root / "models/backbones/series/weights.safetensors")
    assert not np.allclose(
        weights(root)["backbone.tokens.patch.1h.weight"], backbone["tokens.patch.1h.weight"], atol=1e-2
    )
    # … so other backbone weights change no byte.
    path = root / "models/backbones/series/weights.safetensors"
    from safetensors.numpy import save

    path.write_bytes(save({k: v + 1 for k, v in backbone.items()}))
    again(root, scratch=True, seed=5)
    assert tree(root / "models/tasks/ahead") == one


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_an_adapted_bundle_has_the_shape_of_any_other(ready: Path, tmp_path: Path, method: str) -> None:
    root = copied(ready, tmp_path)
    report = again(root, method=method)
    other = load_file(ready / "models/tasks/ahead/weights.safetensors")
    assert {k: v.shape for k, v in weights(root).items()} == {k: v.shape for k, v in other.items()}
    assert report["trained_parameters"] < 0.1 * report["parameters"]
    assert bundle.verify(root / "models/tasks/ahead")


def test_few_labels_are_the_latest_and_all_that_answers_are_learnt_from(ready: Path, tmp_path: Path) -> None:
    task = params.load(ready).task("ahead")
    data = toy_city.opened(ready, "ahead")
    rows = data.rows("train", 1)
    few = task.model_copy(update={"finetune": Finetune(labels=40)})
    adapted = Adaptation.prepare(few, data, files.read_json(ready / "models/backbones/series/config.json"), None)
    assert adapted.lessons.new.tolist() == rows[-40:].tolist()
    whole = Adaptation.prepare(task, data, files.read_json(ready / "models/backbones/series/config.json"), None)
    assert not torch.equal(whole.model.anchor.weight, adapted.model.anchor.weight)
    share = Lessons.of(data, 0.1)
    assert len(share.new) == -(-len(rows) // 10)
    assert share.new[-1] == rows[-1]
    with pytest.raises(UserError, match=f"only {len(rows)} may be learnt from") as error:
        Lessons.of(data, len(rows) + 1)
    one_line(error)


@pytest.fixture(scope="module")
def pinned(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `ahead` trained on the first weeks alone, and put in the store; the data go on after it."""
    root = copied(ready, tmp_path_factory.mktemp("pinned"))
    path = root / "data/learn/ahead/splits.json"
    splits = files.read_json(path)
    first, last = splits["train"]
    files.write_json(path, {**splits, "train": [first, last - 200], "validation": [last - 200, last]})
    finetune.run("ahead", root=root)
    Store(str(root / "store"), root / "fetched").put("ahead", root / "models/tasks/ahead")
    files.write_json(path, splits)
    return root


def kept_bundle(pinned: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`pinned` in a folder of one's own; its digest."""
    shutil.copytree(pinned, root, dirs_exist_ok=True)
    monkeypatch.setenv("CITYLOOP_STORE", str(root / "store"))
    return bundle.digest(root / "models/tasks/ahead")


def test_training_goes_on_from_a_pinned_bundle_and_tells_what_was_forgotten(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = kept_bundle(pinned, tmp_path, monkeypatch)
    before = weights(tmp_path)
    report = again(tmp_path, init=digest, replay=0.5, l2_to_start=0.1)
    told = report["continual"]
    assert set(told) == {"old", "new"}
    assert set(told["old"]) == {"before", "after"}
    assert told["new"]["after"]["mae"] > 0
    assert 0 < report["windows"] <= 200
    config = files.read_json(tmp_path / "models/tasks/ahead/config.json")
    assert config["init"] == digest
    assert config["training"]["until"] == "2025-02-10T00:00:00"
    after = weights(tmp_path)
    assert np.array_equal(after["anchor.weight"], before["anchor.weight"]), "the anchor is the bundle's"
    again_report = again(tmp_path, init=digest, replay=0.5, l2_to_start=0.1)
    assert again_report == report


def test_a_retraining_learns_from_what_came_since_the_city_changed(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = kept_bundle(pinned, tmp_path, monkeypatch)
    before, profile = weights(tmp_path), tables(tmp_path)["profile"]
    dates = {"start": "2025-02-15", "validation_from": "2025-02-20", "test_from": "2025-02-24"}
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump({"ahead": {"init": digest, **dates}}))
    join.run("ahead", root=tmp_path)
    report = again(tmp_path)
    config = files.read_json(tmp_path / "models/tasks/ahead/config.json")
    assert config["init"] == digest
    assert {k: config["training"][k] for k in ("since", "until")} == {
        "since": "2025-02-15T00:00:00", "until": "2025-02-20T00:00:00"
    }  # fmt: skip
    assert report["windows"] == config["training"]["windows"] == 5 * 24 - 6 + 1, "answers of those five days alone"
    assert {"old", "new"} == set(report["continual"])
    assert np.array_equal(weights(tmp_path)["anchor.weight"], before["anchor.weight"])
    # The usual week has the shape of all weeks before it, straightened: not that of five days.
    now = tables(tmp_path)["profile"]
    assert np.isfinite(now).all()
    assert not np.array_equal(now, profile)
    assert all(np.corrcoef(now[:, i], profile[:, i])[0, 1] > 0.8 for i in range(len(toy_city.SENSORS)))
    # By params.yaml again, it is what it was without.
    (tmp_path / "retrain.yaml").write_text("ahead: null\n")
    join.run("ahead", root=tmp_path)
    assert again(tmp_path)["windows"] > 400


def test_a_retraining_from_the_backbone_solves_its_anchor_on_what_came_since(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path)
    dates = {"start": "2025-02-15", "validation_from": "2025-02-20", "test_from": "2025-02-24"}
    (root / "retrain.yaml").write_text(yaml.safe_dump({"ahead": dates}))
    join.run("ahead", root=root)
    report = again(root)
    assert report["windows"] == 5 * 24 - 6 + 1
    assert len(report["kept"]) == 2
    assert "continual" not in report


def test_a_bundle_that_is_not_there_or_does_not_fit_is_one_line(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = kept_bundle(pinned, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=f"it has {digest}") as error:
        again(tmp_path, init="0" * 64)
    one_line(error)
    ahead = {**toy_city.TASKS["ahead"], "horizon": "12h", "finetune": {**toy_city.TRAINER, "init": digest}}
    toy_city.write_params(tmp_path, ahead=ahead)
    with pytest.raises(UserError, match=r"its horizon is 6, the task's 12") as error:
        finetune.run("ahead", root=tmp_path)
    one_line(error)
    config = tmp_path / "store/releases/ahead" / digest / "config.json"
    config.write_bytes(config.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"config\.json"):
        again(tmp_path, init=digest)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_backbone_of_another_size_is_refused(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path)
    path = root / "models/backbones/series/config.json"
    files.write_json(path, {**files.read_json(path), "size": "small"})
    with pytest.raises(UserError, match=r"small.*tiny") as error:
        finetune.run("ahead", root=root)
    assert "pretrain" in one_line(error)
    assert not (root / "models/tasks").exists()


def test_what_is_missing_is_named(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path, models=False)
    with pytest.raises(UserError, match=r"backbones/series.*cityloop pretrain series") as error:
        finetune.run("ahead", root=root)
    one_line(error)
    shutil.rmtree(root / "data/learn/ahead")
    with pytest.raises(UserError, match=r"learn/ahead.*cityloop join ahead") as error:
        finetune.run("ahead", root=root)
    one_line(error)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"context": "6h", "objective": "anomaly", "inputs": [], "label": "leak"}, "context"),
        ({"horizon": "4h", "objective": "anomaly", "inputs": [], "label": "leak"}, "multiple of 6 h"),
        ({"horizon": "20d"}, "too short"),
        ({"context": "60d"}, r"context: 1440 h.*at most"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(ready: Path, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    root = copied(ready, tmp_path)
    toy_city.write_params(root, ahead={**toy_city.TASKS["ahead"], **change})
    if change.get("label"):
        shutil.rmtree(root / "data/learn/ahead")
        shutil.copytree(ready / "data/learn/leaks", root / "data/learn/ahead")
    with pytest.raises(UserError, match=word) as error:
        finetune.run("ahead", root=root)
    one_line(error)
    assert not (root / "models/tasks").exists()


def test_training_that_blows_up_stops_and_leaves_no_model(ready: Path, tmp_path: Path) -> None:
    root = copied(ready, tmp_path)
    with pytest.raises(UserError, match=r"loss is nan.*learning_rate") as error:
        again(root, learning_rate=1e12, steps=40, patience=40)
    one_line(error)
    assert not (root / "models/tasks").exists()


def test_golden_inputs_give_the_golden_answer(ready: Path) -> None:
    for task in toy_city.TASKS:
        folder = ready / "models/tasks" / task
        golden = load_file(folder / "golden.safetensors")
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, {i.name: golden[f"input.{i.name}"] for i in session.get_inputs()})[0]
        assert found == pytest.approx(golden["answer"], rel=1e-5)
        assert np.isfinite(found).all()
        assert np.ptp(found) > 0


def test_nothing_in_a_bundle_names_a_folder(ready: Path) -> None:
    for path in (ready / "models/tasks").rglob("*"):
        if path.is_file():
            assert str(ready).encode() not in path.read_bytes(), path


def test_config_says_what_a_predictor_must_know(ready: Path) -> None:
    config = files.read_json(ready / "models/tasks/leaks/config.json")
    assert config["reconstruct"] is True
    assert set(config["alarm"]) == {"span", "threshold"}
    assert [c["role"] for c in config["channels"]] == ["target"] * 4
    config = files.read_json(ready / "models/tasks/ahead/config.json")
    assert [(c["sensor"], c["kind"], c["role"]) for c in config["channels"]][-2:] == [
        ("s4", "a", "target"), ("m", "w", "input"),
    ]  # fmt: skip
    assert config["names"] == ["q0.1", "q0.5", "q0.9", "mean"]
    assert files.read_json(ready / "models/tasks/state/config.json")["names"] == ["low", "mid", "high"]


def test_conformal_keeps_its_promise_on_its_own_sample() -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(0, 1, (400, 2, 3))
    truth = middle + np.where(rng.random(middle.shape) < 0.5, -3 * rng.random(middle.shape), rng.random(middle.shape))
    truth[rng.random(truth.shape) < 0.1] = np.nan
    answer = np.stack([middle - 1, middle, middle + 1, middle], axis=-1)
    found = calibrated(answer, conformal(answer, truth))
    seen = np.isfinite(truth)
    for h in range(2):
        at = seen[:, h]
        assert (truth[:, h] < found[:, h, :, 0])[at].mean() == pytest.approx(0.1, abs=0.01)
        assert (truth[:, h] > found[:, h, :, 2])[at].mean() == pytest.approx(0.1, abs=0.01)


def test_conformal_leaves_a_step_with_little_truth_alone() -> None:
    answer = np.array([-1.0, 0.0, 1.0, 0.0])[None, None, None].repeat(30, 0).repeat(2, 1)
    truth = np.full((30, 2, 1), np.nan)
    truth[:, 1] = 4.0
    assert conformal(answer, truth).tolist() == [[1, pytest.approx(0.2)], [1, 4]]
