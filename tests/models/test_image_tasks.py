"""Picture tasks, small: something is learnt, the graph answers as torch does, and only what should be trained is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_pictures as toy
from safetensors.numpy import load, load_file

from pipelines.core import files
from pipelines.core.errors import Interrupted, UserError
from pipelines.core.paths import Paths
from pipelines.models.image import backbones, export, models, tuning
from pipelines.models.image.pictures import Pictures, shuffled
from pipelines.models.image.pretraining import pretrain
from pipelines.models.image.tuning import finetune


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two joined folders, a corpus, and a backbone of each family begun from a published folder."""
    root = tmp_path_factory.mktemp("city")
    for kind in ("label", "boxes"):
        toy.folder(root / "data/joined" / kind, kind)
    toy.folder(root / "data/corpus/toy/a", "label", 60)
    toy.folder(root / "data/corpus/toy/b", "boxes", 40)
    for name, family in (
        ("vit", "transformer"),
        ("vit_mae", "transformer"),
        ("resnet", "cnn"),
        ("yolos", "transformer"),
    ):
        toy.published(root / "published" / name, name)
        made = pretrain(name, toy.backbone(root / "published" / name, family), root / "data/corpus/toy", Paths(root))
        for file, content in made.contents.items():
            files.write_bytes(root / "models/backbones" / name / file, content)
        files.write_json(root / f"{name}.json", made.report)
        made.forget()
    return root


def tuned(rooms: Path, objective: str, name: str | None, init: Path | None = None, **settings: Any) -> tuning.Tuned:
    kind = {"classify": "label", "locate": "boxes"}[objective]
    start = rooms / "models/backbones" / name if name else None
    return finetune("toy", toy.task(objective, **settings), rooms / "data/joined" / kind, start, init, Paths(rooms))


def bundle(where: Path, made: tuning.Tuned) -> Path:
    for name, content in {**made.contents, "config.json": files.to_json(made.config)}.items():
        files.write_bytes(where / name, content)
    return where


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_colours_are_told_apart_and_the_bundle_answers_alike(rooms: Path, tmp_path: Path, name: str) -> None:
    made = tuned(rooms, "classify", name, steps=25, learning_rate=3e-3)
    assert made.report["validation"]["accuracy"] >= 0.9
    assert made.config["backbone"]["sha256"] == files.sha256_file(
        rooms / f"models/backbones/{name}/weights.safetensors"
    )
    data = Pictures.open(rooms / "data/joined/label")
    pixels = data.pixels[data.rows("test")]
    found = export.session(made.contents["model.onnx"])(pixels)["probabilities"]
    assert (found.argmax(1) == data.classes[data.rows("test")]).mean() >= 0.8
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    again = models.load(bundle(tmp_path / "b", made))
    np.testing.assert_allclose(again.answer(torch.from_numpy(pixels)).detach().numpy(), found, atol=1e-4)
    golden = load(made.contents["golden.safetensors"])
    one = export.session(made.contents["model.onnx"])(golden["input.pixels"][:1])["probabilities"]
    np.testing.assert_allclose(one, golden["answer"][:1], atol=1e-5)


def test_int8_where_it_pays(rooms: Path) -> None:
    wide = {"steps": 25, "learning_rate": 3e-3}
    exact, made = (tuned(rooms, "classify", "vit", **wide, int8=small) for small in (False, True))
    told, graphs = made.config["int8"], [m.contents["model.onnx"] for m in (exact, made)]
    assert "int8" not in exact.config
    assert told["included"] == (told["float"] - told["int8"] <= 0.01 and told["size"] <= 0.75)
    assert told["included"]
    assert len(graphs[1]) == pytest.approx(told["size"] * len(graphs[0]))
    data = Pictures.open(rooms / "data/joined/label")
    float_, rough = (export.session(g)(data.pixels)["probabilities"] for g in graphs)
    assert 0 < np.abs(rough - float_).max() < 0.1
    golden = load(made.contents["golden.safetensors"])
    again = export.session(graphs[1])(golden["input.pixels"])["probabilities"]
    np.testing.assert_allclose(again, golden["answer"], atol=1e-6)
    net = tuned(rooms, "classify", "resnet", **wide, int8=True)
    assert not net.config["int8"]["included"]
    assert net.contents["model.onnx"] == tuned(rooms, "classify", "resnet", **wide).contents["model.onnx"]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_bright_squares_are_found(rooms: Path, name: str) -> None:
    made = tuned(rooms, "locate", name, steps=80, learning_rate=1e-2, patience=10)
    assert made.report["validation"]["f1"] >= 0.6
    assert 0 < made.config["decision"] < 1
    found = load(made.contents["golden.safetensors"])
    assert found["answer.boxes"].shape == (2, 100, 4)
    assert found["answer.labels"].dtype == np.int64
    assert (np.diff(found["answer.scores"]) <= 0).all()
    assert 0 <= found["answer.boxes"].min() < found["answer.boxes"].max() <= 1


def test_a_published_detector_keeps_its_heads_and_the_wire(rooms: Path) -> None:
    assert files.read_json(rooms / "yolos.json")["steps"] == 0
    state = load_file(rooms / "models/backbones/yolos/weights.safetensors")
    assert any("bbox_predictor" in name for name in state)
    made = tuned(rooms, "locate", "yolos", steps=6)
    found = load(made.contents["golden.safetensors"])
    assert found["answer.boxes"].shape == (2, 20, 4)
    assert set(found) == {"input.pixels", "answer.boxes", "answer.scores", "answer.labels"}
    with pytest.raises(UserError, match="a yolos locates"):
        tuned(rooms, "classify", "yolos")


def test_pretraining_goes_on_from_what_was_published(rooms: Path) -> None:
    for name in ("vit", "vit_mae", "resnet"):
        report = files.read_json(rooms / f"{name}.json")
        assert report["validation"]["loss"] < report["validation"]["loss_untrained"]
        assert set(report["validation"]["by_source"]) == {"a", "b"}
        config = files.read_json(rooms / f"models/backbones/{name}/config.json")
        assert str(rooms) not in str(config)
        side = 64 if name != "resnet" else 48  # positions are interpolated
        eye = backbones.build(config, side, dict(_torch(rooms / f"models/backbones/{name}/weights.safetensors")))
        assert eye.summary(torch.zeros(1, 3, side, side)).shape == (1, 32 if name == "resnet" else 64)
    with pytest.raises(UserError, match="a resnet, family transformer"):
        backbones.begin(str(rooms / "published/resnet"), "transformer", "tiny", 32)


def _torch(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def test_weights_that_must_be_unpickled_are_refused(rooms: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(rooms / "published/vit", tmp_path / "old")
    torch.save(load_file(tmp_path / "old/model.safetensors"), tmp_path / "old/pytorch_model.bin")
    (tmp_path / "old/model.safetensors").unlink()
    with pytest.raises(UserError, match="no model in safetensors"):
        backbones.begin(str(tmp_path / "old"), "transformer", "tiny", 32)


@pytest.mark.parametrize("method", ["head", "lora"])
def test_the_rest_stays_as_it_was(rooms: Path, tmp_path: Path, method: str) -> None:
    made = tuned(rooms, "classify", "vit", method=method, rank=2)
    assert 0 < made.report["trained_parameters"] < made.report["parameters"] / 4
    before = load_file(rooms / "models/backbones/vit/weights.safetensors")
    after = {k.removeprefix("backbone.net."): v for k, v in load(made.contents["weights.safetensors"]).items()}
    changed = {k for k, v in before.items() if not np.array_equal(v, after[k])}
    linear = {k for k in before if k.startswith("layers") and k.endswith("weight") and "norm" not in k}
    assert changed == (linear if method == "lora" else set())
    assert set(after) - set(before) == {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias", "temperature"}


def test_batch_norms_rest_where_nothing_is_trained(rooms: Path) -> None:
    made = tuned(rooms, "classify", "resnet", method="head")
    before = load_file(rooms / "models/backbones/resnet/weights.safetensors")
    after = load(made.contents["weights.safetensors"])
    assert all(np.array_equal(v, after[f"backbone.net.{k}"]) for k, v in before.items())
    with pytest.raises(UserError, match="lora needs linear maps"):
        tuned(rooms, "classify", "resnet", method="lora")


@pytest.mark.parametrize("objective", ["classify", "locate"])
def test_equal_input_gives_equal_bytes(rooms: Path, objective: str) -> None:
    made = [tuned(rooms, objective, "resnet") for _ in range(2)]
    assert made[0].contents == made[1].contents
    assert made[0].config == made[1].config
    assert tuned(rooms, objective, "resnet", seed=1).contents != made[0].contents


def test_a_stopped_training_goes_on_as_if_it_had_not_been(rooms: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import os
    import signal

    def run(stop: bool) -> tuning.Tuned:
        after = tuning.Tuning.after

        def told(self: Any, step: int) -> None:
            after(self, step)
            if stop and step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning.Tuning, "after", told)
            root = Paths(tmp_path)
            return finetune("toy", toy.task("classify"), rooms / "data/joined/label",
                            rooms / "models/backbones/resnet", None, root)  # fmt: skip

    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    whole = run(False)
    whole.forget()
    with pytest.raises(Interrupted):
        run(True)
    again = run(False)
    assert again.curve[0]["step"] == 0
    assert again.contents == whole.contents
    assert again.curve[1:] == whole.curve[1:]  # the first row has no training loss yet


def test_parts_are_changed_as_the_whole_is(rooms: Path) -> None:
    from pipelines.models.image.augment import Augment

    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[4.0, 6, 20, 22]]]).expand(8, 1, 4)
    change = Augment("locate", 32)
    whole, moved = change(pixels, seed=3, part=0, parts=1, whole=8, boxes=boxes)
    assert not torch.equal(whole, pixels)
    for part in range(2):
        mine, places = change(pixels[part::2], seed=3, part=part, parts=2, whole=8, boxes=boxes[part::2])
        torch.testing.assert_close(mine, whole[part::2])
        torch.testing.assert_close(places, moved[part::2])
    bright = torch.zeros(8, 3, 32, 32)
    bright[:, :, 6:22, 4:20] = 1.0
    seen, there = change(bright, seed=5, part=0, parts=1, whole=8, boxes=boxes)
    for picture, box in zip(seen, there[:, 0], strict=True):  # the box goes where what is in it goes
        light = picture.mean(0).numpy()
        ys, xs = np.where(light > (light.max() + light.min()) / 2)
        np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], box.clamp(0, 32), atol=1.6)


def test_parts_of_a_locator_s_batch_are_those_of_the_whole(rooms: Path) -> None:
    data = Pictures.open(rooms / "data/joined/boxes")
    lessons = tuning.Lessons.of(toy.task("locate"), data, piece=data.size // 2)
    whole, parts = lessons.draw(3, 0, 1), [lessons.draw(3, part, 2) for part in range(2)]
    assert whole["values"].shape[1:] == (data.size // 2, data.size // 2, 3)
    for name in ("values", "boxes", "classes"):
        for part, made in enumerate(parts):
            assert torch.equal(made[name], whole[name][part::2])
    assert not torch.equal(whole["values"], lessons.draw(4, 0, 1)["values"])
    assert all(batch["values"].shape[1] == data.size for batch in lessons.held()), "judged by whole pictures"


def test_few_labels_scratch_and_going_on(rooms: Path, tmp_path: Path) -> None:
    data = Pictures.open(rooms / "data/joined/label")
    rows = data.few(data.rows("train"), 10, 0)
    assert np.bincount(data.classes[rows]).tolist() == [5, 5]
    assert not np.array_equal(rows, data.few(data.rows("train"), 10, 1))
    few = finetune("toy", toy.task("classify", scratch=True, labels=10).model_copy(update={"backbone": "resnet"}),
                   rooms / "data/joined/label", None, None, Paths(rooms))  # fmt: skip
    assert (few.report["pictures"], few.config["backbone"]["sha256"]) == (10, "scratch")
    with pytest.raises(UserError, match="only 48 may be learnt from"):
        data.few(data.rows("train"), 49, 0)
    made = tuned(rooms, "classify", "vit", steps=20, learning_rate=3e-3)
    on = tuned(rooms, "classify", None, bundle(tmp_path / "b", made), steps=1, learning_rate=1e-9)
    assert on.report["validation"]["loss_untrained"] == pytest.approx(made.report["validation"]["loss"], rel=1e-4)
    (tmp_path / "b/config.json").write_bytes(files.to_json({**made.config, "names": ["red", "blue"]}))
    with pytest.raises(UserError, match="its names is"):
        tuned(rooms, "classify", None, tmp_path / "b")


def test_latest_of_dated_pictures_and_turns(tmp_path: Path) -> None:
    data = Pictures.open(toy.folder(tmp_path / "d", "label", 40, dated=True))
    assert data.few(data.rows("train"), 0.25, 0).tolist() == list(range(18, 24))
    assert data.until() == "2026-01-02T00:00:00"
    rows = np.arange(5)
    places = np.concatenate([shuffled(rows, 0, i, 3) for i in range(0, 15, 3)])
    assert all(sorted(places[i : i + 5]) == [0, 1, 2, 3, 4] for i in (0, 5, 10))
    assert not np.array_equal(places[:5], places[5:10])


def test_where_it_looked(rooms: Path, tmp_path: Path) -> None:
    from pipelines.models.image import explain

    for objective, kind in (("classify", "label"), ("locate", "boxes")):
        made = tuned(rooms, objective, "resnet")
        data = Pictures.open(rooms / "data/joined" / kind)
        png = explain.explain(bundle(tmp_path / objective, made), data.pixels[0])
        assert png.startswith(b"\x89PNG")
        told = explain.attribution(models.load(tmp_path / objective), data.pixels[0])
        assert told.shape == (32, 32)
        assert np.abs(told).max() > 0
